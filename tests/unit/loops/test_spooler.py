"""Store and forward in virtual time: what goes to disk, when it comes back, and what a bad disk costs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent.clock import NEVER_NS, NS_PER_MS, NS_PER_S
from agent.core.message import Message
from agent.core.outbox import Outbox
from agent.core.spool_policy import WRITE_AFTER_NS, SpoolLimits
from agent.errors import TransientError
from agent.interfaces import Acknowledged, Packet, SpoolDamagedError
from agent.loops.egress import EgressLoop, Keeping
from agent.loops.spooler import RETRY_NS
from agent.wake import Wake
from tests.fakes import ManualClock, MemorySink, MemorySpool

PERIOD_NS = 10 * NS_PER_MS
"""Between two results of the benches: 100 a second."""


class Bench:
    """An egress loop on a memory sink and a memory spool, stepped by hand."""

    def __init__(
        self,
        spool: MemorySpool,
        sink: MemorySink | None = None,
        *,
        boot: str = "b00t",
        limits: SpoolLimits = SpoolLimits(),  # noqa: B008  Frozen.
        replay_per_s: int | None = None,
        capacity: int = 2000,
    ) -> None:
        self.clock = ManualClock()
        self.spool = spool
        self.sink = sink or MemorySink(connected=False)
        self.outbox = Outbox(capacity)
        self.live_ages_ns: list[int] = []
        self.loop = EgressLoop(
            sink=self.sink,
            outbox=self.outbox,
            clock=self.clock,
            boot=boot,
            wake=Wake(),
            record_sent=lambda _stream, age_ns, _hand_over_ns: self.live_ages_ns.append(age_ns),
            waits_for_room=False,
            keeping=Keeping(spool, limits, replay_per_s),
        )

    def emit(self, number: int = 0, deadline_ms: float = 250) -> None:
        """Emit one result captured now."""
        now_ns = self.clock.now_ns()
        deadline_ns = now_ns + int(deadline_ms * NS_PER_MS)
        self.loop.emit(Message("result", "results/s", {"n": number}, now_ns, deadline_ns, stream="s"))

    def run(self, count: int, *, first: int = 0) -> None:
        """Emit results at 100 a second, with a turn of the loop after each."""
        for number in range(first, first + count):
            self.emit(number)
            self.loop.turn()
            self.clock.ns += PERIOD_NS

    def turn(self, seconds: float = 0.0) -> None:
        """Let time pass, then look around."""
        self.clock.ns += int(seconds * NS_PER_S)
        self.loop.turn()

    def settle(self, turns: int = 50) -> None:
        """Look around until everything is acknowledged and deleted."""
        for _ in range(turns):
            self.turn(1)

    def received(self) -> list[dict[str, Any]]:
        """Return everything that was sent."""
        return [json.loads(packet.payload) for packet in self.sink.packets]

    def end(self) -> dict[str, Any]:
        """Stop as a signal does, and return the book."""
        self.loop.stop("test", self.clock.now_ns() + NS_PER_S)
        self.loop.run()
        return self.book()

    def book(self) -> dict[str, Any]:
        """Return the book after checking it."""
        book = self.loop.snapshot()
        assert book["is_exact"]
        settled = book["acknowledged"] + sum(book["dropped"].values())
        assert book["emitted"] == settled + book["queued"] + book["in_flight"] + book["spooled"]
        return book


def test_a_healthy_broker_costs_no_write() -> None:
    """RAM first: what is acknowledged in time never touches the disk."""
    bench = Bench(MemorySpool(), MemorySink())
    bench.run(500)
    bench.turn()
    assert bench.spool.writes == []
    assert bench.book()["acknowledged"] == 500


def test_what_waits_for_a_second_is_on_disk_in_batches() -> None:
    """A killed agent loses the results of one second at most, and the disk sees batches."""
    bench = Bench(MemorySpool())
    worst_ns = 0
    for number in range(1000):
        bench.run(1, first=number)
        kept = len(bench.spool.tables["result"])
        worst_ns = max(worst_ns, (number + 1 - kept) * PERIOD_NS)
    assert worst_ns <= NS_PER_S
    assert min(size for size, _ in bench.spool.writes) >= 80
    assert max(size for size, _ in bench.spool.writes) <= 100
    assert not any(durable for _, durable in bench.spool.writes)


def test_what_a_broker_never_acknowledges_goes_to_disk_too() -> None:
    """In flight is not delivered."""
    bench = Bench(MemorySpool(), MemorySink(acknowledges=False))
    bench.emit()
    bench.turn()
    bench.turn(WRITE_AFTER_NS / NS_PER_S)
    assert len(bench.spool.tables["result"]) == 1
    bench.sink.events.append(Acknowledged(1, accepted=True))
    bench.turn()
    bench.turn(1)
    assert bench.spool.tables["result"] == {}
    assert bench.book()["acknowledged"] == 1


def test_nothing_that_was_sent_waits_for_the_disk() -> None:
    """A result that is kept together with those behind it has left before a disk, which may hang, is asked."""
    bench = Bench(MemorySpool(), MemorySink(connected=False))
    bench.run(200)
    bench.turn(1)
    assert len(bench.spool.tables["result"]) == 200
    left: list[bool] = []
    read, write, send = bench.spool.read, bench.spool.write, bench.sink.send

    def look() -> None:
        left.append(bench.sink.flushed == len(bench.sink.packets))

    def spy_read(kind: str, after: int, limit: int) -> Any:
        look()
        return read(kind, after, limit)

    def spy_write(messages: Any, *, durable: bool) -> Any:
        look()
        return write(messages, durable=durable)

    def spy_send(packet: Packet) -> Any:
        if not bench.sink.packets:
            bench.loop.report("source_lost", {"stream": "s"})  # While the loop sends.
        return send(packet)

    bench.spool.read, bench.spool.write, bench.sink.send = spy_read, spy_write, spy_send  # type: ignore[method-assign]
    bench.sink.come_back()
    bench.emit()
    bench.emit()
    bench.turn()
    assert len(left) > 2
    assert all(left)


def test_an_event_is_on_disk_before_it_is_published() -> None:
    """Durably: not even a power cut between the two loses it. It is deleted once it has arrived."""
    bench = Bench(MemorySpool(), MemorySink(acknowledges=False))
    on_disk_at_send = []
    send = bench.sink.send

    def spy(packet: Any) -> Any:
        on_disk_at_send.append(len(bench.spool.tables["event"]))
        return send(packet)

    bench.sink.send = spy  # type: ignore[method-assign]
    bench.turn()
    bench.loop.report("source_lost", {"stream": "s"})
    bench.turn()
    assert on_disk_at_send == [1]
    assert bench.spool.writes == [(1, True)]
    bench.sink.events.append(Acknowledged(1, accepted=True))
    bench.turn()
    bench.turn(1)
    assert bench.spool.tables["event"] == {}


def test_after_an_outage_everything_arrives_in_order_and_the_disk_is_empty() -> None:
    """Results of 30 s without a broker: no gap, no duplicate, every one marked."""
    bench = Bench(MemorySpool())
    bench.run(3000)
    assert bench.book()["spooled"] > 2800
    bench.sink.come_back()
    bench.settle()
    numbers = [body["n"] for body in bench.received()]
    assert sorted(numbers) == list(range(3000))
    assert numbers[100:2000] == sorted(numbers[100:2000])
    assert sum(map(len, bench.spool.tables.values())) == 0
    assert bench.book()["acknowledged"] == 3000


def test_a_restart_takes_over_what_was_left_with_its_identity() -> None:
    """`boot` and `seq` are the old ones, so that a receiver that had it drops it; the age is by wall time."""
    first = Bench(MemorySpool(), boot="aaaa")
    first.run(200)
    first.loop.report("source_lost", {"stream": "s"})
    book = first.end()
    assert (book["spooled"], book["dropped"]["shutdown"]) == (201, 0)

    second = Bench(first.spool, MemorySink(), boot="bbbb")
    second.clock.ns = first.clock.ns + 60 * NS_PER_S
    second.run(1, first=1000)
    second.settle()
    bodies = second.received()
    assert bodies[0]["n"] == 1000  # Fresh before old.
    assert bodies[1]["event"] == "source_lost"  # Events before results.
    old = bodies[2:]
    assert {body["boot"] for body in old} == {"aaaa"}
    assert [body["n"] for body in old] == list(range(200))
    assert [body["seq"] for body in old] == list(range(1, 201))
    assert all(body["replay"] for body in bodies[1:])
    assert all(body["age_ms"] > 60_000 for body in old)
    book = second.book()
    assert (book["recovered"], book["emitted"], book["acknowledged"]) == (201, 202, 202)


def test_a_message_keeps_its_stamp_through_a_step_of_the_wall_clock() -> None:
    """The same id never has two contents: what lies on disk carries its time with it."""
    first = Bench(MemorySpool(), boot="aaaa")
    first.emit()
    first.turn(1)
    (kept,) = first.spool.tables["result"].values()
    first.end()
    second = Bench(first.spool, MemorySink(), boot="bbbb")
    second.clock.ns = 5 * NS_PER_S  # The device was off; its clocks start anew, earlier than the message.
    second.settle(3)
    (body,) = second.received()
    assert body["captured_at"] == "2023-11-14T22:13:21.000Z"
    assert kept.captured_wall_ns == 1_700_000_001_000_000_000
    assert body["age_ms"] >= 0


def test_replays_keep_to_their_rate_and_fresh_results_to_their_deadline() -> None:
    """50,000 messages from disk at 1,000 a second while 100 a second are fresh, in virtual time."""
    bench = Bench(MemorySpool(), replay_per_s=1000, limits=SpoolLimits(bytes_max=10**9))
    for start in range(0, 50_000, 1000):
        for number in range(start, start + 1000):
            bench.emit(number)
        bench.turn(2)
    assert bench.book()["spooled"] + bench.book()["queued"] == 50_000
    began_ns = bench.clock.now_ns()
    bench.sink.come_back()
    number = 50_000
    while (book := bench.loop.snapshot())["acknowledged"] < 50_000:
        bench.emit(number)
        number += 1
        for _ in range(5):  # Turns of the loop between two results, as its wake-ups give.
            bench.loop.turn()
            bench.clock.ns += 2 * NS_PER_MS
    seconds = (bench.clock.now_ns() - began_ns) / NS_PER_S
    replayed = book["replayed"]
    assert replayed <= 1000 * seconds + 50
    assert seconds < 56
    assert max(bench.live_ages_ns) < 250 * NS_PER_MS
    assert len(bench.live_ages_ns) == number - 50_000


def test_an_hour_offline_drops_exactly_the_oldest() -> None:
    """1 h at 10 a second over a cap of 20,000 messages: the newest are there, in one piece; every drop is counted."""
    bench = Bench(MemorySpool(), limits=SpoolLimits(bytes_max=20_000 * 1000))
    bench.turn()
    bench.loop.report("source_lost", {"stream": "s"})
    for number in range(36_000):
        bench.emit(number)
        if number % 10 == 9:
            bench.turn(1)
    book = bench.book()
    dropped = book["dropped"]["spool_full"]
    assert dropped == sum(book["dropped"].values())
    assert 19_800 <= book["spooled"] <= 20_000
    bench.sink.come_back()
    bench.settle(200)
    results = [body for body in bench.received() if "n" in body]
    assert [body["n"] for body in results] == list(range(dropped, 36_000))
    assert bench.received()[0]["event"] == "source_lost"  # Older than all, and worth more.


def test_events_are_given_up_when_no_result_is_left() -> None:
    """A cap is a cap."""
    bench = Bench(MemorySpool(), limits=SpoolLimits(bytes_max=50_000), capacity=10)
    bench.turn()
    for number in range(300):
        bench.loop.report("source_lost", {"n": number})
        bench.turn(1)
    book = bench.book()
    assert book["classes"]["event"]["dropped"] == {"spool_full": book["dropped"]["spool_full"]}
    assert len(bench.spool.tables["event"]) <= 51


def test_what_is_too_old_is_given_up_and_counted() -> None:
    """72 h by default; the rest is still delivered."""
    bench = Bench(MemorySpool(), limits=SpoolLimits(age_max_ns=3600 * NS_PER_S))
    bench.run(250)
    bench.turn(1800)
    bench.run(250)
    bench.turn(2000)
    assert bench.book()["dropped"]["too_old"] == 250
    bench.sink.come_back()
    bench.settle()
    assert bench.book()["acknowledged"] == 250


def test_a_clock_that_was_not_set_makes_nothing_too_old() -> None:
    """A device without a battery wakes in 1970, and then jumps to the present."""
    first = Bench(MemorySpool(), boot="aaaa")
    first.clock.wall_ns = lambda: first.clock.ns  # type: ignore[method-assign]
    first.run(100)
    first.end()
    second = Bench(first.spool, MemorySink(), boot="bbbb")
    second.clock.wall_ns = lambda: 1_800_000_000 * NS_PER_S  # type: ignore[method-assign]
    second.settle(5)
    assert second.book()["acknowledged"] == 100


def test_a_full_disk_is_said_once_and_memory_goes_on() -> None:
    """Bounded, the oldest dropped and counted; when there is room again everything held goes to disk."""
    bench = Bench(MemorySpool(), capacity=100)
    bench.turn()
    bench.spool.error = TransientError("memory: database or disk is full")
    bench.run(300)
    book = bench.book()
    assert book["spool"]["state"] == "failed"
    assert book["dropped"]["queue_full"] == 201  # 300 results and one event into 100 places.
    assert book["classes"]["event"]["emitted"] == 1  # spool_failed, once.
    bench.spool.error = None
    bench.turn(RETRY_NS / NS_PER_S)
    bench.turn(1)
    assert bench.book()["spool"]["state"] == "ok"
    assert sum(map(len, bench.spool.tables.values())) == 100
    bench.sink.come_back()
    bench.settle()
    events = [body["event"] for body in bench.received() if "event" in body]
    assert sorted(events) == ["spool_back", "spool_failed"]


def test_a_disk_that_is_read_only_from_the_start_is_no_reason_to_stop() -> None:
    """Results flow; an event says so."""
    spool = MemorySpool()
    spool.error = TransientError("memory: attempt to write a readonly database")
    bench = Bench(spool, MemorySink())
    bench.run(100)
    bodies = bench.received()
    assert sum("n" in body for body in bodies) == 100
    assert [body["event"] for body in bodies if "event" in body] == ["spool_failed"]


def test_a_damaged_file_is_set_aside_and_its_messages_are_counted() -> None:
    """What memory holds goes on and is written into the new file."""
    bench = Bench(MemorySpool())
    bench.run(300)
    lost = bench.book()["spooled"]
    bench.spool.error = SpoolDamagedError("memory: database disk image is malformed")
    bench.run(100, first=300)
    book = bench.book()
    assert bench.spool.replaced == 1
    assert book["dropped"]["spool_lost"] >= lost
    bench.sink.come_back()
    bench.settle()
    received = {body["n"] for body in bench.received() if "n" in body}
    assert len(received) == 400 - book["dropped"]["spool_lost"]
    assert "spool_replaced" in {body.get("event") for body in bench.received()}


def test_a_disk_that_damages_every_file_is_not_given_a_new_one_each_second() -> None:
    """After the second time in 30 s it counts as failed."""

    class Ill(MemorySpool):
        def write(self, messages: Any, *, durable: bool) -> list[int]:
            raise SpoolDamagedError("malformed")

    bench = Bench(Ill())
    bench.run(1000)
    assert bench.spool.replaced == 1
    assert bench.book()["spool"]["state"] == "failed"


def test_a_refused_message_is_set_aside_and_not_sent_again() -> None:
    """A reason of 128 or above will be the same tomorrow."""
    bench = Bench(MemorySpool(), MemorySink(acknowledges=False))
    bench.emit()
    bench.turn()
    bench.turn(1)
    bench.sink.events.append(Acknowledged(1, accepted=False, reason="Not authorized"))
    bench.turn()
    bench.turn(1)
    assert bench.spool.tables["result"] == {}
    ((kept, reason),) = bench.spool.aside
    assert (kept.seq, reason) == (1, "refused results/s: Not authorized")
    bench.sink.lose()
    bench.turn()
    bench.sink.come_back()
    bench.settle(3)
    assert len(bench.sink.packets) == 1
    assert bench.book()["dropped"]["refused"] == 1


def test_refusals_do_not_wear_the_disk() -> None:
    """A broker whose ACL refuses every result: one message a minute is set aside, every one is counted."""
    bench = Bench(MemorySpool(), MemorySink(acknowledges=False))
    for number in range(1, 1001):
        bench.emit(number)
        bench.turn()
        bench.sink.events.append(Acknowledged(number, accepted=False, reason="Not authorized"))
        bench.turn(0.01)
    assert len(bench.spool.aside) == 1
    assert bench.book()["dropped"]["refused"] == 1000


def test_an_oversize_message_is_set_aside_and_never_sent() -> None:
    """Trap 5: it would be resent for ever. Here it waits on disk while the broker comes back with a smaller limit."""
    bench = Bench(MemorySpool())
    bench.run(2)
    bench.turn(1)
    bench.sink.bytes_max = 20
    bench.sink.come_back()
    bench.settle(5)
    assert bench.sink.packets == []
    assert bench.book()["dropped"]["oversize"] == 2
    assert bench.spool.tables["result"] == {}
    assert len(bench.spool.aside) >= 1


def test_what_was_in_flight_and_on_disk_is_sent_again_once() -> None:
    """A lost connection: the row is read again, with the same number."""
    bench = Bench(MemorySpool(), MemorySink(acknowledges=False))
    bench.emit(7)
    bench.turn()
    bench.turn(1)
    bench.sink.lose()
    bench.turn()
    assert bench.book()["spooled"] == 1
    bench.sink.acknowledges = True
    bench.sink.come_back()
    bench.settle(5)
    first, again = bench.received()
    assert (first["seq"], again["seq"], again["replay"]) == (1, 1, True)


def test_half_of_the_window_is_left_to_the_fresh() -> None:
    """Replays that a slow broker has not acknowledged must not keep a fresh result out."""
    bench = Bench(MemorySpool(), MemorySink(connected=False, room=8, acknowledges=False), replay_per_s=1000)
    bench.run(200)
    bench.sink.come_back()
    bench.sink._room = 8
    tokens = bench.sink._tokens
    original = bench.sink.room
    bench.sink.room = lambda: original() - bench.sink._tokens + tokens  # type: ignore[method-assign]
    bench.turn(1)
    in_window = len(bench.sink.packets)
    assert in_window <= 5
    bench.emit(999)
    bench.turn()
    assert bench.received()[-1]["n"] == 999


def test_at_the_end_of_all_streams_the_disk_is_emptied_too() -> None:
    """A file was processed: what was accepted is delivered; a signal leaves it for the next run instead."""
    for flushes, left in ((True, 0), (False, 1)):
        bench = Bench(MemorySpool(), replay_per_s=100)
        bench.run(500)
        bench.sink.come_back()
        bench.loop.stop("end", bench.clock.now_ns() + 30 * NS_PER_S, flushes_spool=flushes)
        bench.loop.run()
        assert (bench.book()["spooled"] > 0) == bool(left)
        assert bench.book()["dropped"]["shutdown"] == 0


@pytest.mark.parametrize("age_s", [0, 3600, 73 * 3600])
def test_expiry_counts_the_time_in_our_queue(age_s: int) -> None:
    """Trap 12: the broker's clock starts when it gets the message; both together are one lifetime."""
    bench = Bench(MemorySpool(), limits=SpoolLimits(age_max_ns=72 * 3600 * NS_PER_S))
    now_ns = bench.clock.now_ns()
    bench.loop.emit(Message("result", "results/s", {}, now_ns, NEVER_NS, stream="s"))
    bench.clock.ns += age_s * NS_PER_S
    bench.sink.come_back()
    bench.turn()
    assert bench.sink.packets[0].expiry_s == max(1, 72 * 3600 - age_s)
