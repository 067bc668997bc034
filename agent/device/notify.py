"""Tells the service manager how the agent is: the protocol of sd_notify(3), which is one datagram a message.

Own lines instead of python-systemd, which is no wheel and needs libsystemd's headers to build.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

NS_PER_US = 1_000


class ServiceManager:
    """The one that started us, where it said that it wants to hear of us. Any thread.

    The variables stay in the environment, so that a run which replaces this one in place (`handover`) finds them:
    its process id is the same.

    Args:
        environ: holds NOTIFY_SOCKET (a path, or `@name` in the abstract namespace) and WATCHDOG_USEC.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.is_there = self._address.startswith(("/", "\0"))
        """Whether anybody listens."""
        is_ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        usec = environ.get("WATCHDOG_USEC", "")
        self.watchdog_ns = int(usec) * NS_PER_US if self.is_there and is_ours and usec.isdigit() else None
        """We are ended when we say nothing for so long; None where nobody watches."""

    def tell(self, **values: str | int) -> bool:
        """Send `NAME=value` lines; return whether they went. Never blocks, never raises."""
        if not self.is_there:
            return False
        text = "\n".join(f"{name}={value}" for name, value in values.items())
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as out:
                out.sendto(text.encode(), self._address)
        except OSError:  # Its queue is full, or it is just being replaced: the next message says the same.
            return False
        return True

    def extend(self, time_ns: int) -> None:
        """Ask for patience for so long from now, in the start and in the stop."""
        self.tell(EXTEND_TIMEOUT_USEC=time_ns // NS_PER_US)

    def reloading(self, now_ns: int) -> None:
        """Say that settings are read again; `READY=1` ends it. `now_ns` is CLOCK_MONOTONIC's."""
        self.tell(RELOADING=1, MONOTONIC_USEC=now_ns // NS_PER_US)
