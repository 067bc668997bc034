"""sd_notify against a real datagram socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.device.notify import ServiceManager


@contextmanager
def listening(address: str) -> Iterator[socket.socket]:
    """Be the service manager at an address in its kernel form."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(address)
        server.settimeout(10)
        yield server


@pytest.mark.parametrize("is_abstract", [False, True], ids=["path", "abstract"])
def test_lines_arrive_in_one_datagram(tmp_path: Path, is_abstract: bool) -> None:
    """Both kinds of address that systemd uses."""
    name = str(tmp_path / "notify")
    with listening("\0" + name if is_abstract else name) as server:
        manager = ServiceManager({"NOTIFY_SOCKET": ("@" if is_abstract else "") + name})
        assert manager.is_there
        assert manager.tell(READY=1, STATUS="door: 9.8 fps")
        assert server.recv(4096) == b"READY=1\nSTATUS=door: 9.8 fps"
        manager.extend(20_000_000_000)
        assert server.recv(4096) == b"EXTEND_TIMEOUT_USEC=20000000"
        manager.reloading(5_000)
        assert server.recv(4096) == b"RELOADING=1\nMONOTONIC_USEC=5"


def test_nobody_listens(tmp_path: Path) -> None:
    """Neither without the variable nor with an address that is gone, and nothing raises."""
    assert not ServiceManager({}).tell(READY=1)
    assert not ServiceManager({"NOTIFY_SOCKET": "vsock:2:1"}).is_there
    assert not ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "gone")}).tell(READY=1)


def test_a_full_queue_never_blocks(tmp_path: Path) -> None:
    """The manager is busy: messages are dropped, the next says the same."""
    with listening(str(tmp_path / "notify")):
        manager = ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        assert not all(manager.tell(WATCHDOG=1) for _ in range(5000))


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30_000_000_000),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30_000_000_000),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_ours_or_nobodys(more: dict[str, str], expected: int | None) -> None:
    """Another process' watchdog is not pinged (sd_watchdog_enabled(3))."""
    assert ServiceManager({"NOTIFY_SOCKET": "/run/x", **more}).watchdog_ns == expected
