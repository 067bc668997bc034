"""What waits to be sent, in which order, and the book of what became of it."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable, Iterable, Iterator
from typing import Any

from agent.core.delivery_book import DeliveryBook
from agent.core.disk_index import DiskIndex
from agent.core.message import KEPT_KINDS, KINDS, SEND_ORDER, Drop, Message

__all__ = ["Drop", "Message", "Outbox"]


class Outbox:
    """Live messages first, then the backlog; both bounded together, the oldest dropped first.

    A message is *live* until its deadline, then *backlog*: it is still delivered, because it was accepted,
    but never as fresh and never before a fresh one. What waits longer also goes to disk (`loops.spooler`); `disk`
    knows which messages have a row there. Emitted = acknowledged + carried + dropped by cause + queued + in
    flight + spooled; `is_exact` checks it against what is really held.

    Not thread-safe: `loops.egress` owns the lock.

    Args:
        capacity: messages held in memory, queued and in flight together. At about 1 kB each, the default of 2,000
            (`mqtt.queue_messages`) is 2 MB.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._live: dict[str, deque[Message]] = {kind: deque() for kind in SEND_ORDER}
        self._backlog: dict[str, deque[Message]] = {kind: deque() for kind in SEND_ORDER}
        self._states: dict[str, Message] = {}
        self._sent: dict[Hashable, Message] = {}
        self._taken: Message | None = None
        self.disk = DiskIndex()
        self.book = DeliveryBook()
        self.has_unwritten_event = False
        """Whether a message that must be on disk before it is sent has come since `unwritten` was called."""
        self._next_seq = 1
        self._spare = 0
        """So many messages fit for sure: what is held is counted once in so many, not with each."""

    def put(self, message: Message) -> Message:
        """Accept a message, number it, and make room by dropping the oldest. Return it as accepted.

        One that was carried over from another run keeps its boot and number: receivers tell duplicates by them.
        """
        policy = KINDS[message.kind]
        if not message.boot:
            message.seq = self._next_seq
            self._next_seq += 1
        self.book.emitted[message.kind] += 1
        if message.retain:
            if (older := self._states.pop(message.topic, None)) is not None:
                self.book.drop(older.kind, Drop.REPLACED)
            self._states[message.topic] = message
            self._spare -= 1
            return message
        if policy.waiting_max is not None and len(self._live[message.kind]) >= policy.waiting_max:
            self._live[message.kind].popleft()
            self.book.drop(message.kind, Drop.QUEUE_FULL)
        if self._spare <= 0:
            # More than one may have to go: what was loaded from disk came on top.
            while self.is_full and self._drop_oldest():
                pass
            self._spare = self._capacity - self.queued - len(self._sent)
        self._spare -= 1
        self._live[message.kind].append(message)
        self.has_unwritten_event |= policy.is_written_ahead
        return message

    def take(self, now_ns: int, *, replays: bool = True) -> tuple[Message, bool] | None:
        """Return the next message and whether it is a replay; None when nothing may go.

        The caller owes it a `handed_over`, `delivered`, `give_back` or `drop`.

        Args:
            now_ns: judges the deadlines.
            replays: whether old messages may go too.
        """
        taken = self._next(now_ns, replays=replays)
        self._taken = None if taken is None else taken[0]
        return taken

    def handed_over(self, token: Hashable, message: Message, *, replay: bool) -> None:
        """Note that the sink has the message and will acknowledge `token`."""
        self._taken = None
        self._sent[token] = message
        self.book.replayed[message.kind] += replay

    def delivered(self, *, replay: bool, kind: str = "result") -> None:
        """Note that the sink took a message for which no acknowledgement follows (QoS 0, standard output)."""
        self._taken = None
        self.book.acknowledged[kind] += 1
        self.book.replayed[kind] += replay

    def give_back(self, message: Message) -> None:
        """Take back a message that the sink could not send; it goes first when the sink can again."""
        self._taken = None
        if message.retain:
            if message.topic in self._states:
                self.book.drop(message.kind, Drop.REPLACED)
            else:
                self._states[message.topic] = message
        elif not self.disk.release(message):
            self._backlog[message.kind].appendleft(message)

    def settle(self, token: Hashable, *, accepted: bool) -> Message | None:
        """Book the broker's answer; return its message, None when the token is unknown."""
        message = self._sent.pop(token, None)
        if message is None:
            return None
        self.disk.forget(message)
        if accepted:
            self.book.acknowledged[message.kind] += 1
        else:
            self.book.drop(message.kind, Drop.REFUSED)
        return message

    def drop(self, message: Message, cause: Drop) -> None:
        """Book a taken message that will not be sent."""
        self._taken = None
        self.disk.forget(message)
        self.book.drop(message.kind, cause)

    def connection_lost(self) -> None:
        """Take back what was sent and not acknowledged: it goes again, before the older backlog's rest."""
        unacknowledged = list(self._sent.values())
        self._sent.clear()
        for message in reversed(unacknowledged):
            self.give_back(message)

    def expire(self, now_ns: int) -> None:
        """Turn what has passed its deadline into backlog, also while nothing can be sent."""
        for kind, waiting in self._live.items():
            fresh = deque(message for message in waiting if now_ns <= message.deadline_ns)
            if len(fresh) == len(waiting):
                continue
            for message in waiting:
                if now_ns > message.deadline_ns:
                    self._grow_old(message)
            self._live[kind] = fresh

    def unwritten(self) -> list[Message]:
        """Return what is held in memory alone although its kind is kept, in the order of acceptance."""
        self.has_unwritten_event = False
        held = [message for message in self._held() if KINDS[message.kind].is_kept and not self.disk.has(message)]
        return sorted(held, key=lambda message: message.seq)

    def written(self, messages: Iterable[tuple[Message, int]]) -> None:
        """Note the rows that messages got on disk; old ones leave the memory, fresh ones stay to be sent as such.

        A message that was settled or dropped meanwhile is not owed any more: its row is deleted again.
        """
        held = {message.identity for message in self._held()}
        for message, row in messages:
            self.disk.add(message, row, is_held=message.identity in held)
        for kind in KEPT_KINDS:
            backlog = self._backlog[kind]
            self._backlog[kind] = deque(message for message in backlog if not self.disk.release(message))

    def loaded(self, messages: Iterable[tuple[Message, int]]) -> None:
        """Take messages from disk into memory again, to be sent as replays."""
        for message, row in messages:
            self.disk.hold(message, row)
            self._backlog[message.kind].append(message)
            self._spare -= 1

    def recovered(self, counts: Counter[str]) -> None:
        """Take over what an earlier run left on disk."""
        self.book.emitted.update(counts)
        self.book.recovered.update(counts)
        self.disk.rows.update(counts)

    def given_up_on_disk(self, kind: str, count: int, cause: Drop) -> None:
        """Book messages that were deleted on disk unsent, none of them held in memory."""
        self.disk.rows[kind] -= count
        self.book.drop(kind, cause, count)

    def disk_lost(self) -> None:
        """Book what was on disk alone as lost; what memory holds goes on, without a row."""
        for kind in KEPT_KINDS:
            self.book.drop(kind, Drop.SPOOL_LOST, self.disk.spooled_of(kind))
        self.disk.clear()

    def carry_over(self) -> list[Message]:
        """Hand what memory alone holds to the run that replaces this one; it is counted as `carried`."""
        held = []
        for message in self._leave():
            if KINDS[message.kind].is_carried:
                held.append(message)
            else:
                self.book.drop(message.kind, Drop.SHUTDOWN)
        self.book.carried.update(message.kind for message in held)
        return held

    def close(self) -> None:
        """Give up everything that memory alone holds; what is on disk waits for the next run."""
        for message in self._leave():
            self.book.drop(message.kind, Drop.SHUTDOWN)

    def _leave(self) -> list[Message]:
        """Empty the memory and return what it alone held."""
        held = [message for message in list(self._held()) if not self.disk.release(message)]
        for waiting in (*self._live.values(), *self._backlog.values()):
            waiting.clear()
        self._states.clear()
        self._sent.clear()
        self._taken = None
        return held

    @property
    def acknowledged(self) -> int:
        """Messages that arrived."""
        return self.book.acknowledged.total()

    @property
    def queued(self) -> int:
        """Messages that wait in memory."""
        waiting = sum(map(len, self._live.values())) + sum(map(len, self._backlog.values()))
        return waiting + len(self._states)

    @property
    def backlog(self) -> int:
        """Old messages that wait in memory."""
        return sum(map(len, self._backlog.values()))

    @property
    def in_flight(self) -> int:
        """Messages that the sink has and has not acknowledged, with the one that egress is handing over."""
        return len(self._sent) + (self._taken is not None)

    @property
    def is_full(self) -> bool:
        """Whether one more would push out the oldest."""
        return self.queued + len(self._sent) >= self._capacity

    def is_exact(self) -> bool:
        """Return whether the book adds up, for each kind."""
        return all(
            self.book.emitted[kind] == self.book.settled_of(kind) + sum(self._open_of(kind).values())
            for kind in KINDS
        )

    def snapshot(self) -> dict[str, Any]:
        """Return every figure under its public name; emitted is the sum of the others but `replayed`, `recovered`."""
        return {
            **self.book.totals(),
            "queued": self.queued,
            "in_flight": self.in_flight,
            "spooled": self.disk.spooled,
            "classes": {kind: {**self.book.of_kind(kind), **self._open_of(kind)} for kind in SEND_ORDER},
        }

    def _next(self, now_ns: int, *, replays: bool) -> tuple[Message, bool] | None:
        if self._states:
            return self._states.pop(next(iter(self._states))), False
        for waiting in self._live.values():
            while waiting:
                message = waiting.popleft()
                if now_ns <= message.deadline_ns:
                    return message, False
                self._grow_old(message)
        for waiting in self._backlog.values() if replays else ():
            if waiting:
                return waiting.popleft(), True
        return None

    def _grow_old(self, message: Message) -> None:
        if not self.disk.release(message):
            self._backlog[message.kind].append(message)

    def _held(self) -> Iterator[Message]:
        """Return every message in memory."""
        yield from self._sent.values()
        if self._taken is not None:
            yield self._taken
        for waiting in (*self._backlog.values(), *self._live.values()):
            yield from waiting
        yield from self._states.values()

    def _open_of(self, kind: str) -> dict[str, int]:
        """Return how many messages of a kind have not come to an end, by where they are."""
        queued = sum(message.kind == kind for message in self._states.values())
        taken = self._taken is not None and self._taken.kind == kind
        return {
            "queued": queued + len(self._live[kind]) + len(self._backlog[kind]),
            "in_flight": sum(message.kind == kind for message in self._sent.values()) + taken,
            "spooled": self.disk.spooled_of(kind),
        }

    def _drop_oldest(self) -> bool:
        """Take the oldest of what is given up first out of memory; return whether anything waits."""
        for kind in KINDS:
            for waiting in (self._backlog[kind], self._live[kind]):
                if waiting:
                    if not self.disk.release(message := waiting.popleft()):
                        self.book.drop(message.kind, Drop.QUEUE_FULL)
                    return True
        return False
