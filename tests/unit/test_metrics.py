"""Histograms."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from agent.metrics import Histogram, RollingHistogram, summed


@given(st.lists(st.integers(0, 10**12), min_size=1), st.sampled_from([0.5, 0.95, 0.99, 1.0]))
def test_a_quantile_is_at_most_two_percent_above_the_true_one(durations: list[int], quantile: float) -> None:
    """Never below the true quantile, except by rounding to a nanosecond."""
    histogram = Histogram()
    for duration in durations:
        histogram.record(duration)
    true = sorted(durations)[math.ceil(quantile * len(durations)) - 1]
    assert true - 1 <= histogram.quantile_ns(quantile) <= max(true * 1.02 + 1, 1_000)


def test_an_empty_histogram_has_no_figures() -> None:
    """None, not 0: nothing was measured."""
    assert Histogram().summary_ms() == {"p50": None, "p95": None, "p99": None, "max": None}


@given(
    st.lists(st.lists(st.integers(0, 10**9), max_size=8), min_size=1, max_size=5),
    st.booleans(),
)
def test_what_rolls_tells_of_late_and_of_all(periods: list[list[int]], recent: bool) -> None:
    """Of late is the period that runs and the one before it; a figure that was taken does not change any more."""
    rolling, plain = RollingHistogram(), Histogram()
    for number, durations in enumerate(periods):
        if number:
            rolling.turn()
        for duration in durations:
            rolling.current.record(duration)
    for durations in periods[-2:] if recent else periods:
        for duration in durations:
            plain.record(duration)
    parts = rolling.parts(recent=recent)
    rolling.current.record(10**12)
    assert summed(parts).summary_ms() == plain.summary_ms()
    assert summed(parts).total_ns == plain.total_ns
