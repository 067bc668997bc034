"""The egress loop: what is sent, how it is marked, what becomes of the rest."""

from __future__ import annotations

import json
import threading
from collections.abc import Hashable, Mapping
from typing import Any

import cbor2
import pytest

from agent.clock import NEVER_NS, NS_PER_MS, NS_PER_S, SystemClock, iso_utc
from agent.core.cbor import CBOR
from agent.core.envelope import Encoding
from agent.core.outbox import Message, Outbox
from agent.errors import TransientError
from agent.interfaces import Acknowledged, Packet, SinkEvent
from agent.loops.egress import EgressLoop
from agent.wake import Wake
from tests.fakes import ManualClock, MemorySink


class Bench:
    """An egress loop on a memory sink, stepped by hand."""

    def __init__(self, sink: MemorySink, *, capacity: int = 100, encodings: Mapping[str, Encoding] = {}) -> None:
        self.clock = ManualClock()
        self.sink = sink
        self.ages: list[tuple[str, int]] = []
        self.outbox = Outbox(capacity)
        self.loop = EgressLoop(
            sink=sink,
            outbox=self.outbox,
            clock=self.clock,
            boot="b00t",
            wake=Wake(),
            record_sent=lambda stream, age_ns, _: self.ages.append((stream, age_ns)),
            waits_for_room=False,
            encodings=encodings,
        )

    def emit(self, deadline_ms: float | None = 250, **body: Any) -> None:
        """Emit one result captured now."""
        now_ns = self.clock.now_ns()
        deadline_ns = NEVER_NS if deadline_ms is None else now_ns + int(deadline_ms * NS_PER_MS)
        self.loop.emit(Message("result", "results/s", body, now_ns, deadline_ns, stream="s"))

    def step(self) -> list[dict[str, Any]]:
        """Let the loop look around once and return what it sent since the last time."""
        for event in self.sink.advance(self.clock.now_ns()):
            self.loop._book(event)
        before = len(self.sink.packets)
        self.loop._send_all()
        for event in self.sink.advance(self.clock.now_ns()):
            self.loop._book(event)
        return [json.loads(packet.payload) for packet in self.sink.packets[before:]]

    def finish(self) -> dict[str, Any]:
        """Stop the loop, run its body to the end and return the book."""
        self.loop.stop("test", self.clock.now_ns() + NS_PER_S)
        self.loop.run()
        book = self.loop.snapshot()
        assert book["is_exact"]
        assert book["emitted"] == book["acknowledged"] + sum(book["dropped"].values())
        return book


@pytest.mark.parametrize(("deadline_ms", "flushed"), [(199, 1), (201, 0), (None, 0)])
def test_a_message_that_is_due_soon_is_not_held(deadline_ms: float | None, flushed: int) -> None:
    """The kernel may hold what is kept together for 200 ms: that must not take it past its deadline."""
    bench = Bench(MemorySink())
    bench.emit(deadline_ms=deadline_ms)
    bench.step()
    assert (len(bench.sink.packets), bench.sink.flushed) == (1, flushed)


def test_what_a_turn_sends_has_left_at_its_end() -> None:
    """A sink may keep messages together while more follow; nothing waits for the next turn."""
    bench = Bench(MemorySink())
    for _ in range(3):
        bench.emit()
    bench.loop.turn()
    assert bench.sink.flushed == 3


def test_a_result_carries_its_age_at_the_moment_it_leaves() -> None:
    """Not when it was computed: 7 ms in the outbox are 7 ms of age."""
    bench = Bench(MemorySink())
    bench.emit(frame=1)
    bench.clock.ns += 7 * NS_PER_MS
    (sent,) = bench.step()
    assert (sent["age_ms"], sent["id"], sent["seq"], sent["boot"]) == (7.0, "b00t-1", 1, "b00t")
    assert "replay" not in sent
    assert bench.ages == [("s", 7 * NS_PER_MS)]


def test_captured_at_is_wall_time_at_capture() -> None:
    """Derived from the age, so that a wall clock set in between does not move the age."""
    bench = Bench(MemorySink())
    captured_wall_ns = bench.clock.wall_ns()
    bench.emit()
    bench.clock.ns += 40 * NS_PER_MS
    (sent,) = bench.step()
    assert sent["captured_at"].endswith(f".{captured_wall_ns // NS_PER_MS % 1000:03}Z")


@pytest.mark.parametrize("step_s", [-3600, 3600])
def test_a_step_of_the_wall_clock_moves_the_stamp_and_never_the_age(step_s: int) -> None:
    """Set by an hour between capture and sending: age and freshness are those of the clock that nobody sets."""
    bench = Bench(MemorySink())
    bench.emit()
    bench.clock.ns += 40 * NS_PER_MS
    bench.clock.wall_step_ns = step_s * NS_PER_S
    (sent,) = bench.step()
    assert sent["age_ms"] == 40.0
    assert "replay" not in sent
    assert sent["captured_at"] == iso_utc(bench.clock.wall_ns() - 40 * NS_PER_MS)


def test_kinds_go_out_in_their_own_form() -> None:
    """Results as CBOR where that was asked for, the rest as JSON, each with its content type."""
    bench = Bench(MemorySink(), encodings={"result": CBOR})
    bench.emit(n=1)
    bench.loop.emit(Message("health", "health", {"n": 2}, 0, qos=0, retain=True))
    bench.loop.turn()
    types = {packet.topic: packet.content_type for packet in bench.sink.packets}
    assert types == {"results/s": "application/cbor", "health": "application/json"}
    payloads = {packet.topic: packet.payload for packet in bench.sink.packets}
    assert cbor2.loads(payloads["results/s"])["n"] == 1
    assert json.loads(payloads["health"])["n"] == 2


def test_numbers_that_are_none_are_not_sent() -> None:
    """NaN is no JSON: a strict reader would refuse the whole message."""
    bench = Bench(MemorySink())
    bench.emit(value=float("nan"))
    assert bench.step() == []
    assert bench.finish()["dropped"]["unencodable"] == 1


def test_after_an_outage_fresh_goes_first_and_old_is_marked() -> None:
    """Nothing older than its deadline ever looks fresh."""
    bench = Bench(MemorySink(connected=False))
    bench.emit(n=1)
    assert bench.step() == []
    bench.clock.ns += 10 * NS_PER_S
    bench.emit(n=2)
    bench.sink.come_back()
    sent = bench.step()
    assert [(item["n"], item.get("replay", False)) for item in sent] == [(2, False), (1, True)]
    assert bench.ages == [("s", 0)]
    assert bench.finish()["replayed"] == 1


def test_what_was_in_flight_at_a_loss_goes_again() -> None:
    """At least once, with the same seq."""
    bench = Bench(MemorySink(acknowledges=False))
    bench.emit()
    bench.step()
    bench.sink.lose()
    bench.step()
    bench.sink.acknowledges = True
    bench.sink.come_back()
    (again,) = bench.step()
    assert (again["seq"], again["replay"]) == (1, True)
    assert bench.finish()["acknowledged"] == 1


def test_an_absent_broker_drops_the_oldest_and_counts_them() -> None:
    """Inference goes on; the memory is bounded; what is held at the end is counted too."""
    bench = Bench(MemorySink(connected=False), capacity=5)
    for number in range(12):
        bench.emit(n=number)
    bench.step()
    book = bench.finish()
    assert book["dropped"] == {
        "queue_full": 7,
        "refused": 0,
        "oversize": 0,
        "unencodable": 0,
        "replaced": 0,
        "spool_full": 0,
        "too_old": 0,
        "spool_lost": 0,
        "shutdown": 5,
    }


def test_a_refused_message_is_counted() -> None:
    """A PUBACK of 128 or above."""
    bench = Bench(MemorySink(acknowledges=False))
    bench.emit()
    bench.step()
    bench.sink.events.append(Acknowledged(1, accepted=False, reason="Not authorized"))
    bench.step()
    assert bench.finish()["dropped"]["refused"] == 1


def test_an_oversize_message_is_set_aside() -> None:
    """Sent, it would close the connection again and again."""
    bench = Bench(MemorySink())
    bench.sink.bytes_max = 300
    bench.emit(text="x" * 400)
    bench.emit(text="y")
    assert [item["text"] for item in bench.step()] == ["y"]
    assert bench.finish()["dropped"]["oversize"] == 1


def test_a_body_that_cannot_be_encoded_is_counted() -> None:
    """A decoder's mistake costs one message."""
    bench = Bench(MemorySink())
    bench.emit(value={1, 2})
    bench.emit(value=1)
    assert len(bench.step()) == 1
    assert bench.finish()["dropped"]["unencodable"] == 1


def test_a_sink_that_breaks_while_sending_loses_nothing() -> None:
    """The message goes back and is sent when the sink can again."""
    bench = Bench(MemorySink())
    bench.sink.send_error = TransientError("no socket")
    bench.emit(n=1)
    bench.step()  # Gives up after one try a turn; the loss follows.
    bench.sink.lose()
    bench.step()
    bench.sink.send_error = None
    bench.sink.come_back()
    assert [item["n"] for item in bench.step()] == [1]
    assert bench.finish()["acknowledged"] == 1


def test_a_sink_that_emits_while_it_is_called_is_no_deadlock() -> None:
    """Trap 2: no lock of ours is held while the sink is called, and what paho warns of goes to the log relay."""

    class Talkative(MemorySink):
        def send(self, packet: Packet) -> Hashable | None:
            if packet.topic == "results/s":
                loop.report("from_within", {})
            return super().send(packet)

        def advance(self, now_ns: int) -> list[SinkEvent]:
            if len(self.packets) == 1:
                loop.report("from_advance", {})
            return super().advance(now_ns)

    sink = Talkative()
    bench = Bench(sink)
    loop = bench.loop
    bench.emit(n=1)

    def turn_twice() -> None:
        loop.turn()
        loop.turn()

    thread = threading.Thread(target=turn_twice, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert {packet.topic for packet in sink.packets} >= {"results/s", "events/from_within"}


def test_only_so_many_are_in_flight() -> None:
    """The sink's room bounds what is unacknowledged."""
    sink = MemorySink(room=0)
    bench = Bench(sink)
    bench.emit()
    assert bench.step() == []


def test_late_results_do_not_count_as_live_ages() -> None:
    """A marked late result is published, and its age is no promise."""
    bench = Bench(MemorySink())
    bench.emit(deadline_ms=None, late=True)
    (sent,) = bench.step()
    assert sent["late"] is True
    assert bench.ages == []


def test_the_reader_of_standard_output_may_leave() -> None:
    """`edgebeat run ... | head -1` ends without a trace."""
    bench = Bench(MemorySink())
    bench.sink.send_error = BrokenPipeError()
    bench.emit()
    bench.step()
    assert bench.loop.broken is not None
    assert bench.finish()["dropped"]["shutdown"] == 1


def test_emit_waits_for_room_where_the_reader_sets_the_pace() -> None:
    """Standard output: the producer waits instead of dropping, and goes on when there is room."""
    sink = MemorySink(connected=False)
    loop = EgressLoop(
        sink=sink,
        outbox=Outbox(1),
        clock=SystemClock(),
        boot="b",
        wake=Wake(),
        record_sent=lambda stream, age_ns, hand_over_ns: None,
        waits_for_room=True,
    )
    emitted = threading.Semaphore(0)

    def produce() -> None:
        for number in range(3):
            loop.emit(Message("result", "results/s", {"n": number}, 0, stream="s"))
            emitted.release()

    producer = threading.Thread(target=produce)
    consumer = threading.Thread(target=loop.run)
    producer.start()
    assert emitted.acquire(timeout=10)
    assert not emitted.acquire(timeout=0.05)
    sink.come_back()
    consumer.start()
    producer.join(10)
    loop.stop("done", SystemClock().now_ns() + NS_PER_S)
    consumer.join(10)
    assert [json.loads(packet.payload)["n"] for packet in sink.packets] == [0, 1, 2]


def test_what_is_encoded_already_goes_out_as_it_is() -> None:
    """A picture, and the empty payload that takes it away; an answer brings its correlation back."""
    bench = Bench(MemorySink())
    for payload in (b"jpeg", b""):
        bench.loop.emit(
            Message("image", "image/s", {}, 0, qos=0, retain=True, payload=payload, content_type="image/jpeg")
        )
        bench.loop.turn()
    bench.loop.emit(Message("response", "responses/desk", {"id": "1"}, 0, correlation="07ff"))
    bench.loop.turn()
    picture, removal, answer = bench.sink.packets
    assert (picture.payload, picture.retain, picture.content_type) == (b"jpeg", True, "image/jpeg")
    assert (removal.payload, removal.retain) == (b"", True)
    assert answer.correlation == b"\x07\xff"
    assert json.loads(answer.payload)["id"] == "1"


def test_pictures_are_not_carried_into_the_next_run() -> None:
    """It makes its own; what was answered goes on."""
    bench = Bench(MemorySink(connected=False))
    bench.loop.carries_over = True
    bench.loop.emit(Message("image", "image/s", {}, 0, qos=0, retain=True, payload=b"jpeg"))
    bench.loop.emit(Message("response", "responses/desk", {"id": "1"}, 0))
    bench.loop.stop("restart", bench.clock.now_ns() + NS_PER_S)
    bench.loop.run()
    assert [message.kind for message in bench.loop.carried] == ["response"]
    book = bench.loop.snapshot()
    assert book["is_exact"]
    assert book["classes"]["image"]["dropped"] == {"shutdown": 1}
