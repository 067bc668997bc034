"""Figures that are cheap to record and bounded in memory for months."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

_GROWTH = 1.02
_FIRST_NS = 1_000
_BUCKETS = 1_050
"""1.02 ** 1049 * 1 us = 1,050 s: everything from one microsecond to a quarter of an hour."""
_LOG_GROWTH = math.log(_GROWTH)
_QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
_ceil, _log = math.ceil, math.log


class Histogram:
    """Durations in buckets that grow by 2%, so that a quantile is at most 2% above the true one.

    One writer thread at a time; 1,050 integers, allocated once. The bucket layout follows HdrHistogram's idea
    of a fixed relative error.
    """

    def __init__(self) -> None:
        self._counts = [0] * _BUCKETS
        self.count = 0
        self.total_ns = 0
        self.max_ns = 0

    def record(self, duration_ns: int) -> None:
        """Add one duration, 0.4 us: no calls but those that do arithmetic."""
        self.count += 1
        self.total_ns += duration_ns
        if duration_ns > self.max_ns:  # noqa: PLR1730  A call costs as much as the rest of this method.
            self.max_ns = duration_ns
        bucket = 0
        if duration_ns > _FIRST_NS:
            bucket = _ceil(_log(duration_ns / _FIRST_NS) / _LOG_GROWTH)
            if bucket >= _BUCKETS:
                bucket = _BUCKETS - 1
        self._counts[bucket] += 1

    def copy(self) -> Histogram:
        """Return what is recorded so far, 3 us: to be looked at without the writer's lock."""
        copied = Histogram.__new__(Histogram)
        copied._counts = self._counts.copy()
        copied.count, copied.total_ns, copied.max_ns = self.count, self.total_ns, self.max_ns
        return copied

    def plus(self, other: Histogram) -> Histogram:
        """Return both together."""
        summed = Histogram.__new__(Histogram)
        summed._counts = [one + two for one, two in zip(self._counts, other._counts, strict=True)]
        summed.count, summed.total_ns = self.count + other.count, self.total_ns + other.total_ns
        summed.max_ns = max(self.max_ns, other.max_ns)
        return summed

    def quantile_ns(self, quantile: float) -> int:
        """Return the upper edge of the bucket that holds the quantile (0 < quantile <= 1); 0 when empty."""
        return self.quantiles_ns([quantile])[0]

    def quantiles_ns(self, quantiles: Sequence[float]) -> list[int]:
        """Return several, which must rise, in one pass."""
        found: list[int] = []
        ranks = iter([math.ceil(quantile * self.count) for quantile in quantiles])
        rank = next(ranks)
        for bucket, seen in enumerate(accumulate(self._counts)):
            while seen and seen >= rank:
                found.append(min(self.max_ns, int(_FIRST_NS * _GROWTH**bucket)))
                if len(found) == len(quantiles):
                    return found
                rank = next(ranks)
        return [self.max_ns] * len(quantiles)

    def summary_ms(self) -> dict[str, float | None]:
        """Return p50, p95, p99 and max in milliseconds; None for each when nothing was recorded."""
        if not self.count:
            return {**dict.fromkeys(_QUANTILES), "max": None}
        values = self.quantiles_ns(list(_QUANTILES.values()))
        figures = {name: round(value / 1e6, 3) for name, value in zip(_QUANTILES, values, strict=True)}
        return {**figures, "max": round(self.max_ns / 1e6, 3)}


class RollingHistogram:
    """Durations of late beside those since the start: three histograms, of which one is written to.

    One lock of the caller's around every method; what `parts` returns needs none.
    """

    def __init__(self) -> None:
        self.past: tuple[Histogram, ...] = ()
        """What is not recent, none of which is written to again: one, and more until somebody calls `fold`."""
        self._before: Histogram | None = None
        self.current = Histogram()
        """What is written to."""

    def turn(self) -> None:
        """Begin a new period: what was recorded before the last one is no longer recent."""
        if self._before is not None:
            self.past = (*self.past, self._before)
        self._before, self.current = self.current, Histogram()

    def fold(self, past: tuple[Histogram, ...], whole: Histogram) -> None:
        """Keep `whole`, the sum of `past` that was taken without the lock, in its place."""
        if self.past is past:
            self.past = (whole,)

    def parts(self, *, recent: bool) -> tuple[Histogram, ...]:
        """Return what `summed` makes the figures of: of this period and the one before, or of all, 3 us."""
        current = self.current.copy()
        before = () if self._before is None else (self._before,)
        return (current, *before) if recent else (current, *before, *self.past)


def summed(parts: Sequence[Histogram]) -> Histogram:
    """Return the parts of a `RollingHistogram` together, 60 us; no lock is needed."""
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.plus(part)
    return whole
