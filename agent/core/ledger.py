"""Every captured frame ends in exactly one counted outcome."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum


class Outcome(StrEnum):
    """How a frame's life ended. The strings are the product's: metrics, health and docs use them."""

    PUBLISHED = "published"
    """Its result was handed to egress before its deadline."""
    LATE = "late"
    """It finished after its deadline; published, marked late, only where the stream asks for that."""
    SUPERSEDED = "superseded"
    """A newer frame took its slot."""
    QUEUE_FULL = "queue_full"
    """It was the oldest in a bounded queue that overflowed."""
    EXPIRED = "expired"
    """Its deadline passed while it waited."""
    UNREACHABLE = "unreachable"
    """Admission foresaw that it would miss its deadline."""
    ABORTED = "aborted"
    """Its inference was stopped at the deadline."""
    UNCHANGED = "unchanged"
    """Its result was in time and said nothing new, on a stream that sends only news."""
    SKIPPED = "skipped"
    """max_fps, stride or a gate left it out on purpose."""
    FAILED = "failed"
    """A stage raised; the stage is counted beside the ledger."""
    SHUTDOWN = "shutdown"
    """The agent stopped first."""


class Ledger:
    """The book of one stream: captured = the sum of all outcomes + in flight.

    In-flight frames are held by sequence number, not computed from the totals, so that the equation can
    fail and a lost or twice-settled frame shows. Bounded by what can be in flight: one being captured, the
    stream's queue, one in inference. Not thread-safe: its owner holds a lock.
    """

    def __init__(self) -> None:
        self.captured = 0
        self.violations = 0
        """Frames settled twice or never opened. It must stay 0."""
        self._outcomes = dict.fromkeys(Outcome, 0)
        self._open: dict[int, int] = {}

    def open(self, captured_at_ns: int) -> int:
        """Count one captured frame and return its sequence number, from 1."""
        self.captured += 1
        self._open[self.captured] = captured_at_ns
        return self.captured

    def settle(self, sequence: int, outcome: Outcome) -> None:
        """Record a frame's one outcome. A second one is counted as a violation and changes nothing else."""
        if self._open.pop(sequence, None) is None:
            self.violations += 1
        else:
            self._outcomes[outcome] += 1

    def settle_all(self, outcome: Outcome, but: Collection[int] = ()) -> None:
        """Give every open frame the same outcome: at shutdown, when no thread works on them any more.

        Args:
            outcome: of each.
            but: frames that nobody has; they stay open, so that the last summary tells of them.
        """
        for sequence in self._open.keys() - set(but):
            self.settle(sequence, outcome)

    def count(self, outcome: Outcome) -> int:
        """Return how many frames ended so."""
        return self._outcomes[outcome]

    @property
    def in_flight(self) -> int:
        """Frames that have no outcome yet."""
        return len(self._open)

    def lost(self, owned: Collection[int]) -> set[int]:
        """Return the frames without an outcome that nobody has. It should be empty."""
        return self._open.keys() - set(owned)

    def forgotten(self, now_ns: int, limit_ns: int) -> set[int]:
        """Return the frames that have waited for their outcome for more than `limit_ns`. It should be empty."""
        return {number for number, captured_at_ns in self._open.items() if now_ns - captured_at_ns > limit_ns}

    def is_exact(self) -> bool:
        """Return whether the book adds up."""
        return not self.violations and self.captured == sum(self._outcomes.values()) + len(self._open)

    def snapshot(self) -> dict[str, int]:
        """Return every figure under its public name; `captured` is the sum of the others."""
        counts = {str(outcome): count for outcome, count in self._outcomes.items()}
        return {"captured": self.captured, **counts, "in_flight": len(self._open)}
