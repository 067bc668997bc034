"""A stand-in for systemd: the far end of NOTIFY_SOCKET."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

Message = dict[str, str]


class ServiceManager:
    """Receives what a service tells.

    Args:
        folder: for its socket.
    """

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "notify")
        self.heard: list[Message] = []
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._server.bind(self.path)

    def __enter__(self) -> ServiceManager:
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.close()

    def next(self, timeout_s: float = 30) -> Message:
        """Return the next message."""
        self._server.settimeout(timeout_s)
        message = dict(line.split("=", 1) for line in self._server.recv(4096).decode().splitlines())
        self.heard.append(message)
        return message

    def wait_for(self, is_it: Callable[[Message], bool] | str, count_max: int = 500) -> Message:
        """Return the next message that has a name, or that a function accepts."""
        for _ in range(count_max):
            message = self.next()
            if is_it in message if isinstance(is_it, str) else is_it(message):
                return message
        raise AssertionError(f"{is_it} is not among {self.heard[-10:]}")

    def rest(self) -> list[Message]:
        """Return what arrived and was not looked at."""
        messages = []
        while True:
            try:
                messages.append(self.next(timeout_s=0))
            except BlockingIOError:
                return messages
