"""The rate that a sender's times tell: jitter, loss and coarse clocks are no other rate; another rate is one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.clock import NS_PER_S
from agent.core.sample_rate import RateGuard, RateWatch, Verdict
from agent.frame import Block

RATES_HZ = st.sampled_from([1.0, 12.5, 50.0, 100.0, 400.0])


def blocks(times_s: object, size: int = 1) -> list[Block]:
    """Return a block for each time, which is that of its last sample."""
    samples = np.zeros((size, 1), np.float32)
    return [Block(0, samples, round(time * NS_PER_S)) for time in np.asarray(times_s).tolist()]


def steady(rate_hz: float, count: int, first_s: float = 0) -> list[Block]:
    return blocks(first_s + np.arange(count) / rate_hz)


@given(rate_hz=RATES_HZ, seed=st.integers(0, 10_000), off_and_lost=st.sampled_from([(0.4, 0), (0.05, 0.15)]))
def test_jitter_and_loss_are_no_other_rate(rate_hz: float, seed: int, off_and_lost: tuple[float, float]) -> None:
    """Each sample up to 40% of a period early or late; or 5%, and some of them missing."""
    rng = np.random.default_rng(seed)
    off, lost = off_and_lost
    times_s = (np.arange(300) + rng.uniform(-off, off, 300)) / rate_hz
    watch = RateWatch(rate_hz)
    assert all(watch.see(block) is None for block in blocks(times_s[rng.random(300) >= lost]))
    assert watch.is_right


@pytest.mark.parametrize("rate_hz", [50, 60, 300, 400, 640, 900])
def test_a_clock_of_milliseconds_is_enough(rate_hz: int) -> None:
    """400 Hz is 2 and 3 ms in turn: neither is its period."""
    watch = RateWatch(rate_hz)
    assert all(watch.see(block) is None for block in blocks(np.round(np.arange(200) * 1000 / rate_hz) / 1000))


def test_samples_that_are_stamped_in_bunches_have_their_mean_rate() -> None:
    """A sender that empties a FIFO of 8 and asks its clock for each one."""
    times_s = [bunch * 0.16 + number * 1e-4 for bunch in range(40) for number in range(8)]
    watch = RateWatch(50)
    assert all(watch.see(block) is None for block in blocks(times_s))


@given(
    rate_hz=RATES_HZ,
    factor=st.one_of(st.floats(0.05, 0.9), st.floats(1.1, 20)),
    size=st.sampled_from([1, 2, 10, 50]),
    seed=st.integers(0, 10_000),
)
def test_another_rate_is_seen_as_it_is(rate_hz: float, factor: float, size: int, seed: int) -> None:
    """Within 33 messages, to 2%, whatever their size; 10% is another rate."""
    jitter = np.random.default_rng(seed).uniform(-0.1, 0.1, 33)
    watch = RateWatch(rate_hz)
    seen = [watch.see(block) for block in blocks((np.arange(33) + jitter) * size / (rate_hz * factor), size)]
    assert seen[-1] == pytest.approx(rate_hz * factor, rel=0.02)
    assert not watch.is_right


def test_a_clock_that_starts_anew_and_a_loss_are_no_interval() -> None:
    """The time between is that of neither."""
    watch = RateWatch(50)
    for first_s in (1000, 5):
        for block in steady(50, 40, first_s):
            assert watch.see(block) is None
    assert watch.see(Block(0, np.zeros((1, 1), np.float32), 10**15, follows=False)) is None
    assert watch.is_right


def verdicts(guard: RateGuard, given: list[Block]) -> list[Verdict]:
    """Return what became of samples, each verdict once for those in a row."""
    seen = [guard.judge(block) for block in given]
    return [verdict for at, verdict in enumerate(seen) if at == 0 or verdict is not seen[at - 1]]


def test_what_never_had_the_rate_is_refused_once_that_is_sure() -> None:
    """One burst, in which a sender stamps what it had held back, is not enough."""
    guard = RateGuard(None)
    guard.begin(50)
    assert verdicts(guard, steady(25, 80)) == [Verdict.TAKEN, Verdict.LOST, Verdict.AWAITED, Verdict.REFUSED]
    guard = RateGuard(None)
    guard.begin(50)
    seen = verdicts(guard, steady(5000, 40) + steady(50, 200, first_s=1))
    assert seen == [Verdict.TAKEN, Verdict.LOST, Verdict.AWAITED, Verdict.BACK, Verdict.TAKEN]


def test_a_rate_that_changed_is_waited_for() -> None:
    """It had been right: it may be so again."""
    guard = RateGuard(None)
    guard.begin(50)
    assert verdicts(guard, steady(50, 100)) == [Verdict.TAKEN]
    assert verdicts(guard, steady(100, 500, first_s=2)) == [Verdict.TAKEN, Verdict.LOST, Verdict.AWAITED]
    assert verdicts(guard, steady(50, 100, first_s=7)) == [Verdict.AWAITED, Verdict.BACK, Verdict.TAKEN]


@given(rate_hz=st.floats(5, 500))
def test_a_rate_that_changed_is_followed_where_it_is_resampled(rate_hz: float) -> None:
    """Measured without a sample from before the change."""
    guard = RateGuard(50)
    guard.begin(50)
    verdicts(guard, steady(50, 100))
    verdicts(guard, steady(rate_hz, 200, first_s=2))
    assert guard.rate_hz == pytest.approx(rate_hz, rel=0.055)
