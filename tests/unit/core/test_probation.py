"""What a change may cost, and how that is seen."""

from __future__ import annotations

from typing import Any

import pytest

from agent.clock import NS_PER_S
from agent.core.probation import Before, Bounds, Failed, Passed, Probation, Readings, StreamReading

BOUNDS = Bounds(duration_ns=20 * NS_PER_S, on_time_loss_max=0.1)


def look(captured: int = 0, missed: int = 0, **more: Any) -> Readings:
    """Return a look at a device with one stream, `door`."""
    stream = StreamReading(captured, captured - missed, missed, is_open=more.pop("is_open", True))
    return Readings({"door": stream}, **more)


def watch(looks: list[Readings], *, before: float | None = 1.0, first: Readings | None = None) -> tuple[Any, int]:
    """Return the outcome of a probation with a look a second, and the second it came in."""
    probation = Probation(
        BOUNDS,
        on_time={} if before is None else {"door": before},
        must_deliver=frozenset({"door"}),
        readings=first or look(),
        now_ns=0,
    )
    for second, readings in enumerate(looks, 1):
        outcome = probation.update(readings, second * NS_PER_S)
        if outcome is not None:
            return outcome, second
    raise AssertionError("it never ends")


def test_a_change_that_costs_nothing_passes_at_the_end() -> None:
    """Not before."""
    outcome, second = watch([look(10 * n) for n in range(1, 30)])
    assert isinstance(outcome, Passed)
    assert second == 20


@pytest.mark.parametrize(("missed", "fails"), [(0.05, False), (0.15, True), (1.0, True)])
def test_frames_that_end_too_late(missed: float, fails: bool) -> None:
    """The share may fall by the bound; a worse one is seen after a quarter of the time."""
    outcome, second = watch([look(100 * n, int(missed * 100 * n)) for n in range(1, 30)])
    assert isinstance(outcome, Failed) is fails
    if fails:
        assert (outcome.check, outcome.figures["before"], second) == ("on_time", 1.0, 5)


def test_what_was_bad_before_is_no_fault_of_the_change() -> None:
    """It is compared, not judged."""
    outcome, _ = watch([look(100 * n, 60 * n) for n in range(1, 30)], before=0.45)
    assert isinstance(outcome, Passed)


def test_without_a_share_before_something_must_end_in_time() -> None:
    """A device that has just started knows no share."""
    assert isinstance(watch([look(10 * n, 9 * n) for n in range(1, 30)], before=None)[0], Passed)
    outcome, _ = watch([look(10 * n, 10 * n) for n in range(1, 30)], before=None)
    assert isinstance(outcome, Failed)
    assert outcome.check == "on_time"


def test_a_stream_that_is_silent_for_half_of_the_time() -> None:
    """From the last frame on, wherever in the probation that is."""
    outcome, second = watch([look(10 * min(n, 4)) for n in range(1, 30)])
    assert isinstance(outcome, Failed)
    assert (outcome.check, outcome.figures["stream"], second) == ("streams", "door", 14)


def test_a_source_that_ends_without_a_frame_fails_and_one_that_played_its_file_does_not() -> None:
    """A finite file may end during the probation."""
    outcome, second = watch([look(0, is_open=False)] * 30)
    assert isinstance(outcome, Failed)
    assert (outcome.check, second) == ("streams", 1)
    assert isinstance(watch([look(30, is_open=n < 3) for n in range(1, 30)])[0], Passed)


def test_memory_counts_when_it_was_inside_before() -> None:
    """Above the limit already is not the change's doing."""
    over = [look(10 * n, memory_ratio=1.1) for n in range(1, 30)]
    outcome, second = watch(over)
    assert isinstance(outcome, Failed)
    assert (outcome.check, second) == ("memory", 1)
    assert isinstance(watch(over, first=look(memory_ratio=1.05))[0], Passed)


def test_a_broker_that_is_away() -> None:
    """A short outage is forgiven, half of the time or the end is not."""
    short = [look(10 * n, is_connected=not 3 <= n <= 8) for n in range(1, 30)]
    assert isinstance(watch(short)[0], Passed)
    for first, at in ((3, 12), (15, 20)):
        outcome, second = watch([look(10 * n, is_connected=n < first) for n in range(1, 30)])
        assert isinstance(outcome, Failed)
        assert (outcome.check, second) == ("broker", at)


def test_a_ledger_that_begins_anew_is_taken_from_its_beginning() -> None:
    """A stream may have been taken away and brought back."""
    outcome, _ = watch([look(10 * n, 10 * n) for n in range(1, 30)], first=look(5000))
    assert isinstance(outcome, Failed)


def test_the_share_before_needs_frames_and_outlives_a_change() -> None:
    """Too few say nothing; right after a change the share of before stands in."""
    before = Before()
    assert (before.on_time(), before.alive()) == ({}, frozenset())
    before.add(look(100))
    before.add(look(104))
    assert before.on_time() == {}
    assert before.alive() == {"door"}
    before.add(look(200, 20))
    assert before.on_time() == {"door": 0.8}
    before.clear()
    assert before.on_time() == {"door": 0.8}
    before.add(look(200, 20))
    assert before.on_time() == {"door": 0.8}
    assert before.alive() == frozenset()
