"""Frames that waited in a decoder or a socket are as old as they are, though they arrive now."""

from __future__ import annotations

from collections import deque

INTERVALS = 32
"""Of the newest intervals the mean is the stream's period."""
INTERVALS_MIN = 8
"""Before so many were seen nothing is known of a stream."""
PAUSE_PERIODS = 2.0
"""An interval of more periods may have filled a buffer somewhere."""
DRAINED_PERIODS = 0.8
"""A buffer that is being emptied gives frames faster than they are made; one a period is what a camera gives."""
DRAINED_IN_A_ROW = 3
"""So many frames at the camera's own pace: there is no buffer, the camera itself had paused."""


class BacklogClock:
    """Tells when a live frame was captured, from nothing but the times at which frames arrive.

    After a pause it is assumed that the frames of the pause wait somewhere: the next one follows the last by one
    period, and so do those after it, until they have caught up with the present. Where they come no faster than the
    camera makes them, nothing had waited. The wrong guess costs three frames, which count as older than they are; the
    other wrong guess would publish the past as the present.

    Not thread-safe; a new one for each opening of a source.
    """

    def __init__(self) -> None:
        self._intervals: deque[int] = deque(maxlen=INTERVALS)
        self._arrived_ns: int | None = None
        self._captured_ns = 0
        self._unhurried: list[int] = []

    def captured_at_ns(self, arrived_ns: int) -> int:
        """Return when a frame that arrives now was captured, at most `arrived_ns`."""
        before_ns, self._arrived_ns = self._arrived_ns, arrived_ns
        if before_ns is None:
            self._captured_ns = arrived_ns
            return arrived_ns
        interval_ns = arrived_ns - before_ns
        if len(self._intervals) < INTERVALS_MIN:
            self._intervals.append(interval_ns)
            self._captured_ns = arrived_ns
            return arrived_ns
        period_ns = sum(self._intervals) / len(self._intervals)
        is_behind = self._captured_ns < before_ns
        has_paused = interval_ns > PAUSE_PERIODS * period_ns
        if not is_behind and not has_paused:
            self._intervals.append(interval_ns)
            self._captured_ns = arrived_ns
            return arrived_ns
        is_calm = is_behind and interval_ns >= DRAINED_PERIODS * period_ns
        if self._unhurried and interval_ns > PAUSE_PERIODS * max(period_ns, self._unhurried[0]):
            is_calm = False  # One more pause, not the camera's new pace.
        if is_calm:
            self._unhurried.append(interval_ns)
        else:
            self._unhurried.clear()
        if len(self._unhurried) < DRAINED_IN_A_ROW:
            self._captured_ns = min(arrived_ns, self._captured_ns + round(period_ns))
            return self._captured_ns
        if min(self._unhurried) > PAUSE_PERIODS * period_ns:
            # No pause each time, but another pace, to be learnt anew.
            self._intervals.clear()
        self._captured_ns = arrived_ns
        return arrived_ns
