"""The outbox and the delivery book."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agent.core.outbox import Drop, Message, Outbox


def message(deadline_ns: int = 100, **changes: Any) -> Message:
    """Build a result."""
    values: dict[str, Any] = {"kind": "result", "topic": "results/a", "body": {}, "captured_at_ns": 0}
    return Message(**values | {"deadline_ns": deadline_ns} | changes)


def test_live_goes_before_backlog_and_backlog_is_marked() -> None:
    """After an outage the fresh result goes first; the old one follows as a replay."""
    outbox = Outbox(10)
    outbox.put(message(deadline_ns=100))
    outbox.put(message(deadline_ns=900))
    first, second = outbox.take(500), outbox.take(500)
    assert first is not None
    assert second is not None
    assert (first[0].seq, first[1]) == (2, False)
    assert (second[0].seq, second[1]) == (1, True)


def test_the_oldest_is_dropped_when_full() -> None:
    """The newest is what a reader wants; each drop is counted."""
    outbox = Outbox(3)
    for _ in range(5):
        outbox.put(message(deadline_ns=10_000))
    taken = [outbox.take(0) for _ in range(3)]
    assert [item[0].seq for item in taken if item] == [3, 4, 5]
    assert outbox.snapshot()["dropped"]["queue_full"] == 2


def test_unacknowledged_messages_go_again_marked_and_with_the_same_number() -> None:
    """What a lost connection had in flight may arrive twice, with one seq."""
    outbox = Outbox(10)
    outbox.put(message(deadline_ns=10_000))
    taken = outbox.take(0)
    assert taken is not None
    outbox.handed_over("token", taken[0], replay=False)
    outbox.connection_lost()
    again = outbox.take(0)
    assert again is not None
    assert (again[0].seq, again[1]) == (taken[0].seq, True)
    assert outbox.settle("token", accepted=True) is None


def test_a_newer_state_replaces_an_older_one() -> None:
    """Health does not pile up while the broker is away."""
    outbox = Outbox(10)
    for number in range(3):
        outbox.put(message(kind="health", topic="health", retain=True, body={"n": number}))
    taken = outbox.take(10**9)
    assert taken is not None
    assert taken[0].body == {"n": 2}
    assert outbox.take(10**9) is None
    assert outbox.snapshot()["dropped"]["replaced"] == 2


def test_a_refused_message_is_dropped_with_its_cause() -> None:
    """A PUBACK of 128 or above is no delivery."""
    outbox = Outbox(10)
    outbox.put(message())
    taken = outbox.take(0)
    assert taken is not None
    outbox.handed_over(1, taken[0], replay=False)
    outbox.settle(1, accepted=False)
    assert outbox.snapshot()["dropped"]["refused"] == 1
    assert outbox.acknowledged == 0


class OutboxMachine(RuleBasedStateMachine):
    """Any order of calls keeps the book exact and the memory bounded."""

    def __init__(self) -> None:
        super().__init__()
        self.outbox = Outbox(5)
        self.now_ns = 0
        self.tokens: list[int] = []
        self.next_token = 0

    @rule(lifetime=st.integers(0, 20), retain=st.booleans())
    def put(self, lifetime: int, retain: bool) -> None:
        topic = "health" if retain else "results/a"
        self.outbox.put(message(deadline_ns=self.now_ns + lifetime, retain=retain, topic=topic))

    @rule(step=st.integers(0, 10), fate=st.sampled_from(["acknowledged later", "delivered", "oversize", "not sent"]))
    def take(self, step: int, fate: str) -> None:
        self.now_ns += step
        if len(self.tokens) >= 3:
            return  # The sink has no room: its in-flight limit.
        taken = self.outbox.take(self.now_ns)
        if taken is None:
            return
        item, replay = taken
        assert replay or item.retain or self.now_ns <= item.deadline_ns
        if fate == "acknowledged later":
            self.next_token += 1
            self.tokens.append(self.next_token)
            self.outbox.handed_over(self.next_token, item, replay=replay)
        elif fate == "delivered":
            self.outbox.delivered(replay=replay)
        elif fate == "oversize":
            self.outbox.drop(Drop.OVERSIZE)
        else:
            self.outbox.give_back(item)

    @rule(accepted=st.booleans())
    def settle(self, accepted: bool) -> None:
        if self.tokens:
            self.outbox.settle(self.tokens.pop(0), accepted=accepted)

    @rule()
    def lose_connection(self) -> None:
        self.outbox.connection_lost()
        self.tokens.clear()

    @rule()
    def close(self) -> None:
        self.outbox.close()
        self.tokens.clear()

    @invariant()
    def book_is_exact(self) -> None:
        assert self.outbox.is_exact()
        # Its capacity, one more while all of it is in flight, and states: one waiting, the rest in flight.
        assert self.outbox.queued + self.outbox.in_flight <= 5 + 1 + 1 + 3


TestOutbox = OutboxMachine.TestCase
