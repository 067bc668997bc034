"""Stops inferences at their deadline: one persistent thread for all sessions."""

from __future__ import annotations

import threading

from agent.clock import NEVER_NS, NS_PER_S, Clock
from agent.interfaces import Abort


class AbortTimer:
    """Sets an `Abort` when its time has come.

    Arming costs about 3 us. The thread is only woken for a deadline earlier than the one it already waits
    for: with one stream the next deadline is always later, so a frame that ends in time wakes nobody.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._armed: dict[Abort, int] = {}
        self._lock = threading.Lock()
        # Entered as the plain lock, which costs a tenth of the condition's own methods.
        self._changed = threading.Condition(self._lock)
        self._wake_at_ns = NEVER_NS
        self._is_stopping = False

    def arm(self, abort: Abort, at_ns: int) -> None:
        """Set `abort` at that time unless it is disarmed first; `NEVER_NS` leaves it to `abort_all`. Any thread."""
        with self._lock:
            self._armed[abort] = at_ns
            if at_ns < self._wake_at_ns:
                self._changed.notify()

    def disarm(self, abort: Abort) -> None:
        """Forget an abort, whether it was set or not. Any thread."""
        with self._lock:
            self._armed.pop(abort, None)

    def abort_all(self) -> None:
        """Set everything that is armed or running now: the drain time is over. Any thread."""
        with self._lock:
            for abort in self._armed:
                abort.set()

    def run(self) -> None:
        """The thread's body; returns after `stop`."""
        with self._lock:
            while not self._is_stopping:
                now_ns = self._clock.now_ns()
                for abort in [abort for abort, at_ns in self._armed.items() if at_ns <= now_ns]:
                    abort.set()
                    del self._armed[abort]
                self._wake_at_ns = min(self._armed.values(), default=NEVER_NS)
                if self._wake_at_ns == NEVER_NS:
                    self._changed.wait()
                else:
                    self._changed.wait((self._wake_at_ns - now_ns) / NS_PER_S)

    def stop(self) -> None:
        """End the thread."""
        with self._lock:
            self._is_stopping = True
            self._changed.notify()
