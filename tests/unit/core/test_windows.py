"""Windows of a signal: none is lost, none is repeated, each is as old as its last sample."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from agent.clock import NS_PER_S
from agent.core.resampling import Resampler
from agent.core.windows import Window, Windower, WindowPolicy
from agent.frame import Block, Samples

RATE_HZ = 50
PERIOD_NS = NS_PER_S // RATE_HZ


def counting(first: int, count: int, channels: int = 1) -> Samples:
    """Samples whose value is their number, from 1."""
    return np.repeat(np.arange(first, first + count, dtype=np.float32)[:, None] + 1, channels, axis=1)


def policy(length: int, hop: int, context: int = 0, channels: int = 1, fill: int = 0) -> WindowPolicy:
    return WindowPolicy(RATE_HZ, channels, length, hop, context, gap_ns=PERIOD_NS // 2, fill_samples=fill)


def feed(windower: Windower, sizes: list[int], *, first: int = 0, at_ns: int = 0) -> list[Window]:
    """Push consecutive counted samples in blocks of these sizes; sample k is taken at `at_ns` + k periods."""
    windows: list[Window] = []
    for size in sizes:
        last = first + size - 1
        windows += windower.push(Block(at_ns + last * PERIOD_NS, counting(first, size)))
        first += size
    return windows


@given(
    length=st.integers(1, 20),
    hop_share=st.floats(0, 1),
    context=st.integers(0, 20),
    sizes=st.lists(st.integers(1, 30), max_size=20),
)
def test_windows_do_not_depend_on_the_blocks(length: int, hop_share: float, context: int, sizes: list[int]) -> None:
    """Window k holds the samples from k hops on, behind what came before them, and is stamped as its last sample."""
    hop = max(1, round(length * hop_share))
    windows = feed(Windower(policy(length, hop, context)), sizes)
    total = sum(sizes)
    assert len(windows) == max(0, (total - length) // hop + 1)
    padded = np.concatenate([np.zeros(context), np.arange(1, total + 1)])
    for index, window in enumerate(windows):
        np.testing.assert_array_equal(window.samples[:, 0], padded[index * hop : index * hop + context + length])
        assert window.captured_at_ns == (index * hop + length - 1) * PERIOD_NS
        assert window.follows


@given(before=st.integers(1, 30), missing=st.integers(1, 50))
def test_a_gap_starts_anew(before: int, missing: int) -> None:
    """No window holds samples from both sides of a gap, and the first one after it says so."""
    windower = Windower(policy(length=5, hop=2, context=3))
    feed(windower, [before])
    first = before + missing
    windows = feed(windower, [20], first=first)
    assert windower.gaps == 1
    assert not windows[0].follows
    assert all(window.follows for window in windows[1:])
    np.testing.assert_array_equal(windows[0].samples[:, 0], [0, 0, 0, *range(first + 1, first + 6)])


@given(missing=st.integers(1, 8))
def test_a_short_gap_is_bridged(missing: int) -> None:
    """A straight line stays one: the counted samples look as if none had been lost."""
    windower = Windower(policy(length=5, hop=5, fill=4))
    windows = feed(windower, [5]) + feed(windower, [15], first=5 + missing)
    is_bridged = missing <= 4
    assert windower.filled == (missing if is_bridged else 0)
    assert windower.gaps == (not is_bridged)
    if is_bridged:
        whole = feed(Windower(policy(length=5, hop=5)), [20 + missing])
        for window, wanted in zip(windows, whole, strict=True):
            np.testing.assert_allclose(window.samples, wanted.samples, rtol=1e-6)
            assert window.captured_at_ns == wanted.captured_at_ns


def test_the_senders_clock_tells_gaps_where_arrival_jitters() -> None:
    """Blocks that arrive in a bunch are no gap; a jump of the sender's clock is one."""
    windower = Windower(policy(length=2, hop=2))
    late_ns = 10 * NS_PER_S
    windower.push(Block(0, counting(0, 1), time_ns=0))
    (window,) = windower.push(Block(late_ns, counting(1, 1), time_ns=PERIOD_NS))
    assert window.captured_at_ns == late_ns
    windower.push(Block(late_ns, counting(2, 1), time_ns=5 * PERIOD_NS))
    assert windower.gaps == 1


def test_a_bunch_that_arrives_faster_than_it_was_made_is_no_gap() -> None:
    """A pipe gives two seconds at once, again and again; only a clock of the sender's own can go back."""
    windower = Windower(policy(length=50, hop=50))
    for number in range(4):
        windower.push(Block(number, counting(100 * number, 100)))
    assert windower.gaps == 0
    windower.push(Block(5, counting(0, 1), time_ns=10 * NS_PER_S))
    windower.push(Block(6, counting(0, 1), time_ns=0))
    assert windower.gaps == 2


def test_a_loss_that_the_source_knows_of_is_a_gap() -> None:
    """An overrun of a sound card does not show in any stamp."""
    windower = Windower(policy(length=2, hop=2))
    feed(windower, [1])
    assert not windower.push(Block(PERIOD_NS, counting(1, 1), follows=False))
    (window,) = feed(windower, [1], first=2)
    assert not window.follows
    np.testing.assert_array_equal(window.samples[:, 0], [2, 3])


def test_a_window_belongs_to_its_receiver() -> None:
    """Later samples never write into it, nor does it keep the block alive."""
    windower = Windower(policy(length=4, hop=1))
    (window,) = feed(windower, [4])
    kept = window.samples.copy()
    feed(windower, [10], first=4)
    np.testing.assert_array_equal(window.samples, kept)


def tone(rate_hz: int, frequency_hz: float, seconds: float) -> Samples:
    return np.sin(2 * np.pi * frequency_hz * np.arange(int(rate_hz * seconds)) / rate_hz).astype(np.float32)[:, None]


def resampled(resampler: Resampler, samples: Samples, size: int) -> Samples:
    return np.concatenate([resampler.push(samples[at : at + size])[0] for at in range(0, len(samples), size)])


@given(
    rates=st.sampled_from([(48_000, 16_000), (44_100, 16_000), (8_000, 16_000), (100, 50), (52, 50), (50, 50)]),
    size=st.integers(10, 997),
)
def test_a_tone_is_the_same_tone_at_another_rate(rates: tuple[int, int], size: int) -> None:
    """In blocks of any size, within 0.1%, and with the right count; the edges are silence that fades in."""
    from_hz, to_hz = rates
    frequency_hz = min(rates) / 10
    seconds = 4000 / max(rates)
    outputs = resampled(Resampler(from_hz, to_hz, 1), tone(from_hz, frequency_hz, seconds), size)
    wanted = tone(to_hz, frequency_hz, seconds)
    edge = 40
    assert len(wanted) - edge < len(outputs) <= len(wanted) + 1
    middle = slice(edge, len(outputs) - edge)
    np.testing.assert_allclose(outputs[middle], wanted[middle], atol=1e-3)


def test_what_the_lower_rate_cannot_hold_does_not_fold_back() -> None:
    """9 kHz at 48 kHz would be 7 kHz at 16 kHz: it is gone instead, by 60 dB."""
    outputs = resampled(Resampler(48_000, 16_000, 1), tone(48_000, 9_000, 0.2), 480)
    assert np.abs(outputs[100:-100]).max() < 1e-3


def test_the_lag_tells_when_the_last_output_was_taken() -> None:
    """Of 48,000 to 16,000 Hz the last output stands a filter's half before the last input."""
    resampler = Resampler(48_000, 16_000, 2)
    outputs, lag = resampler.push(np.zeros((4800, 2), np.float32))
    assert outputs.shape[1] == 2
    last_output_at = (len(outputs) - 1) * 3
    assert lag == 4799 - last_output_at
