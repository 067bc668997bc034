"""Figures that are cheap to record and bounded in memory for months."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

_GROWTH = 1.02
_FIRST_NS = 1_000
_BUCKETS = 1_050
"""1.02 ** 1049 * 1 us = 1,050 s: everything from one microsecond to a quarter of an hour."""
_LOG_GROWTH = math.log(_GROWTH)
_BATCH = 256
"""Durations that are put into their buckets together, 40 us, 10 kB while they wait: one by one they cost 2 us each,
five times a frame."""
_QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


class _Sorted(NamedTuple):
    """Durations that are in their buckets. Never changed: others may hold it."""

    counts: npt.NDArray[np.int64]
    total_ns: int
    max_ns: int

    def with_more(self, durations_ns: list[int]) -> _Sorted:
        """Return these and others together."""
        if not durations_ns:
            return self
        more = np.array(durations_ns)
        buckets = np.ceil(np.log(np.maximum(more, _FIRST_NS) / _FIRST_NS) / _LOG_GROWTH).astype(np.int64)
        counts = self.counts + np.bincount(np.minimum(buckets, _BUCKETS - 1), minlength=_BUCKETS)
        return _Sorted(counts, self.total_ns + int(more.sum()), max(self.max_ns, int(more.max())))


_NOTHING = _Sorted(np.zeros(_BUCKETS, np.int64), 0, 0)


class Histogram:
    """Durations in buckets that grow by 2%, so that a quantile is at most 2% above the true one.

    One writer at a time; anybody may read meanwhile. 1,050 integers and some `_BATCH` durations at most. The bucket
    layout follows HdrHistogram's idea of a fixed relative error.
    """

    def __init__(self) -> None:
        self._state: tuple[_Sorted, list[int]] = (_NOTHING, [])  # Replaced as one, so that no reader sees half.

    def record(self, duration_ns: int) -> None:
        """Add one duration."""
        new = self._state[1]
        new.append(duration_ns)
        if len(new) >= _BATCH:
            self._state = (self._sorted(), [])

    def extend(self, durations_ns: list[int]) -> None:
        """Add several."""
        new = self._state[1]
        new += durations_ns
        if len(new) >= _BATCH:
            self._state = (self._sorted(), [])

    def copy(self) -> Histogram:
        """Return what is recorded so far, 0.5 us: to be looked at without the writer's lock."""
        copied = Histogram.__new__(Histogram)
        known, new = self._state
        copied._state = (known, new.copy())
        return copied

    def settle(self) -> None:
        """Put everything into its bucket, so that nobody has to do so again. Only when nobody writes any more."""
        self._state = (self._sorted(), [])

    def plus(self, other: Histogram) -> Histogram:
        """Return both together."""
        one, two = self._sorted(), other._sorted()
        both = Histogram.__new__(Histogram)
        counts = one.counts + two.counts
        both._state = (_Sorted(counts, one.total_ns + two.total_ns, max(one.max_ns, two.max_ns)), [])
        return both

    @property
    def count(self) -> int:
        """Durations recorded."""
        known, new = self._state
        return int(known.counts.sum()) + len(new)

    @property
    def total_ns(self) -> int:
        """Their sum."""
        known, new = self._state
        return known.total_ns + sum(new)

    @property
    def max_ns(self) -> int:
        """The longest; 0 when empty."""
        known, new = self._state
        return max((known.max_ns, *new))

    def quantile_ns(self, quantile: float) -> int:
        """Return the upper edge of the bucket that holds the quantile (0 < quantile <= 1); 0 when empty."""
        return self.quantiles_ns([quantile])[0]

    def quantiles_ns(self, quantiles: Sequence[float]) -> list[int]:
        """Return several."""
        known = self._sorted()
        seen = np.cumsum(known.counts)
        ranks = [math.ceil(quantile * int(seen[-1])) for quantile in quantiles]
        edges_ns = [int(_FIRST_NS * _GROWTH ** int(bucket)) for bucket in np.searchsorted(seen, ranks)]
        return [min(known.max_ns, edge_ns) for edge_ns in edges_ns]

    def summary_ms(self) -> dict[str, float | None]:
        """Return p50, p95, p99 and max in milliseconds; None for each when nothing was recorded."""
        if not self.count:
            return {**dict.fromkeys(_QUANTILES), "max": None}
        values = self.quantiles_ns(list(_QUANTILES.values()))
        figures = {name: round(value / 1e6, 3) for name, value in zip(_QUANTILES, values, strict=True)}
        return {**figures, "max": round(self.max_ns / 1e6, 3)}

    def _sorted(self) -> _Sorted:
        known, new = self._state
        return known.with_more(new)


class RollingHistogram:
    """Durations of late beside those since the start: three histograms, of which one is written to.

    One lock of the caller's around every method; what `parts` returns needs none.
    """

    def __init__(self) -> None:
        self._past: Histogram | None = None
        self._before: Histogram | None = None
        self.current = Histogram()
        """What is written to."""

    def turn(self) -> None:
        """Begin a new period, 5 us: what was recorded before the last one is no longer recent."""
        if self._before is not None:
            self._past = self._before if self._past is None else self._past.plus(self._before)
        self._before, self.current = self.current, Histogram()

    def parts(self, *, recent: bool) -> tuple[Histogram, ...]:
        """Return what `summed` makes the figures of: of this period and the one before, or of all, 1 us."""
        kept = (self._before,) if recent else (self._before, self._past)
        return (self.current.copy(), *(part for part in kept if part is not None))


def summed(parts: Sequence[Histogram]) -> Histogram:
    """Return the parts of a `RollingHistogram` together, 50 us; no lock is needed."""
    for part in parts:
        part.settle()
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.plus(part)
    return whole
