"""Waiting until something recorded is due."""

from __future__ import annotations

import threading

from agent.clock import NS_PER_S, Clock

BEHIND_MAX_NS = NS_PER_S
"""A reader that is further behind goes on from now: nobody could have waited for what is older."""


class Pacer:
    """Lets a recording happen at its own speed, or as fast as it is read.

    Args:
        clock: waits and stamps.
        is_paced: False for as fast as it is read.
    """

    def __init__(self, clock: Clock, *, is_paced: bool) -> None:
        self._clock = clock
        self._is_paced = is_paced
        self._interrupted = threading.Event()
        self._start_ns: int | None = None

    @property
    def is_interrupted(self) -> bool:
        """Whether `interrupt` was called."""
        return self._interrupted.is_set()

    def restart(self) -> None:
        """Let the next wait be the beginning."""
        self._start_ns = None

    def wait(self, at_ns: int) -> tuple[int, bool]:
        """Wait until a moment of the recording is there.

        Args:
            at_ns: since the recording's beginning.

        Returns:
            The time of capture: when it was due, so that a reader that is late gets it as old as it is. And False
            where the time in between was left out.
        """
        now_ns = self._clock.now_ns()
        if not self._is_paced:
            return now_ns, True
        if self._start_ns is None:
            self._start_ns = now_ns - at_ns
        due_ns = self._start_ns + at_ns
        if due_ns < now_ns - BEHIND_MAX_NS:
            self._start_ns = now_ns - at_ns
            return now_ns, False
        if due_ns > now_ns:
            self._clock.wait(self._interrupted, due_ns - now_ns)
        return min(due_ns, self._clock.now_ns()), True

    def interrupt(self) -> None:
        """End a wait, now and for ever. Any thread."""
        self._interrupted.set()
