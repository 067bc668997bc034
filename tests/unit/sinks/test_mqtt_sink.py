"""The MQTT sink against a peer that is scripted byte by byte, in virtual time."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from agent.clock import NS_PER_S, SystemClock
from agent.core.backoff import Backoff
from agent.interfaces import Connected, Disconnected, Packet, SinkEvent
from agent.settings import MqttSettings
from agent.sinks.mqtt import CONNACK_TIMEOUT_NS, PUBACK_TIMEOUT_NS, MqttSink
from tests.fakes import ManualClock

CONNACK = bytes([0x20, 3, 0, 0, 0])
"""MQTT 5: no session, success, no properties."""
CONNACK_LIMITS = bytes([0x20, 11, 0, 0, 8, 0x21, 0, 3, 0x27, 0, 0, 4, 0])
"""ReceiveMaximum 3, MaximumPacketSize 1024."""
CONNACK_BUSY = bytes([0x20, 3, 0, 0x89, 0])


class Peer:
    """Accepts connections and answers each CONNECT with the same bytes; says nothing else."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._server = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self.port = self._server.getsockname()[1]
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            self._connections.append(connection)
            connection.recv(4096)
            if self._answer:
                connection.sendall(self._answer)

    def close(self) -> None:
        """End everything."""
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join()
        for connection in self._connections:
            connection.close()


class Bench:
    """A sink in virtual time, talking to a real socket."""

    def __init__(self, port: int, **settings: object) -> None:
        self.clock = ManualClock()
        self.wake = threading.Event()
        values = {"url": f"mqtt://127.0.0.1:{port}", **settings}
        self.sink = MqttSink(
            MqttSettings.model_validate(values),
            device="porch",
            boot="b",
            version="0",
            clock=self.clock,
            wake=self.wake,
            backoff=Backoff(rng=random.Random(0)),
        )

    def until(self, wanted: Callable[[SinkEvent], bool]) -> SinkEvent:
        """Advance until an event comes; real time passes only while the socket is waited for."""
        real = SystemClock()
        by_ns = real.now_ns() + 10 * NS_PER_S
        while real.now_ns() < by_ns:
            self.wake.clear()
            for event in self.sink.advance(self.clock.now_ns()):
                if wanted(event):
                    return event
            real.wait(self.wake, NS_PER_S // 20)
        raise AssertionError("the event did not come")


@pytest.fixture
def peer() -> Iterator[Callable[[bytes], Peer]]:
    """Make peers that are closed in the end."""
    made: list[Peer] = []

    def make(answer: bytes) -> Peer:
        made.append(Peer(answer))
        return made[-1]

    yield make
    for item in made:
        item.close()


def is_connected(event: SinkEvent) -> bool:
    """Pick the event."""
    return isinstance(event, Connected)


def is_disconnected(event: SinkEvent) -> bool:
    """Pick the event."""
    return isinstance(event, Disconnected)


def test_the_brokers_limits_are_taken_over(peer: Callable[[bytes], Peer]) -> None:
    """Paho ignores ReceiveMaximum and MaximumPacketSize; the sink obeys both."""
    bench = Bench(peer(CONNACK_LIMITS).port)
    bench.until(is_connected)
    assert bench.sink.room() == 3
    assert bench.sink.packet_bytes_max() < 1024
    bench.sink.send(Packet("results/s", b"x", 1, retain=False))
    assert bench.sink.room() == 2
    bench.sink.close("test", NS_PER_S)


def test_a_broker_that_never_acknowledges_is_a_failure(peer: Callable[[bytes], Peer]) -> None:
    """It accepts everything and answers nothing: seen by the age of the oldest PUBACK that is missing."""
    bench = Bench(peer(CONNACK).port)
    bench.until(is_connected)
    bench.sink.send(Packet("results/s", b"x", 1, retain=False))
    assert bench.sink.advance(bench.clock.now_ns() + PUBACK_TIMEOUT_NS) == []
    bench.clock.ns += PUBACK_TIMEOUT_NS + 1
    event = bench.until(is_disconnected)
    assert isinstance(event, Disconnected)
    assert "no PUBACK within 20 s" in event.cause
    assert bench.sink.room() == 0


def test_a_peer_that_does_not_answer_connect_is_no_broker(peer: Callable[[bytes], Peer]) -> None:
    """TCP is accepted and nothing follows."""
    bench = Bench(peer(b"").port)
    bench.sink.advance(bench.clock.now_ns())
    bench.clock.ns += CONNACK_TIMEOUT_NS + 1
    event = bench.until(is_disconnected)
    assert isinstance(event, Disconnected)
    assert "no CONNACK within 10 s" in event.cause


def test_a_refusal_names_its_reason_and_backs_off(peer: Callable[[bytes], Peer]) -> None:
    """Server busy: the next attempt waits, with jitter."""
    bench = Bench(peer(CONNACK_BUSY).port)
    event = bench.until(is_disconnected)
    assert isinstance(event, Disconnected)
    assert "the broker refuses: Server busy" in event.cause
    now_ns = bench.clock.now_ns()
    assert bench.sink.next_wake_ns(now_ns) > now_ns
    assert bench.sink.advance(now_ns) == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"password_file": "/nonexistent/secret"}, "No such file or directory: '/nonexistent/secret'"),
        ({"url": "mqtts://127.0.0.1:1", "ca_file": "/nonexistent/ca"}, "No such file"),
        ({"url": "mqtt://-.invalid"}, "cannot connect"),
        ({"url": "mqtt://a..b"}, "cannot connect"),
    ],
)
def test_what_is_wrong_before_a_connection_is_a_cause_like_any_other(settings: dict[str, object], said: str) -> None:
    """A password file that is absent, a host name that is none: said, and tried again."""
    bench = Bench(9, **settings)
    event = bench.until(is_disconnected)
    assert isinstance(event, Disconnected)
    assert said in event.cause


def test_a_stalled_peer_does_not_hold_the_close(peer: Callable[[bytes], Peer]) -> None:
    """No PUBACK for the goodbye: the socket is shut when the time is over, and paho's thread ends."""
    bench = Bench(peer(CONNACK).port)
    bench.until(is_connected)
    before = threading.active_count()
    bench.sink.close("test", NS_PER_S)
    assert threading.active_count() == before - 1
    assert bench.sink.room() == 0
