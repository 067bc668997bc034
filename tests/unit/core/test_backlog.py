"""What waited in a buffer is old; what the camera made late is not. Simulated to the nanosecond."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.clock import NS_PER_MS
from agent.core.backlog import BacklogClock

PERIODS_MS = st.integers(10, 200)


def stamps(
    made_ms: list[float],
    freezes_ms: list[tuple[float, float]],
    read_ms: float,
    clock: BacklogClock | None = None,
) -> list[tuple[float, float, float]]:
    """Let a reader take frames, each as soon as it is there and the one before was read.

    Args:
        made_ms: when the camera makes each frame.
        freezes_ms: nothing is delivered from the first time to the second, but waits in a buffer.
        read_ms: what the reader needs for one frame.
        clock: that knows of the stream already; a new one otherwise.

    Returns:
        For each frame when it was made, when it arrived, and when it counts as captured, ms.
    """
    clock, free_ms, out = clock or BacklogClock(), 0.0, []
    for made in made_ms:
        there = next((end for begin, end in freezes_ms if begin <= made < end), made)
        arrived = max(there, free_ms)
        # The reader itself stands still as well, as a stopped process does.
        free_ms = arrived + read_ms
        captured = clock.captured_at_ns(round(arrived * NS_PER_MS)) / NS_PER_MS
        out.append((made, arrived, captured))
    return out


@given(period_ms=PERIODS_MS, frozen_periods=st.integers(3, 300), read_share=st.floats(0.01, 0.7))
def test_a_backlog_is_never_presented_as_fresh(period_ms: int, frozen_periods: int, read_share: float) -> None:
    """No frame counts as younger than it is, by more than two periods; when it is used up, all are fresh again."""
    frozen_ms = (40.5 * period_ms, (40.5 + frozen_periods) * period_ms)
    made_ms = [number * float(period_ms) for number in range(60 + 5 * frozen_periods)]
    seen = stamps(made_ms, [frozen_ms], read_share * period_ms)
    for made, _, captured in seen:
        assert captured <= made + 2 * period_ms
    made, arrived, captured = seen[-1]
    assert arrived == pytest.approx(made, abs=1e-3)
    assert captured == pytest.approx(made, abs=1e-3)


FREEZES = {
    "period_ms": PERIODS_MS,
    "frame": st.integers(0, 8),
    "frozen_periods": st.integers(3, 300),
    "read_share": st.floats(0.01, 0.7),
}


def frozen_behind(
    clock: BacklogClock, frame: int, period_ms: float, frozen_periods: int, read_share: float, start_ms: float = 0
) -> list[tuple[float, float, float]]:
    """Open a stream that freezes behind this frame, and see what its frames count as until all is long over."""
    made_ms = [start_ms + number * float(period_ms) for number in range(60 + 6 * frozen_periods)]
    begin_ms = start_ms + (frame + 0.5) * period_ms
    return stamps(made_ms, [(begin_ms, begin_ms + frozen_periods * period_ms)], read_share * period_ms, clock)


@given(**FREEZES)
def test_a_freeze_in_the_first_frames_of_a_known_stream_is_one(
    period_ms: int, frame: int, frozen_periods: int, read_share: float
) -> None:
    """Known as its settings state it, or from before it was lost: no frame is younger than it is, by two periods."""
    stated, kept = BacklogClock(period_ms * NS_PER_MS), BacklogClock()
    stamps([number * float(period_ms) for number in range(20)], [], 0.1, kept)
    kept.restart()
    for clock in (stated, kept):
        seen = frozen_behind(clock, frame, period_ms, frozen_periods, read_share, start_ms=60_000)
        assert all(captured <= made + 2 * period_ms for made, _, captured in seen)
        assert seen[-1][1] == pytest.approx(seen[-1][2], abs=1e-3)


@given(**FREEZES)
def test_a_freeze_in_the_first_frames_of_an_unknown_stream_is_one(
    period_ms: int, frame: int, frozen_periods: int, read_share: float
) -> None:
    """Nothing is known behind the first frame but that 0.2 s is long; behind the second its first interval is.

    What waited is over after four times the pause, and all is fresh again.
    """
    seen = frozen_behind(BacklogClock(), frame, period_ms, frozen_periods, read_share)
    limit_ms = max(2 * period_ms, 200 if frame == 0 else 0)
    assert all(captured <= made + limit_ms for made, _, captured in seen)
    assert seen[-1][1] == pytest.approx(seen[-1][2], abs=1e-3)


@given(**FREEZES)
def test_each_opening_may_begin_with_a_freeze(
    period_ms: int, frame: int, frozen_periods: int, read_share: float
) -> None:
    """Lost and back three times, each time frozen in its first frames."""
    clock = BacklogClock(period_ms * NS_PER_MS)
    for opening in range(3):
        seen = frozen_behind(clock, frame, period_ms, frozen_periods, read_share, start_ms=opening * 1e6)
        assert all(captured <= made + 2 * period_ms for made, _, captured in seen)
        clock.restart()


def test_a_camera_that_is_slower_than_stated_is_learnt() -> None:
    """Asked for 30 fps it gives 5, as in the dark, or one each two seconds."""
    for period_ms in (200.0, 2000.0):
        for clock in (BacklogClock(33 * NS_PER_MS), BacklogClock()):
            seen = stamps([number * period_ms for number in range(40)], [], 1, clock)
            assert all(arrived - captured < 1e-3 for _, arrived, captured in seen[5:])


@given(
    period_ms=PERIODS_MS,
    first=st.integers(3, 60),
    between=st.integers(0, 12),
    second=st.integers(3, 60),
    read_share=st.floats(0.01, 0.5),
)
def test_a_second_freeze_close_behind_the_first_is_one_too(
    period_ms: int, first: int, between: int, second: int, read_share: float
) -> None:
    """Whatever the state in which it finds us: no frame counts as younger than it is, by more than two periods."""
    ends = 40.5 + first, 40.5 + first + between + second
    freezes_ms = [(40.5 * period_ms, ends[0] * period_ms), ((ends[0] + between) * period_ms, ends[1] * period_ms)]
    made_ms = [number * float(period_ms) for number in range(60 + 5 * (first + between + second))]
    for made, _, captured in stamps(made_ms, freezes_ms, read_share * period_ms):
        assert captured <= made + 2 * period_ms


@given(period_ms=PERIODS_MS, paused_periods=st.integers(3, 300))
def test_a_camera_that_paused_is_believed_after_three_frames(period_ms: int, paused_periods: int) -> None:
    """Nothing had waited: the frames are as fresh as they look."""
    made_ms = [number * float(period_ms) for number in range(40)]
    made_ms += [made_ms[-1] + (paused_periods + number) * period_ms for number in range(20)]
    seen = stamps(made_ms, [], 1)
    assert all(arrived - captured < 1e-3 for _, arrived, captured in seen[43:])


@given(period_ms=PERIODS_MS, factor=st.floats(0.2, 5))
def test_another_frame_rate_is_learnt(period_ms: int, factor: float) -> None:
    """A camera may become slower at night and faster in the morning."""
    made_ms = [number * float(period_ms) for number in range(40)]
    made_ms += [made_ms[-1] + number * factor * period_ms for number in range(1, 400)]
    seen = stamps(made_ms, [], 0.1)
    assert all(arrived - captured <= 2 * factor * period_ms for _, arrived, captured in seen[60:])
    assert seen[-1][1] == pytest.approx(seen[-1][2], abs=1e-3)


@given(seed=st.integers(0, 10_000))
def test_jitter_costs_little(seed: int) -> None:
    """On a bad network frames come up to a period late: once a stream is known, none counts as two periods old.

    Before, with half of that jitter, none counts as three periods old, and from the ninth frame on none as two.
    """
    jitter = np.random.default_rng(seed).uniform(0, 0.8, 100)
    known = BacklogClock()
    stamps([100.0 * number for number in range(40)], [], 1, known)
    known.restart()
    seen = stamps([100 * (1000 + number + late) for number, late in enumerate(jitter.tolist())], [], 1, known)
    assert all(arrived - captured <= 200 for _, arrived, captured in seen)
    seen = stamps([100 * (number + late / 2) for number, late in enumerate(jitter.tolist())], [], 1)
    assert all(arrived - captured <= 300 for _, arrived, captured in seen)
    assert all(arrived - captured <= 200 for _, arrived, captured in seen[8:])
