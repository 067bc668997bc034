"""The only module that reads a clock.

Ages and deadlines use CLOCK_BOOTTIME, not CLOCK_MONOTONIC: both ignore steps of the wall clock, but only
BOOTTIME counts the time in suspend, so that a frame captured before a suspend is old after it, as its reader
would say. Wall time appears in payloads alone, and is derived from the age at the moment of encoding: a step
of the wall clock between capture and publication moves the stamp and never the age.
"""

from __future__ import annotations

import datetime
import functools
import time
from typing import Protocol

NS_PER_S = 1_000_000_000
NS_PER_MS = 1_000_000

NEVER_NS = 2**62
"""A deadline that is never reached (146 years of uptime)."""


class Waitable(Protocol):
    """A `threading.Event`, or an `agent.wake.Wake`."""

    def wait(self, timeout: float, /) -> bool:
        """Block until it is set or so many seconds have passed."""

    def is_set(self) -> bool:
        """Return whether it is set."""


class Clock(Protocol):
    """What the loops need of time; simulations and tests bring their own."""

    def now_ns(self) -> int:
        """Return nanoseconds on a clock that never steps. Any thread."""

    def wall_ns(self) -> int:
        """Return nanoseconds since 1970 UTC. May step. Any thread."""

    def wait(self, event: Waitable, timeout_ns: int) -> bool:
        """Block until the event is set or the time has passed; return whether it is set."""


class SystemClock:
    """The clock of the device."""

    # In C as a whole, since it is read ten times a frame: a method around it cost 3 us a frame.
    now_ns = staticmethod(functools.partial(time.clock_gettime_ns, time.CLOCK_BOOTTIME))
    """See `Clock.now_ns`."""

    def wall_ns(self) -> int:
        """See `Clock.wall_ns`."""
        return time.clock_gettime_ns(time.CLOCK_REALTIME)

    def wait(self, event: Waitable, timeout_ns: int) -> bool:
        """See `Clock.wait`."""
        return event.wait(max(0, timeout_ns) / NS_PER_S)


def monotonic_ns() -> int:
    """Return CLOCK_MONOTONIC, which the service manager compares with its own (sd_notify(3))."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


def iso_utc(wall_ns: int) -> str:
    """Return `2026-01-31T12:00:00.123Z` for nanoseconds since 1970 UTC."""
    return f"{_iso_second(wall_ns // NS_PER_S)}.{wall_ns // NS_PER_MS % 1000:03}Z"


@functools.lru_cache(maxsize=64)
def _iso_second(wall_s: int) -> str:
    # Kept, because a result's stamp is of the same second as the one before: 5 us each.
    return datetime.datetime.fromtimestamp(wall_s, tz=datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S")
