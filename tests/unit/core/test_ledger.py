"""The frame ledger."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.core.ledger import Ledger, Outcome


@given(st.lists(st.one_of(st.none(), st.sampled_from(list(Outcome)))))
def test_captured_is_the_sum_of_outcomes_and_in_flight(steps: list[Outcome | None]) -> None:
    """None opens a frame, an outcome settles the oldest open one: the book adds up after each step."""
    ledger, waiting = Ledger(), []
    for step in steps:
        if step is None:
            waiting.append(ledger.open(0))
        elif waiting:
            ledger.settle(waiting.pop(0), step)
        figures = ledger.snapshot()
        assert figures.pop("captured") == sum(figures.values())
        assert ledger.in_flight == len(waiting)
        assert ledger.is_exact()


def test_a_second_outcome_is_a_violation_and_changes_no_count() -> None:
    """The self-check can fail: settling twice shows."""
    ledger = Ledger()
    sequence = ledger.open(0)
    ledger.settle(sequence, Outcome.PUBLISHED)
    ledger.settle(sequence, Outcome.LATE)
    assert ledger.violations == 1
    assert ledger.count(Outcome.LATE) == 0
    assert not ledger.is_exact()


def test_forgotten_frames_show() -> None:
    """A frame that waits for its outcome for too long is reported by its age."""
    ledger = Ledger()
    ledger.open(0)
    ledger.open(90)
    assert ledger.forgotten(100, 50) == {1}


def test_every_outcome_has_its_public_name() -> None:
    """The names are the product's contract."""
    assert list(Ledger().snapshot()) == [
        "captured",
        "published",
        "late",
        "superseded",
        "queue_full",
        "expired",
        "unreachable",
        "aborted",
        "unchanged",
        "skipped",
        "failed",
        "shutdown",
        "in_flight",
    ]
