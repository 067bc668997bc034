"""The rate gate."""

from __future__ import annotations

import random

import pytest

from agent.clock import NS_PER_S
from agent.core.rate import RateGate


def passed(rate_hz: float | None, stamps: list[int]) -> int:
    """Return how many of the frames get through."""
    gate = RateGate(rate_hz)
    return sum(gate.allows(stamp) for stamp in stamps)


@pytest.mark.parametrize(("camera_hz", "rate_hz"), [(30, 20), (30, 10), (25, 24), (60, 1), (10, 10), (5, 30)])
def test_it_gives_the_rate_asked_for(camera_hz: float, rate_hz: float) -> None:
    """Also where the camera's period is no divisor of it, and with jitter."""
    rng = random.Random(1)
    stamps = [int((index + rng.uniform(-0.1, 0.1)) * NS_PER_S / camera_hz) for index in range(int(camera_hz * 60))]
    assert passed(rate_hz, stamps) == pytest.approx(min(camera_hz, rate_hz) * 60, rel=0.03)


def test_without_a_rate_everything_passes() -> None:
    """None is no limit."""
    assert passed(None, [0, 0, 1]) == 3


def test_a_pause_is_not_made_up_for() -> None:
    """After ten silent seconds one frame passes, not a burst."""
    gate = RateGate(10)
    assert gate.allows(0)
    later = 10 * NS_PER_S
    assert [gate.allows(later + index) for index in range(3)] == [True, False, False]
