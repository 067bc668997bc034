"""The capture loop: losses, returns, unusable frames, the end."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from agent.core.backoff import Backoff
from agent.core.policy import Overflow, StreamPolicy
from agent.errors import PermanentError, TransientError
from agent.frame import Capture, Frame
from agent.loops.capture import UNUSABLE_IN_A_ROW_MAX, CaptureLoop
from agent.loops.inbox import Inbox
from tests.fakes import PICTURE, ManualClock, ScriptedSource, Step


def run_loop(
    *openings: list[Step], stop_after: int | None = None, depth: int = 1
) -> tuple[Inbox, CaptureLoop, list[str], ManualClock]:
    """Play a script to its end and return what came of it."""
    clock = ManualClock()
    inbox = Inbox({"s": StreamPolicy(10**12, depth, Overflow.DROP_OLDEST)}, clock)
    source = ScriptedSource(*openings)
    events: list[str] = []

    def report(event: str, body: Mapping[str, Any]) -> None:
        events.append(event)
        if stop_after is not None and len(events) >= stop_after:
            loop.stop()

    loop = CaptureLoop("s", source, inbox, clock, report, Backoff(rng=random.Random(0)))
    loop.run()
    assert source.closed >= 1
    return inbox, loop, events, clock


def ledger_of(inbox: Inbox) -> dict[str, int]:
    """Return the stream's ledger."""
    ledger: dict[str, int] = inbox.snapshot()["s"]["ledger"]
    return ledger


def test_a_finite_source_ends_its_stream() -> None:
    """Every frame is counted; the inbox is told."""
    inbox, loop, events, _ = run_loop([Capture(1, PICTURE), Capture(2, PICTURE), None])
    assert ledger_of(inbox)["captured"] == 2
    assert loop.failure is None
    assert events == []
    assert not inbox.snapshot()["s"]["is_open"]


def test_a_lost_source_backs_off_and_returns() -> None:
    """One event for the loss, however many tries, and one for the return."""
    gone = TransientError("gone")
    inbox, _, events, clock = run_loop([Capture(1, PICTURE), gone], [gone], [gone], [Capture(2, PICTURE), None])
    assert events == ["source_lost", "source_back"]
    assert inbox.snapshot()["s"]["source_losses"] == 1
    assert ledger_of(inbox)["captured"] == 2
    assert clock.now_ns() > ManualClock().now_ns()


def test_a_source_that_is_absent_at_start_is_awaited() -> None:
    """A camera that comes later is no failure."""
    _, loop, events, _ = run_loop([TransientError("absent")], [Capture(1, PICTURE), None])
    assert events == ["source_lost", "source_back"]
    assert loop.failure is None


def test_a_source_that_can_never_work_fails_its_stream() -> None:
    """An unreadable clip is not tried for ever."""
    _, loop, events, _ = run_loop([PermanentError("is not a video")])
    assert loop.failure == "is not a video"
    assert events == ["stream_failed"]


def test_an_unusable_frame_is_counted_and_reading_goes_on() -> None:
    """Captured and failed, with the stage."""
    inbox, _, _, _ = run_loop([Capture(1, PICTURE), PermanentError("zero size"), Capture(3, PICTURE), None])
    assert ledger_of(inbox)["captured"] == 3
    assert ledger_of(inbox)["failed"] == 1
    assert inbox.snapshot()["s"]["failures"] == {"capture": 1}


def test_nothing_but_unusable_frames_is_a_loss() -> None:
    """A source that only sends rubbish is opened anew, with back-off."""
    rubbish: list[Step] = [Capture(1, PICTURE), *[PermanentError("rubbish")] * UNUSABLE_IN_A_ROW_MAX]
    inbox, _, events, _ = run_loop(rubbish, [Capture(2, PICTURE), None])
    assert events == ["source_lost", "source_back"]
    assert ledger_of(inbox)["failed"] == UNUSABLE_IN_A_ROW_MAX


def test_stop_ends_the_back_off() -> None:
    """A stream whose camera is gone stops at once."""
    _, loop, events, _ = run_loop([TransientError("gone")], stop_after=1)
    assert events == ["source_lost"]
    assert loop.failure is None


def test_the_first_frame_after_a_loss_follows_nothing() -> None:
    """A model that remembers must know; the ones after it go on."""
    returned: list[Step] = [Capture(2, PICTURE), Capture(3, PICTURE), None]
    inbox, _, _, clock = run_loop([Capture(1, PICTURE), TransientError("gone")], returned, depth=8)
    follows = []
    for _ in range(3):
        frame = inbox.take()
        assert isinstance(frame, Frame)
        follows.append(frame.follows)
        inbox.settle(frame, inbox.finish(frame, clock.now_ns()))
    assert follows == [True, False, True]
