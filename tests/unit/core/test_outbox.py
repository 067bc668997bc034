"""The outbox and the delivery book."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agent.core.message import KEPT_KINDS
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


def test_what_goes_to_disk_leaves_memory_when_it_is_old_and_stays_while_it_is_fresh() -> None:
    """A row is no second copy in the sum, and a fresh message keeps its chance to be sent as such."""
    outbox = Outbox(10)
    old, fresh = outbox.put(message(deadline_ns=100)), outbox.put(message(deadline_ns=900))
    outbox.take(500)  # The fresh one is handed over; the old one has become backlog.
    assert outbox.unwritten() == [old, fresh]
    outbox.written([(old, 1), (fresh, 2)])
    assert (outbox.queued, outbox.in_flight, outbox.disk.spooled) == (0, 1, 1)
    assert outbox.is_exact()


def test_a_message_that_was_settled_while_it_was_written_is_deleted_again() -> None:
    """The disk is written without the lock: what was dropped meanwhile must not come back."""
    outbox = Outbox(1)
    first = outbox.put(message(deadline_ns=10_000))
    outbox.unwritten()
    outbox.put(message(deadline_ns=10_000))
    outbox.written([(first, 7)])
    assert outbox.disk.deletions("result") == [7]
    assert outbox.disk.spooled == 0
    assert outbox.is_exact()


def test_a_full_memory_leaves_what_is_on_disk_to_the_disk() -> None:
    """That is no drop."""
    outbox = Outbox(1)
    first = outbox.put(message(deadline_ns=10_000))
    outbox.written([(first, 1)])
    outbox.put(message(deadline_ns=10_000))
    assert outbox.snapshot()["dropped"]["queue_full"] == 0
    assert outbox.disk.spooled == 1


def test_events_outlive_results() -> None:
    """What is given up first is what is worth least: log lines, then results, then events."""
    outbox = Outbox(3)
    for kind in ("event", "result", "log", "event", "event", "event"):
        outbox.put(message(kind=kind, deadline_ns=10_000))
    classes = outbox.snapshot()["classes"]
    assert [classes[kind]["queued"] for kind in ("event", "result", "log")] == [3, 0, 0]
    assert classes["event"]["dropped"] == {"queue_full": 1}


def test_log_lines_have_a_limit_of_their_own() -> None:
    """A flood of them pushes nothing else out."""
    outbox = Outbox(2000)
    for _ in range(150):
        outbox.put(message(kind="log", qos=0))
    assert outbox.queued == 100
    assert outbox.snapshot()["classes"]["log"]["dropped"] == {"queue_full": 50}


def test_what_is_being_handed_over_is_in_flight() -> None:
    """Health reads the book from another thread at any moment, and it must add up then too."""
    outbox = Outbox(5)
    outbox.put(message())
    outbox.take(0)
    assert outbox.in_flight == 1
    assert outbox.is_exact()


class OutboxMachine(RuleBasedStateMachine):
    """Any order of calls, with a disk that takes, gives and loses, keeps the book exact and the memory bounded."""

    def __init__(self) -> None:
        super().__init__()
        self.outbox = Outbox(5)
        self.now_ns = 0
        self.tokens: list[int] = []
        self.next_token = 0
        self.rows: dict[str, dict[int, Message]] = {kind: {} for kind in KEPT_KINDS}
        self.next_row = 0

    @rule(lifetime=st.integers(0, 20), kind=st.sampled_from(["result", "event", "log", "health"]))
    def put(self, lifetime: int, kind: str) -> None:
        topic = "health" if kind == "health" else "results/a"
        retain = kind == "health"
        self.outbox.put(
            message(deadline_ns=self.now_ns + lifetime, kind=kind, retain=retain, topic=topic, qos=1 - retain)
        )

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
        elif fate == "delivered" and not self.outbox.disk.has(item):
            self.outbox.delivered(replay=replay, kind=item.kind)
        elif fate == "not sent":
            self.outbox.give_back(item)
        else:
            self.outbox.drop(item, Drop.OVERSIZE)

    @rule(accepted=st.booleans())
    def settle(self, accepted: bool) -> None:
        if self.tokens:
            self.outbox.settle(self.tokens.pop(0), accepted=accepted)

    @rule()
    def lose_connection(self) -> None:
        self.outbox.connection_lost()
        self.tokens.clear()

    @rule(puts_between=st.integers(0, 7))
    def spill(self, puts_between: int) -> None:
        written = []
        for item in self.outbox.unwritten():
            self.next_row += 1
            self.rows[item.kind][self.next_row] = item
            written.append((item, self.next_row))
        for _ in range(puts_between):  # Another thread's, while the disk is busy.
            self.put(5, "result")
        self.outbox.written(written)

    @rule(kind=st.sampled_from(KEPT_KINDS), limit=st.integers(1, 4))
    def load(self, kind: str, limit: int) -> None:
        busy = self.outbox.disk.busy_rows(kind)
        after = self.outbox.disk.after(kind)
        stored = [(row, item) for row, item in sorted(self.rows[kind].items()) if row > after][:limit]
        self.outbox.loaded([(item, row) for row, item in stored if row not in busy])
        self.outbox.disk.has_read(kind, stored[-1][0] if stored else 0)

    @rule(kind=st.sampled_from(KEPT_KINDS))
    def delete(self, kind: str) -> None:
        rows = self.outbox.disk.deletions(kind)
        for row in rows:
            del self.rows[kind][row]
        self.outbox.disk.deleted(kind, rows)

    @rule(kind=st.sampled_from(KEPT_KINDS))
    def give_up_oldest(self, kind: str) -> None:
        busy = self.outbox.disk.busy_rows(kind)
        rows = [row for row in sorted(self.rows[kind]) if row not in busy][:2]
        for row in rows:
            del self.rows[kind][row]
        self.outbox.given_up_on_disk(kind, len(rows), Drop.SPOOL_FULL)

    @rule()
    def lose_the_disk(self) -> None:
        self.outbox.disk_lost()
        for rows in self.rows.values():
            rows.clear()

    @rule()
    def close(self) -> None:
        self.outbox.close()
        self.tokens.clear()
        assert self.outbox.queued == self.outbox.in_flight == 0

    @invariant()
    def book_is_exact(self) -> None:
        assert self.outbox.is_exact()
        book = self.outbox.snapshot()
        settled = book["acknowledged"] + sum(book["dropped"].values())
        assert book["emitted"] == settled + book["queued"] + book["in_flight"] + book["spooled"]
        # Its capacity, one more while all of it is in flight, states (one waiting, the rest in flight), and what a
        # test loaded beyond it: the spooler reads only while little waits.
        assert self.outbox.queued + self.outbox.in_flight <= 5 + 1 + 1 + 3 + self.outbox.backlog

    @invariant()
    def the_disk_holds_what_the_index_says(self) -> None:
        for kind in KEPT_KINDS:
            pending = len(self.outbox.disk.deletions(kind))
            assert len(self.rows[kind]) == self.outbox.disk.rows[kind] + pending


TestOutbox = OutboxMachine.TestCase
