"""What one thread waits on: a flag that any thread sets, and sockets of its own, in one call."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import weakref
from collections.abc import Iterator

READABLE = select.POLLIN
WRITABLE = select.POLLOUT
NO_DESCRIPTOR = -1
SIGNALS_MAX = 4096
"""Bytes read at a time, one for each signal; what is left ends the next wait too."""


class Wake:
    """A `threading.Event` for a single waiting thread that can watch descriptors too.

    poll(2) has no limit at descriptor 1,023, which select() has, and an eventfd costs one descriptor where a pair of
    sockets costs two and a port. `set` is for any thread; everything else is for the one that waits.
    """

    def __init__(self) -> None:
        self._doorbell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        weakref.finalize(self, os.close, self._doorbell)
        self._is_set = False
        self._bell = select.poll()
        self._bell.register(self._doorbell, READABLE)
        self._poll = select.poll()
        self._poll.register(self._doorbell, READABLE)
        self._ready: dict[int, int] = {}
        self._rest_s = 0.0
        self._signals = NO_DESCRIPTOR

    def set(self) -> None:
        """End the wait, or the next one."""
        # Only the first one rings: what follows is seen by the look that the waiting thread owes it.
        if not self._is_set:
            self._is_set = True
            os.eventfd_write(self._doorbell, 1)

    def clear(self) -> None:
        """Take the flag down, before looking for what it stood for."""
        self._is_set = False

    def is_set(self) -> bool:
        """Return whether a wait would end at once."""
        return self._is_set

    def wait(self, timeout_s: float) -> bool:
        """Block until the flag is set, a watched descriptor is ready or the time is over; return the flag."""
        left_s = 0.0 if self._is_set else max(0.0, timeout_s)
        rest_s, self._rest_s = min(self._rest_s, left_s), 0.0
        found = self._bell.poll(rest_s * 1000) if rest_s else []
        if not found:
            found = self._poll.poll((left_s - rest_s) * 1000)
        self._ready = dict(found)
        if self._ready.pop(self._doorbell, 0):
            # The bell may ring once more after `clear`, by a thread that was stopped in the middle of `set`: that
            # costs one empty round, and is why it is silenced here and not there.
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._doorbell)
        if self._ready.pop(self._signals, 0):
            os.read(self._signals, SIGNALS_MAX)
        return self._is_set

    def rest(self, time_s: float) -> None:
        """Let the next wait look at no descriptor for so long, so that what comes meanwhile costs one round together.

        The flag ends it at once.
        """
        self._rest_s = time_s

    def watch(self, descriptor: int, events: int) -> None:
        """Let `wait` end when the descriptor is ready for one of the events, or broken."""
        self._poll.register(descriptor, events)

    def forget(self, descriptor: int) -> None:
        """Watch a descriptor no more; it may be closed already."""
        self._ready.pop(descriptor, None)
        with contextlib.suppress(KeyError):
            self._poll.unregister(descriptor)

    def ready(self, descriptor: int) -> int:
        """Return the events that the last wait found, 0 for none; each is told once."""
        return self._ready.pop(descriptor, 0)

    @contextlib.contextmanager
    def ended_by_signals(self) -> Iterator[None]:
        """Let a signal that has a handler end the wait, or the next one; the waiting thread is the main one.

        Python calls a handler between two steps of the main thread. For a signal that comes after the last of them
        and before the wait, that is the end of the wait, which may be days away: only the byte that it writes, by
        `signal.set_wakeup_fd`, is there in time.

        Raises:
            ValueError: called in another thread than the main one.
        """
        near, far = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        before = signal.set_wakeup_fd(far, warn_on_full_buffer=False)  # A full pipe ends the wait as well.
        self._signals = near
        self.watch(near, READABLE)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            self.forget(near)
            self._signals = NO_DESCRIPTOR
            os.close(near)
            os.close(far)
