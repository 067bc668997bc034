"""What waits to be sent, in which order, and the book of what became of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from agent.clock import NEVER_NS


class Drop(StrEnum):
    """Why a message was given up. The strings are the product's."""

    QUEUE_FULL = "queue_full"
    """The memory queue was full; this was the oldest."""
    REFUSED = "refused"
    """The broker acknowledged it with a reason of 128 or above (not authorised, quota, ...)."""
    OVERSIZE = "oversize"
    """Larger than the broker's MaximumPacketSize: it would close the connection for ever."""
    UNENCODABLE = "unencodable"
    """Its body could not be encoded."""
    REPLACED = "replaced"
    """A newer state of the same retained topic took its place."""
    SHUTDOWN = "shutdown"
    """The agent ended before the broker acknowledged it."""


@dataclass(frozen=True, slots=True, eq=False)
class Message:
    """One message on its way to the sink.

    Attributes:
        kind: `result`, `event` or `health`; the class it is counted under.
        topic: below the device's tree, such as `results/door`.
        body: encoded by egress at the moment of sending, which adds the age to results.
        captured_at_ns: `Clock.now_ns` of the frame's capture; of creation for the other kinds.
        deadline_ns: after this it is sent marked as a replay; `NEVER_NS` for none.
        seq: counts this boot's messages, so that receivers drop duplicates by `boot` and `seq`.
        qos: 0 or 1.
        retain: it is a state: a newer one of the same topic replaces it while it waits.
        stream: whose result it is; empty for the other kinds.
        emitted_at_ns: when inference handed a result over; 0 for the other kinds.
    """

    kind: str
    topic: str
    body: Mapping[str, Any]
    captured_at_ns: int
    deadline_ns: int = NEVER_NS
    seq: int = 0
    qos: int = 1
    retain: bool = False
    stream: str = ""
    emitted_at_ns: int = 0


class Outbox:
    """Live messages first, then the backlog; both bounded together, the oldest dropped first.

    A message is *live* until its deadline, then *backlog*: it is still delivered, because it was accepted,
    but never as fresh and never before a fresh one. Emitted = acknowledged + carried + dropped by cause + queued
    + in flight; `is_exact` checks it against what is really held.

    Not thread-safe: `loops.egress` owns the lock.

    Args:
        capacity: messages held, queued and in flight together. At about 1 kB each, the default of 2,000
            (`mqtt.queue_messages`) is 2 MB.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._live: deque[Message] = deque()
        self._backlog: deque[Message] = deque()
        self._states: dict[str, Message] = {}
        self._sent: dict[Hashable, Message] = {}
        self.emitted = 0
        self.acknowledged = 0
        self.replayed = 0
        """Messages handed to the sink after their deadline, each marked so; not part of the sum."""
        self.carried = 0
        """Messages that went to the next run of the agent, which replaced this one."""
        self._dropped = dict.fromkeys(Drop, 0)
        self._next_seq = 1

    def put(self, message: Message) -> Message:
        """Accept a message, number it, and make room by dropping the oldest. Return it as accepted."""
        message = replace(message, seq=self._next_seq)
        self._next_seq += 1
        self.emitted += 1
        if message.retain:
            if message.topic in self._states:
                self._dropped[Drop.REPLACED] += 1
            self._states[message.topic] = message
            return message
        if self.queued + len(self._sent) >= self._capacity:
            self._drop_oldest()
        self._live.append(message)
        return message

    def take(self, now_ns: int) -> tuple[Message, bool] | None:
        """Return the next message and whether it is a replay; None when nothing waits.

        The caller owes it a `handed_over` or a `drop`.
        """
        if self._states:
            return self._states.pop(next(iter(self._states))), False
        while self._live:
            message = self._live.popleft()
            if now_ns <= message.deadline_ns:
                return message, False
            self._backlog.append(message)
        if self._backlog:
            return self._backlog.popleft(), True
        return None

    def handed_over(self, token: Hashable, message: Message, *, replay: bool) -> None:
        """Note that the sink has the message and will acknowledge `token`."""
        self._sent[token] = message
        self.replayed += replay

    def delivered(self, *, replay: bool) -> None:
        """Note that the sink took a message for which no acknowledgement follows (QoS 0, standard output)."""
        self.acknowledged += 1
        self.replayed += replay

    def give_back(self, message: Message) -> None:
        """Take back a message that the sink could not send; it goes first when the sink can again."""
        if message.retain:
            self._requeue_state(message)
        else:
            self._backlog.appendleft(message)

    def settle(self, token: Hashable, *, accepted: bool) -> Message | None:
        """Book the broker's answer; return its message, None when the token is unknown."""
        message = self._sent.pop(token, None)
        if message is None:
            return None
        if accepted:
            self.acknowledged += 1
        else:
            self._dropped[Drop.REFUSED] += 1
        return message

    def drop(self, cause: Drop) -> None:
        """Book a taken message that will not be sent."""
        self._dropped[cause] += 1

    def connection_lost(self) -> None:
        """Take back what was sent and not acknowledged: it goes again, before the older backlog's rest."""
        unacknowledged = list(self._sent.values())
        self._sent.clear()
        for message in reversed(unacknowledged):
            self.give_back(message)

    def _requeue_state(self, message: Message) -> None:
        if message.topic in self._states:
            self._dropped[Drop.REPLACED] += 1
        else:
            self._states[message.topic] = message

    def carry_over(self) -> list[Message]:
        """Hand everything that is still held to the next run of the agent; it is counted as `carried`."""
        held = [*self._sent.values(), *self._backlog, *self._live, *self._states.values()]
        self.carried += len(held)
        self._clear()
        return held

    def close(self) -> None:
        """Give up everything that is still held."""
        self._dropped[Drop.SHUTDOWN] += self.queued + len(self._sent)
        self._clear()

    def _clear(self) -> None:
        for held in (self._live, self._backlog, self._states, self._sent):
            held.clear()

    @property
    def queued(self) -> int:
        """Messages that wait."""
        return len(self._live) + len(self._backlog) + len(self._states)

    @property
    def in_flight(self) -> int:
        """Messages that the sink has and has not acknowledged."""
        return len(self._sent)

    @property
    def is_full(self) -> bool:
        """Whether one more would push out the oldest."""
        return self.queued + len(self._sent) >= self._capacity

    def is_exact(self) -> bool:
        """Return whether the book adds up."""
        booked = self.acknowledged + self.carried + sum(self._dropped.values())
        return self.emitted == booked + self.queued + self.in_flight

    def snapshot(self) -> dict[str, Any]:
        """Return every figure under its public name; emitted is the sum of the others but `replayed`."""
        return {
            "emitted": self.emitted,
            "acknowledged": self.acknowledged,
            "queued": self.queued,
            "in_flight": self.in_flight,
            "carried": self.carried,
            "dropped": {str(cause): count for cause, count in self._dropped.items()},
            "replayed": self.replayed,
        }

    def _drop_oldest(self) -> None:
        for waiting in (self._backlog, self._live):
            if waiting:
                waiting.popleft()
                self._dropped[Drop.QUEUE_FULL] += 1
                return
