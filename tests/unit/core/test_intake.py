"""Gates, stamps and outcomes before and after the scheduler."""

from __future__ import annotations

import numpy as np

from agent.clock import NS_PER_MS, NS_PER_S
from agent.core.intake import Intake
from agent.core.ledger import Outcome
from agent.core.policy import StreamPolicy
from agent.frame import Capture

MS = NS_PER_MS
PIXELS = np.empty((0, 0, 3), np.uint8)


def test_a_stamp_from_the_future_becomes_the_present() -> None:
    """A source with a clock of its own must not stretch its deadlines; each such frame is counted."""
    intake = Intake({"s": StreamPolicy(250 * MS)})
    frame = intake.open("s", Capture(10 * NS_PER_S, PIXELS), NS_PER_S)
    assert frame is not None
    assert (frame.captured_at_ns, frame.deadline_ns) == (NS_PER_S, NS_PER_S + 250 * MS)
    assert intake.future_stamps == {"s": 1}


def test_a_stamp_from_the_past_is_believed() -> None:
    """The frame is as old as its source says: too old here, whatever the reason."""
    intake = Intake({"s": StreamPolicy(250 * MS)})
    for captured_at_ns in (NS_PER_S, 0, -5 * NS_PER_S):
        frame = intake.open("s", Capture(captured_at_ns, PIXELS), 10 * NS_PER_S)
        assert frame is not None
        intake.queue(frame, 10 * NS_PER_S)
        assert intake.take(10 * NS_PER_S) is None
    assert intake.ledgers["s"].count(Outcome.EXPIRED) == 3
    assert intake.future_stamps == {"s": 0}


def test_stride_and_pause_leave_frames_out() -> None:
    """Every third frame, then with the ladder's factor every sixth, then none; all are counted as skipped."""
    intake = Intake({"s": StreamPolicy(250 * MS, stride=3)})

    def passed(count: int) -> int:
        return sum(intake.open("s", Capture(0, PIXELS), 0) is not None for _ in range(count))

    assert passed(12) == 4
    intake.throttle("s", factor=2, is_paused=False)
    assert passed(12) == 2
    intake.throttle("s", factor=1, is_paused=True)
    assert passed(12) == 0
    intake.throttle("s", factor=1, is_paused=False)
    assert passed(12) == 4
    assert intake.ledgers["s"].count(Outcome.SKIPPED) == 38


def test_no_step_leaves_out_frames_of_a_model_that_remembers() -> None:
    """Each would reset its state; it may be paused as a whole."""
    intake = Intake({"s": StreamPolicy(250 * MS, is_stateful=True)})
    intake.throttle("s", factor=3, is_paused=False)
    assert [intake.open("s", Capture(0, PIXELS), 0) is not None for _ in range(3)] == [True] * 3
    intake.throttle("s", factor=3, is_paused=True)
    assert intake.open("s", Capture(0, PIXELS), 0) is None


def test_the_rate_gate_counts_only_what_the_stride_let_through() -> None:
    """30 fps, every third frame, at most 5 a second: 10 a second ask, 5 pass."""
    intake = Intake({"s": StreamPolicy(250 * MS, stride=3, max_hz=5.0)})
    passed = 0
    for index in range(300):
        at_ns = index * NS_PER_S // 30
        passed += intake.open("s", Capture(at_ns, PIXELS), at_ns) is not None
    assert 49 <= passed <= 51
