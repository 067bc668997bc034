"""Opens connections in a thread of their own: a name look-up and a handshake end by themselves alone."""

from __future__ import annotations

import threading
from collections.abc import Callable

from agent.errors import TransientError
from agent.sinks.paho_client import BoundedClient, break_off
from agent.wake import Wake


class Dialer:
    """Makes one attempt at a time; all methods are the waiting thread's.

    An attempt that hangs (a resolver, a peer that drips) is given up by whoever asked, and its thread left behind
    until it ends: `is_busy` until then, so that there is never a second.

    Args:
        wake: set when an attempt has ended.
    """

    def __init__(self, wake: Wake) -> None:
        self._wake = wake
        self._lock = threading.Lock()
        self._outcome: BoundedClient | Exception | None = None
        self._is_wanted = False
        self.is_busy = False
        """Whether an attempt has not ended, wanted or not."""

    def start(self, opening: Callable[[], BoundedClient]) -> None:
        """Begin an attempt; `opening` runs in the other thread. Where memory has no room for one, it has failed."""
        self._outcome, self._is_wanted, self.is_busy = None, True, True
        try:
            threading.Thread(target=self._run, args=(opening,), name="mqtt-dial", daemon=True).start()
        except (RuntimeError, MemoryError) as error:
            self._outcome, self.is_busy = TransientError(f"no thread to connect with: {error}"), False
            self._wake.set()

    def take(self) -> BoundedClient | None:
        """Return the client once it is open, None before.

        Raises:
            Exception: what the attempt raised; TransientError where the world is to blame.
        """
        with self._lock:
            outcome, self._outcome = self._outcome, None
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def give_up(self) -> None:
        """Want the attempt no more: what it still opens is closed by its own thread."""
        with self._lock:
            outcome, self._outcome, self._is_wanted = self._outcome, None, False
        if isinstance(outcome, BoundedClient):
            break_off(outcome)

    def _run(self, opening: Callable[[], BoundedClient]) -> None:
        outcome: BoundedClient | Exception
        try:
            outcome = opening()
        except Exception as error:  # noqa: BLE001  A thread's entry: `take` raises it in the thread that asked.
            outcome = error
        with self._lock:
            is_wanted = self._is_wanted
            if is_wanted:
                self._outcome, self.is_busy = outcome, False
        if not is_wanted:
            if isinstance(outcome, BoundedClient):
                break_off(outcome)
            self.is_busy = False
        self._wake.set()
