"""Frames that waited in a decoder or a socket are as old as they are, though they arrive now."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from agent.clock import NS_PER_MS

INTERVALS = 32
"""Of the newest intervals the mean is the stream's period."""
INTERVALS_MIN = 8
"""Before so many were seen, a stream's period is only known to lie between their shortest and their longest ..."""
INTERVALS_FEW = 3
"""... and before so many, its longest may be `UNKNOWN_NS`."""
UNKNOWN_NS = 200 * NS_PER_MS
"""Of a stream of which nothing is known, an interval up to this is its pace: 5 frames a second; a longer one is a
pause until three of them say otherwise."""
SHORTEST_NS = 8 * NS_PER_MS
"""A period of which nothing is known is at least this: 120 frames a second."""
PAUSE_PERIODS = 2.0
"""An interval of more periods may have filled a buffer somewhere."""
DRAINED_PERIODS = 0.8
"""A buffer that is being emptied gives frames faster than they are made; one a period is what a camera gives."""
DRAINED_IN_A_ROW = 3
"""So many frames at the camera's own pace: there is no buffer, the camera itself had paused."""
DRAINED_PAUSES = DRAINED_PERIODS / (1 - DRAINED_PERIODS)
"""A reader that takes at most 0.8 of a period for a frame has caught up after four times the pause."""


class _Pace(NamedTuple):
    """What is known of a stream's period, ns; three times the same once it is known well."""

    shortest: float
    typical: float
    longest: float


class BacklogClock:
    """Tells when a live frame was captured, from nothing but the times at which frames arrive.

    After a pause it is assumed that the frames of the pause wait somewhere: the next one follows the last by one
    period, and so do those after it, until they have caught up with the present. Where they come no faster than the
    camera makes them, nothing had waited. The wrong guess costs three frames, which count as older than they are; the
    other wrong guess would publish the past as the present.

    In a stream's first frames the period is a guess, and the worst of it counts: the shortest for the age of what
    waited, the longest for whether frames come at the camera's pace. Where even that is unknown, after one of the
    first three intervals, a pause is over once what waited must have been read: four times its length.

    Not thread-safe; one for each source, which keeps what it learnt over its openings.

    Args:
        period_ns: as stated, from one frame to the next; None where nobody says. Frames that come say more.
    """

    def __init__(self, period_ns: float | None = None) -> None:
        self._intervals: deque[float] = deque(maxlen=INTERVALS)
        self._is_known = period_ns is not None
        if period_ns is not None:
            self._intervals.append(period_ns)
        self._newest: deque[float] = deque(maxlen=INTERVALS_MIN)
        """Intervals of frames that came while others waited, or seemed to."""
        self._arrived_ns: int | None = None
        self._captured_ns = 0
        self._caught_up_ns = 0
        self._unhurried: list[float] = []

    def restart(self) -> None:
        """Begin with a source that was opened anew: the time without it is no interval. Its pace is kept."""
        self._arrived_ns = None
        self._unhurried.clear()

    def captured_at_ns(self, arrived_ns: int) -> int:
        """Return when a frame that arrives now was captured, at most `arrived_ns`."""
        before_ns, self._arrived_ns = self._arrived_ns, arrived_ns
        if before_ns is None:
            self._captured_ns = arrived_ns
            return arrived_ns
        interval_ns = arrived_ns - before_ns
        pace = self._pace()
        is_behind = self._captured_ns < before_ns
        # A guessed period may be too short; what came since the pause says more.
        typical_ns = pace.typical if self._is_known or not is_behind else max(pace.typical, *self._newest, 0)
        has_paused = interval_ns > PAUSE_PERIODS * typical_ns
        if not is_behind and not has_paused:
            self._learn(interval_ns)
            self._captured_ns = arrived_ns
            return arrived_ns
        if has_paused:
            since_ns = max(before_ns, self._caught_up_ns) if is_behind else before_ns
            self._caught_up_ns = since_ns + interval_ns + round(DRAINED_PAUSES * interval_ns)
            self._newest.clear()
        else:
            self._newest.append(interval_ns)
        is_calm = is_behind and (has_paused or interval_ns >= DRAINED_PERIODS * pace.longest)
        if self._unhurried and interval_ns > PAUSE_PERIODS * max(pace.typical, self._unhurried[0]):
            is_calm = False  # One more pause, not the camera's new pace.
        if is_calm:
            self._unhurried.append(interval_ns)
        else:
            self._unhurried.clear()
        if len(self._unhurried) >= DRAINED_IN_A_ROW:
            if min(self._unhurried) > PAUSE_PERIODS * pace.typical:
                # No pause each time, but another pace, to be learnt anew.
                self._relearn(self._unhurried)
            self._captured_ns = arrived_ns
        elif not self._is_known and not has_paused and arrived_ns > self._caught_up_ns:
            self._relearn(self._newest)
            self._captured_ns = arrived_ns
        else:
            self._captured_ns = min(arrived_ns, self._captured_ns + round(pace.shortest))
        return self._captured_ns

    def _pace(self) -> _Pace:
        if self._is_known:
            mean = sum(self._intervals) / len(self._intervals)
            return _Pace(mean, mean, mean)
        if not self._intervals:
            return _Pace(SHORTEST_NS, UNKNOWN_NS / PAUSE_PERIODS, UNKNOWN_NS)
        known = sorted(self._intervals)
        longest = known[-1] if len(known) >= INTERVALS_FEW else max(known[-1], UNKNOWN_NS)
        return _Pace(known[0], known[len(known) // 2], longest)

    def _learn(self, interval_ns: float) -> None:
        self._intervals.append(interval_ns)
        self._is_known = self._is_known or len(self._intervals) >= INTERVALS_MIN

    def _relearn(self, intervals: Iterable[float]) -> None:
        self._is_known = False
        learnt = list(intervals)
        self._intervals.clear()
        for interval_ns in learnt:
            self._learn(interval_ns)
        self._unhurried.clear()
