"""Which messages have a row on disk, which rows memory holds too, and which are to be deleted."""

from __future__ import annotations

from collections import Counter

from agent.core.message import KEPT_KINDS, Message


class DiskIndex:
    """The outbox's knowledge of the spool; the rows themselves are the adapter's.

    Every row that is owed is either *held* (its message is in memory or in flight too) or *spooled* (on disk alone).
    Replay walks the rows of a kind upwards from a cursor; a message that leaves memory with its row undelivered
    moves the cursor back before it.

    Bounded: one entry a message in memory, and the rows to be deleted, which stop the reading at
    `loops.spooler.DELETIONS_MAX`.
    """

    def __init__(self) -> None:
        self.rows: Counter[str] = Counter()
        """By kind: rows that are owed."""
        self._held: dict[str, dict[tuple[str, int], int]] = {kind: {} for kind in KEPT_KINDS}
        self._deletions: dict[str, set[int]] = {kind: set() for kind in KEPT_KINDS}
        self._cursors: dict[str, int] = dict.fromkeys(KEPT_KINDS, 0)

    @property
    def spooled(self) -> int:
        """Messages on disk alone."""
        return sum(map(self.spooled_of, KEPT_KINDS))

    def spooled_of(self, kind: str) -> int:
        """Messages of a kind on disk alone."""
        return self.rows[kind] - len(self._held.get(kind, ()))

    def has(self, message: Message) -> bool:
        """Return whether a message in memory has a row."""
        return message.identity in self._held.get(message.kind, ())

    def add(self, message: Message, row: int, *, is_held: bool) -> None:
        """Note a new row; that of a message which is not owed any more is deleted again."""
        if is_held:
            self.rows[message.kind] += 1
            self.hold(message, row)
        else:
            self._deletions[message.kind].add(row)

    def hold(self, message: Message, row: int) -> None:
        """Note that memory holds the message of a row."""
        self._held[message.kind][message.identity] = row

    def release(self, message: Message) -> bool:
        """Leave a message to the disk alone, to be read again; return whether it has a row there."""
        row = self._held.get(message.kind, {}).pop(message.identity, None)
        if row is None:
            return False
        self._cursors[message.kind] = min(self._cursors[message.kind], row - 1)
        return True

    def forget(self, message: Message) -> None:
        """Note that a message has come to an end: its row, if it has one, is to be deleted."""
        row = self._held.get(message.kind, {}).pop(message.identity, None)
        if row is not None:
            self.rows[message.kind] -= 1
            self._deletions[message.kind].add(row)

    def after(self, kind: str) -> int:
        """Return the row above which the next one to replay is."""
        return self._cursors[kind]

    def has_read(self, kind: str, row: int) -> None:
        """Note that everything up to a row is in memory now, or on its way out."""
        self._cursors[kind] = row

    def busy_rows(self, kind: str) -> set[int]:
        """Return the rows of a kind that must be neither read again nor given up: held, or to be deleted."""
        return set(self._held[kind].values()) | self._deletions[kind]

    def deletions(self, kind: str) -> list[int]:
        """Return the rows to be deleted."""
        return sorted(self._deletions[kind])

    def deleted(self, kind: str, rows: list[int]) -> None:
        """Note that rows are gone."""
        self._deletions[kind].difference_update(rows)

    @property
    def pending_deletions(self) -> int:
        """How many rows are to be deleted."""
        return sum(map(len, self._deletions.values()))

    def clear(self) -> None:
        """Forget every row: the file is gone."""
        self.rows.clear()
        for kind in KEPT_KINDS:
            self._held[kind].clear()
            self._deletions[kind].clear()
            self._cursors[kind] = 0
