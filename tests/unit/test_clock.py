"""The device's clock."""

from __future__ import annotations

import time
from typing import Any

from agent.clock import SystemClock


def test_ages_count_the_time_in_suspend() -> None:
    """CLOCK_BOOTTIME, whatever the others say: a frame from before a suspend is old after it."""
    before_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    now_ns = SystemClock().now_ns()
    assert before_ns <= now_ns <= time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def test_the_clock_of_ages_is_asked_for_by_its_number() -> None:
    """Where the device was never suspended CLOCK_MONOTONIC says the same: so the call itself is looked at."""
    call: Any = SystemClock.now_ns
    assert (call.func, call.args) == (time.clock_gettime_ns, (time.CLOCK_BOOTTIME,))
