"""The counters of the delivery ledger, one row a kind of message."""

from __future__ import annotations

from collections import Counter
from typing import Any

from agent.core.message import KINDS, Drop


class DeliveryBook:
    """Counts what has been accepted and what has been settled; what is still held is the outbox's to tell.

    Bounded: kinds times causes, 60 integers.
    """

    def __init__(self) -> None:
        self.emitted: Counter[str] = Counter()
        """By kind: accepted in this run, or taken over from an earlier one."""
        self.recovered: Counter[str] = Counter()
        """By kind: of those, what an earlier run left on disk."""
        self.acknowledged: Counter[str] = Counter()
        self.carried: Counter[str] = Counter()
        """By kind: handed to the run that replaces this one, in memory."""
        self.replayed: Counter[str] = Counter()
        """By kind: handed to the sink after the deadline or from disk, each marked so; not part of the sum."""
        self.dropped: Counter[tuple[str, Drop]] = Counter()

    def drop(self, kind: str, cause: Drop, count: int = 1) -> None:
        """Book messages that were given up."""
        self.dropped[kind, cause] += count

    def settled(self) -> int:
        """Return how many messages have come to an end."""
        return self.acknowledged.total() + self.carried.total() + self.dropped.total()

    def settled_of(self, kind: str) -> int:
        """Return how many messages of a kind have come to an end."""
        dropped = sum(self.dropped[kind, cause] for cause in Drop)
        return self.acknowledged[kind] + self.carried[kind] + dropped

    def totals(self) -> dict[str, Any]:
        """Return the sums over all kinds under their public names."""
        return {
            "emitted": self.emitted.total(),
            "acknowledged": self.acknowledged.total(),
            "carried": self.carried.total(),
            "dropped": {str(cause): sum(self.dropped[kind, cause] for kind in KINDS) for cause in Drop},
            "replayed": self.replayed.total(),
            "recovered": self.recovered.total(),
        }

    def of_kind(self, kind: str) -> dict[str, Any]:
        """Return one kind's figures under their public names; causes that never happened are left out."""
        return {
            "emitted": self.emitted[kind],
            "acknowledged": self.acknowledged[kind],
            "carried": self.carried[kind],
            "dropped": {str(cause): self.dropped[kind, cause] for cause in Drop if self.dropped[kind, cause]},
            "replayed": self.replayed[kind],
            "recovered": self.recovered[kind],
        }
