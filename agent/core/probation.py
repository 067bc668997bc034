"""Whether a change made the device worse: what is watched, for how long, and against what."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

FRAMES_MIN = 20
"""Frames after a change that must have ended before a share of them is believed; at the end of the time 1 is enough,
or 5 where nothing is known of before."""
FRAMES_BEFORE_MIN = 10
"""Of the time before a change: a model of a second a frame has as many in a third of the window."""
FRAMES_UNKNOWN_MIN = 5
EARLIEST_SHARE = 0.25
"""Of the probation, after which a bad share is believed: what was in flight at the change ends badly, and a source
that is opened anew delivers a burst."""
SILENT_SHARE = 0.5
"""Of the probation: a stream or a broker that is silent for so long is gone."""
BEFORE_SAMPLES = 31
"""Looks, one a second, over which the share before a change is taken: 30 s."""


@dataclass(frozen=True, slots=True)
class StreamReading:
    """Counts of one stream since the agent's start.

    Attributes:
        captured: frames.
        in_time: those published.
        not_in_time: those whose time was too short, and those that failed.
        is_open: whether its source has not ended.
    """

    captured: int = 0
    in_time: int = 0
    not_in_time: int = 0
    is_open: bool = True


@dataclass(frozen=True, slots=True)
class Readings:
    """One look at the device.

    Attributes:
        streams: those that are configured to run, by name.
        memory_ratio: resident memory of its limit, None without a limit.
        is_connected: whether the broker takes messages.
    """

    streams: Mapping[str, StreamReading] = field(default_factory=dict)
    memory_ratio: float | None = None
    is_connected: bool = True


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a change may cost.

    Attributes:
        duration_ns: of the probation.
        on_time_loss_max: by how much the share of frames that end in time may fall.
    """

    duration_ns: int
    on_time_loss_max: float


@dataclass(frozen=True, slots=True)
class Failed:
    """A check that failed, with what was measured."""

    check: str
    figures: Mapping[str, Any]


class Passed:
    """The time is over and nothing failed."""


class Before:
    """How the streams do while nobody changes anything. One `add` a second."""

    def __init__(self) -> None:
        self._looks: deque[Readings] = deque(maxlen=BEFORE_SAMPLES)
        self._known: dict[str, float] = {}

    def add(self, readings: Readings) -> None:
        """Take in one look."""
        self._looks.append(readings)

    def clear(self) -> None:
        """Begin anew after a change; until there are enough frames, the shares from before it stand in."""
        self._known = self.on_time()
        self._looks.clear()

    def on_time(self) -> dict[str, float]:
        """Return the share of frames that ended in time, by stream; streams with too few frames are left out."""
        if not self._looks:
            return dict(self._known)
        first, last = self._looks[0], self._looks[-1]
        shares = {name: share for name, share in self._known.items() if name in last.streams}
        for name, now in last.streams.items():
            share, ended = share_in_time(first.streams.get(name, StreamReading()), now)
            if ended >= FRAMES_BEFORE_MIN:
                shares[name] = round(share, 4)
        return shares

    def alive(self) -> frozenset[str]:
        """Return the streams that delivered in the window."""
        if not self._looks:
            return frozenset()
        first, last = self._looks[0], self._looks[-1]
        none = StreamReading(captured=-1)
        return frozenset(n for n, now in last.streams.items() if now.captured > first.streams.get(n, none).captured)


class Probation:
    """Watches one change.

    Args:
        bounds: what it may cost.
        on_time: the shares before it; of a stream without one, some frame must end in time.
        must_deliver: streams that delivered before it, and those whose source it touches.
        readings: at its beginning.
        now_ns: the same moment.
    """

    def __init__(
        self,
        bounds: Bounds,
        *,
        on_time: Mapping[str, float],
        must_deliver: frozenset[str],
        readings: Readings,
        now_ns: int,
    ) -> None:
        self._bounds = bounds
        self._on_time = on_time
        self._must_deliver = must_deliver
        self._first = readings
        self._begun_ns = now_ns
        self._delivered_ns = dict.fromkeys(must_deliver, now_ns)
        self._captured = {name: stream.captured for name, stream in readings.streams.items()}
        self._connected_ns = now_ns
        self._was_over_limit = (readings.memory_ratio or 0.0) > 1.0

    @property
    def ends_ns(self) -> int:
        """When it is over at the latest."""
        return self._begun_ns + self._bounds.duration_ns

    def update(self, readings: Readings, now_ns: int) -> Failed | Passed | None:
        """Take in a look; return the outcome once there is one."""
        is_over = now_ns >= self.ends_ns
        failed = (
            self._check_streams(readings, now_ns, is_over=is_over)
            or self._check_on_time(readings, now_ns, is_over=is_over)
            or self._check_memory(readings)
            or self._check_broker(readings, now_ns, is_over=is_over)
        )
        return failed or (Passed() if is_over else None)

    def _check_streams(self, readings: Readings, now_ns: int, *, is_over: bool) -> Failed | None:
        limit_ns = int(self._bounds.duration_ns * SILENT_SHARE)
        for name in sorted(self._must_deliver):
            stream = readings.streams.get(name)
            if stream is None:
                continue  # Switched off meanwhile, by a newer document.
            before = self._captured.get(name, 0)
            if stream.captured != before:
                self._captured[name], self._delivered_ns[name] = stream.captured, now_ns
            frames = stream.captured - self._first.streams.get(name, StreamReading()).captured
            silent_ns = now_ns - self._delivered_ns[name]
            has_ended = not stream.is_open and frames <= 0
            is_silent = stream.is_open and (silent_ns >= limit_ns or (is_over and frames <= 0))
            if has_ended or is_silent:
                figures = {"stream": name, "silent_s": round(silent_ns / 1e9, 1), "limit_s": round(limit_ns / 1e9, 1)}
                return Failed("streams", {**figures, "frames": max(0, frames), "is_open": stream.is_open})
        return None

    def _check_on_time(self, readings: Readings, now_ns: int, *, is_over: bool) -> Failed | None:
        if now_ns - self._begun_ns < self._bounds.duration_ns * EARLIEST_SHARE:
            return None
        for name, stream in readings.streams.items():
            share, ended = share_in_time(self._first.streams.get(name, StreamReading()), stream)
            before = self._on_time.get(name)
            if before is None:
                # Nothing to compare with: all that can be said is whether anything at all ends in time.
                is_worse = share == 0.0 and ended >= (FRAMES_UNKNOWN_MIN if is_over else FRAMES_MIN)
            else:
                is_enough = ended >= (1 if is_over else FRAMES_MIN)
                is_worse = is_enough and share < before - self._bounds.on_time_loss_max
            if is_worse:
                figures = {"stream": name, "on_time": round(share, 3), "before": before, "frames": ended}
                return Failed("on_time", {**figures, "loss_max": self._bounds.on_time_loss_max})
        return None

    def _check_memory(self, readings: Readings) -> Failed | None:
        ratio = readings.memory_ratio
        if ratio is None or ratio <= 1.0 or self._was_over_limit:
            return None
        return Failed("memory", {"of_limit": round(ratio, 3)})

    def _check_broker(self, readings: Readings, now_ns: int, *, is_over: bool) -> Failed | None:
        if readings.is_connected:
            self._connected_ns = now_ns
            return None
        limit_ns = int(self._bounds.duration_ns * SILENT_SHARE)
        absent_ns = now_ns - self._connected_ns
        if absent_ns < limit_ns and not is_over:
            return None
        return Failed("broker", {"absent_s": round(absent_ns / 1e9, 1), "limit_s": round(limit_ns / 1e9, 1)})


def share_in_time(first: StreamReading, last: StreamReading) -> tuple[float, int]:
    """Return the share of frames that ended in time between two looks, and how many ended.

    A ledger that began anew in between is taken from its beginning.
    """
    in_time, not_in_time = last.in_time - first.in_time, last.not_in_time - first.not_in_time
    if in_time < 0 or not_in_time < 0:
        in_time, not_in_time = last.in_time, last.not_in_time
    ended = in_time + not_in_time
    return (in_time / ended if ended else 1.0), ended
