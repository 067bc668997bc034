"""What the service manager hears."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.clock import NS_PER_S, SystemClock
from agent.core.pulse import Pulse
from agent.device.notify import ServiceManager
from agent.loops.service import Part, ServiceLoop, patience
from tests.fakes import ManualClock


class Manager:
    """The far end of NOTIFY_SOCKET."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "notify")
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._server.bind(self.path)
        self._server.settimeout(10)

    def close(self) -> None:
        self._server.close()

    def next(self) -> dict[str, str]:
        """Return the next message."""
        return dict(line.split("=", 1) for line in self._server.recv(4096).decode().splitlines())

    def all(self) -> list[dict[str, str]]:
        """Return what arrived so far."""
        self._server.setblocking(False)
        messages = []
        while True:
            try:
                messages.append(self.next())
            except BlockingIOError:
                self._server.settimeout(10)
                return messages

    def connection(self, **more: str) -> ServiceManager:
        return ServiceManager({"NOTIFY_SOCKET": self.path, "WATCHDOG_USEC": "30000000", **more})


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path)
    yield made
    made.close()


def stream(published: int, **more: Any) -> dict[str, Any]:
    """Return a stream's figures."""
    return {
        "ledger": {"published": published},
        "is_open": True,
        "is_off": False,
        "silent_s": 0.1,
        "age_ms": {"p95": 23.4},
        **more,
    }


class Bench:
    """A service loop over a summary that tests set."""

    def __init__(self, manager: ServiceManager) -> None:
        self.clock = ManualClock()
        self.streams: dict[str, Any] = {"door": stream(0)}
        self.delivery: dict[str, Any] = {"connected": True, "queued": 0, "spooled": 0}
        self.pulse = Pulse(1, True)
        self.contacted = threading.Event()
        self.reloads = 0
        self.loop = ServiceLoop(
            manager=manager,
            parts=lambda: [Part("egress", lambda: self.pulse, 20 * NS_PER_S)],
            summary=lambda: {"streams": self.streams, "delivery": self.delivery},
            contacted=self.contacted,
            reload=self._reload,
            clock=self.clock,
        )

    def _reload(self) -> None:
        self.reloads += 1
        self.loop.reloaded()


def test_ready_comes_after_the_first_contact(manager: Manager) -> None:
    """Not before, and with a status."""
    bench = Bench(manager.connection())
    bench.clock = SystemClock()  # type: ignore[assignment]
    bench.loop._clock = bench.clock
    thread = threading.Thread(target=bench.loop.run)
    thread.start()
    assert "EXTEND_TIMEOUT_USEC" in manager.next()
    bench.contacted.set()
    assert manager.next()["READY"] == "1"
    bench.loop.stop()
    thread.join(10)
    assert not thread.is_alive()


def test_a_broker_that_does_not_answer_delays_ready_and_no_more(manager: Manager) -> None:
    """A name look-up that hangs is no reason to fail the start."""
    bench = Bench(manager.connection())
    before_ns = bench.clock.now_ns()
    thread = threading.Thread(target=bench.loop.run)
    thread.start()
    assert "EXTEND_TIMEOUT_USEC" in manager.next()
    assert manager.next()["READY"] == "1"
    assert bench.clock.now_ns() - before_ns == 20 * NS_PER_S
    bench.loop.stop()
    thread.join(10)
    assert not thread.is_alive()


def test_a_run_that_is_stopped_before_it_was_ready_never_says_so(manager: Manager) -> None:
    """READY after STOPPING would make no sense."""
    bench = Bench(manager.connection())
    bench.loop.leave("SIGTERM", NS_PER_S, is_replaced=False)
    bench.loop.run()
    assert not [message for message in manager.all() if "READY" in message]


def test_pings_stop_when_a_part_stands_still(manager: Manager, caplog: pytest.LogCaptureFixture) -> None:
    """Three looks of patience; the log names the part once; pings return with its next beat."""
    bench = Bench(manager.connection())
    for _ in range(5):
        bench.loop.look()
    pings = [message.get("WATCHDOG") for message in manager.all()]
    assert pings == ["1", "1", "1", None, None]
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR] == [
        "egress: no progress: the service manager is told nothing until there is"
    ]
    bench.pulse = Pulse(2, True)
    bench.loop.look()
    assert manager.next()["WATCHDOG"] == "1"


def test_a_lost_camera_and_a_lost_broker_are_status_and_no_missed_ping(manager: Manager) -> None:
    """They are the network's fault, which no restart mends."""
    bench = Bench(manager.connection())
    bench.streams["door"] = stream(5, silent_s=42.0)
    bench.delivery = {"connected": False, "queued": 3, "spooled": 4}
    for beat in range(10):
        bench.pulse = Pulse(beat, True)
        bench.loop.look()
    messages = manager.all()
    assert all(message["WATCHDOG"] == "1" for message in messages)
    assert messages[-1]["STATUS"] == "door: no frame for 42 s; broker away, 7 messages wait"


def test_status_tells_the_rate_since_the_last_look(manager: Manager) -> None:
    """And names three streams at most."""
    bench = Bench(manager.connection())
    bench.loop.status()
    bench.clock.ns += 10 * NS_PER_S
    bench.streams["door"] = stream(98)
    assert bench.loop.status() == "door: 9.8 fps, age 23 ms; broker connected"
    bench.streams = {str(n): stream(0, is_open=False) for n in range(5)}
    assert bench.loop.status() == "0: ended; 1: ended; 2: ended; 2 more streams; broker connected"
    bench.streams = {"door": stream(0, is_open=False, is_off=True)}
    assert bench.loop.status() == "door: off; broker connected"
    bench.streams = {}
    assert bench.loop.status() == "no stream runs; broker connected"


def test_a_reload_is_told_from_its_beginning_to_its_end(manager: Manager) -> None:
    """RELOADING with the time that notify-reload compares; READY only when it is over."""
    bench = Bench(manager.connection())
    bench.contacted.set()
    bench.loop.request_reload()
    thread = threading.Thread(target=bench.loop.run)
    thread.start()
    reloading = manager.next()
    while "RELOADING" not in reloading:
        reloading = manager.next()
    assert int(reloading["MONOTONIC_USEC"]) > 0
    assert manager.next()["READY"] == "1"
    assert bench.reloads == 1
    bench.loop.stop()
    thread.join()


def test_patience_is_asked_for_while_a_reload_loads_models(manager: Manager) -> None:
    """And no longer; pings go on meanwhile."""
    bench = Bench(manager.connection())
    bench.loop._is_reloading = True
    bench.loop.look()
    ping, patience = manager.all()
    assert ping["WATCHDOG"] == "1"
    assert int(patience["EXTEND_TIMEOUT_USEC"]) == 30_000_000


def test_without_a_service_manager_only_a_reload_wakes_it() -> None:
    """No look, no message."""
    bench = Bench(ServiceManager({}))
    bench.loop.request_reload()
    bench.loop.stop()
    bench.loop.run()
    assert bench.reloads == 1


@pytest.mark.parametrize(("is_replaced", "word"), [(False, "STOPPING"), (True, "WATCHDOG")])
def test_the_end_is_told_and_a_restart_in_place_is_none(manager: Manager, is_replaced: bool, word: str) -> None:
    """After STOPPING the service manager would kill the run that follows in the same process."""
    bench = Bench(manager.connection())
    bench.loop.leave("why", NS_PER_S, is_replaced=is_replaced)
    message = manager.next()
    assert message[word] == "1"
    assert ("STOPPING" in message) != is_replaced
    assert "why" in message["STATUS"]


def test_while_models_load_more_time_is_asked_for_up_to_a_limit(
    manager: Manager, caplog: pytest.LogCaptureFixture
) -> None:
    """A load that never ends must not ask for ever."""
    with patience(manager.connection(), ManualClock(), limit_ns=15 * NS_PER_S):
        messages = [manager.next() for _ in range(7)]
        for thread in threading.enumerate():
            if thread.name == "patience":
                thread.join(30)  # It ends by itself; the end of the block must not come first.
    assert messages[0]["STATUS"] == "loading and checking models"
    assert [m["EXTEND_TIMEOUT_USEC"] for m in messages[1::2]] == ["20000000"] * 3
    assert [m["WATCHDOG"] for m in messages[2::2]] == ["1"] * 3
    assert "no more time is asked for" in caplog.text
