"""The MQTT sink against a peer that is scripted byte by byte, in virtual time."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import resource
import socket
import struct
import threading
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.clock import NS_PER_S, SystemClock
from agent.core.backoff import Backoff
from agent.errors import TransientError
from agent.interfaces import Acknowledged, Connected, Disconnected, Noticed, Packet, SinkEvent
from agent.settings import MqttSettings
from agent.sinks import mqtt as sink_module
from agent.sinks.credentials import read_password
from agent.sinks.mqtt import (
    CONNACK_TIMEOUT_NS,
    IN_FLIGHT_BYTES_MAX,
    PUBACK_TIMEOUT_NS,
    SESSION_TAKEN_OVER,
    MqttSink,
)
from agent.sinks.paho_client import READ_AHEAD_BYTES, TOGETHER_MAX, Link, new_client, open_connection
from agent.sinks.properties import PACKET_BYTES_IN_MAX
from agent.wake import Wake
from tests.fakes import ManualClock

CONNACK = bytes([0x20, 3, 0, 0, 0])
"""MQTT 5: no session, success, no properties."""
CONNACK_LIMITS = bytes([0x20, 11, 0, 0, 8, 0x21, 0, 3, 0x27, 0, 0, 4, 0])
"""ReceiveMaximum 3, MaximumPacketSize 1024."""
CONNACK_BUSY = bytes([0x20, 3, 0, 0x89, 0])
PACKET = Packet("results/s", b"x", 1, retain=False)


class Peer:
    """Accepts connections and answers each CONNECT with the same bytes; keeps what else comes and says nothing.

    Args:
        answer: to each CONNECT.
        reads: whether it reads on after that; a stalled peer does not.
        hangs_up: whether the answer is its last word.
    """

    def __init__(self, answer: bytes, *, reads: bool = True, hangs_up: bool = False) -> None:
        self._answer = answer
        self._hangs_up = hangs_up
        self._reads = reads
        self._server = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self.received: list[bytearray] = []
        self.changed = threading.Condition()
        self.port = self._server.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            self._connections.append(connection)
            self.received.append(bytearray())
            self._threads.append(threading.Thread(target=self._serve, args=(connection, self.received[-1])))
            self._threads[-1].start()

    def _serve(self, connection: socket.socket, received: bytearray) -> None:
        is_answered = False
        with contextlib.suppress(OSError):
            while data := connection.recv(4096):
                with self.changed:
                    received += data
                    self.changed.notify_all()
                if not is_answered and self._answer:
                    is_answered = True
                    connection.sendall(self._answer)
                    if self._hangs_up:
                        connection.shutdown(socket.SHUT_WR)
                    if not self._reads:
                        return

    def wait_for(self, text: bytes, connection: int = 0) -> None:
        """Wait until a connection has received some bytes."""
        with self.changed:
            assert self.changed.wait_for(
                lambda: len(self.received) > connection and text in self.received[connection], timeout=10
            )

    def say(self, data: bytes) -> None:
        """Send something on the newest connection."""
        self._connections[-1].sendall(data)

    def hang_up(self) -> None:
        """End the newest connection."""
        self._connections[-1].shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End everything."""
        self._server.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()  # What it accepted last is in the list then.
        self._server.close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        for thread in self._threads:
            thread.join()


class Bench:
    """A sink in virtual time, talking to a real socket."""

    def __init__(self, port: int, **values: object) -> None:
        self.clock = ManualClock()
        self.began_ns = self.clock.now_ns()
        self.wake = Wake()
        values = {"url": f"mqtt://127.0.0.1:{port}", **values}
        self.sink = MqttSink(
            MqttSettings.model_validate(values),
            device="porch",
            boot="b",
            version="0",
            clock=self.clock,
            wake=self.wake,
            backoff=Backoff(rng=random.Random(0)),
        )

    def until_phase(self, phase: str) -> None:
        """Advance until the connection is so far; nothing else may happen."""
        for _ in range(200):
            if self.sink.state()["phase"] == phase:
                return
            self.wake.clear()
            assert self.sink.advance(self.clock.now_ns()) == []
            self.wake.wait(0.05)
        raise AssertionError(f"still {self.sink.state()['phase']}")

    def until_settled(self, far: Peer) -> None:
        """Have our own status acknowledged, so that nothing is in flight."""
        far.say(bytes([0x40, 2, 0, 1]))
        for _ in range(200):
            self.wake.clear()
            self.sink.advance(self.clock.now_ns())
            assert self.sink._connection is not None
            if not self.sink._connection.client._out_messages:
                return
            self.wake.wait(0.05)
        raise AssertionError("still in flight")

    def until(self, wanted: Callable[[SinkEvent], bool], others: list[Noticed] | None = None) -> SinkEvent:
        """Advance until an event comes; real time passes only while the socket is waited for.

        Notices that come with it go into `others`.
        """
        real = SystemClock()
        by_ns = real.now_ns() + 10 * NS_PER_S
        while real.now_ns() < by_ns:
            self.wake.clear()
            events = self.sink.advance(self.clock.now_ns())
            if others is not None:
                others += [event for event in events if isinstance(event, Noticed)]
            for event in events:
                if wanted(event):
                    return event
            real.wait(self.wake, NS_PER_S // 20)
        raise AssertionError("the event did not come")


@pytest.fixture
def peer() -> Iterator[Callable[..., Peer]]:
    """Make peers that are closed in the end."""
    made: list[Peer] = []

    def make(answer: bytes, **options: bool) -> Peer:
        made.append(Peer(answer, **options))
        return made[-1]

    yield make
    for item in made:
        item.close()


def network_threads() -> list[str]:
    """Return threads that a connection left: none of paho's, and no dialer once it had time to end."""
    for thread in threading.enumerate():
        if thread.name == "mqtt-dial":
            thread.join(10)
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("paho", "mqtt-dial"))]


def wait_for_the_dialer() -> None:
    """Wait until no attempt to connect is left."""
    for thread in threading.enumerate():
        if thread.name == "mqtt-dial":
            thread.join(30)
            assert not thread.is_alive()


def socket_of(sink: MqttSink) -> socket.socket:
    """Return the sink's open socket."""
    assert sink._connection is not None
    opened = sink._connection.client.socket()
    assert isinstance(opened, socket.socket)
    return opened


def is_connected(event: SinkEvent) -> bool:
    """Pick the event."""
    return isinstance(event, Connected)


def is_disconnected(event: SinkEvent) -> bool:
    """Pick the event."""
    return isinstance(event, Disconnected)


def test_the_brokers_limits_are_taken_over(peer: Callable[..., Peer]) -> None:
    """Paho ignores ReceiveMaximum and MaximumPacketSize; the sink obeys both."""
    bench = Bench(peer(CONNACK_LIMITS).port)
    bench.until(is_connected)
    assert bench.sink.room() == 3
    assert bench.sink.payload_bytes_max(PACKET) < 1024
    bench.sink.send(Packet("results/s", b"x", 1, retain=False))
    assert bench.sink.room() == 2
    bench.sink.close("test", NS_PER_S)


def test_a_broker_that_never_acknowledges_is_a_failure(peer: Callable[..., Peer]) -> None:
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


def test_a_peer_that_does_not_answer_connect_is_no_broker(peer: Callable[..., Peer]) -> None:
    """TCP is accepted and nothing follows."""
    broker = peer(b"")
    bench = Bench(broker.port)
    bench.until_phase("connecting")
    broker.wait_for(b"MQTT")
    bench.clock.ns += CONNACK_TIMEOUT_NS + 1
    event = bench.until(is_disconnected)
    assert isinstance(event, Disconnected)
    assert "no CONNACK within 10 s" in event.cause


def test_a_refusal_names_its_reason_and_backs_off(peer: Callable[..., Peer]) -> None:
    """Server busy: the next attempt waits, with jitter."""
    bench = Bench(peer(CONNACK_BUSY).port)
    event = bench.until(is_disconnected)
    assert isinstance(event, Disconnected)
    assert "the broker refuses: Server busy" in event.cause
    now_ns = bench.clock.now_ns()
    assert bench.sink.next_wake_ns(now_ns) > now_ns
    assert bench.sink.advance(now_ns) == []


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"password_file": "/nonexistent/secret"}, "No such file or directory: '/nonexistent/secret'"),
        ({"url": "mqtts://127.0.0.1:1", "ca_file": "/nonexistent/ca"}, "No such file"),
        ({"url": "mqtt://nowhere.invalid"}, "cannot connect"),
    ],
)
def test_what_is_wrong_before_a_connection_is_a_cause_like_any_other(values: dict[str, object], said: str) -> None:
    """A password file that is absent, a host name that is none: said, and tried again."""
    bench = Bench(9, **values)
    event = bench.until(is_disconnected)
    assert isinstance(event, Disconnected)
    assert said in event.cause


def test_a_stalled_peer_does_not_hold_the_close(peer: Callable[..., Peer]) -> None:
    """No PUBACK for the goodbye: the socket is closed when the time is over; no thread is there to be waited for."""
    bench = Bench(peer(CONNACK).port)
    bench.until(is_connected)
    opened = socket_of(bench.sink)
    bench.sink.close("test", NS_PER_S)
    assert bench.clock.now_ns() - bench.began_ns <= NS_PER_S + NS_PER_S // 10
    assert opened.fileno() == -1
    assert network_threads() == []
    assert bench.sink.room() == 0


def test_an_exception_in_a_callback_does_not_end_the_connection(
    peer: Callable[..., Peer], caplog: pytest.LogCaptureFixture
) -> None:
    """Trap 1: it would end who serves the socket, in the middle of a packet. Here it is said, and the rest works."""
    broker = peer(CONNACK)
    values = MqttSettings(url=f"mqtt://127.0.0.1:{broker.port}")
    client, wake = new_client(values, "porch"), Wake()
    called = []

    def fail(*_: object) -> None:
        called.append(True)
        raise RuntimeError("a bug")

    client.on_connect = fail
    open_connection(client, values, properties=None)
    link = Link(client, wake)
    while not called:
        wake.wait(10)
        link.serve(0.0)
    link.publish("t", b"still alive", 1, retain=False)
    broker.wait_for(b"still alive")
    link.break_off()
    assert "Caught exception in on_connect: a bug" in caplog.text


@pytest.mark.parametrize(
    "nonsense",
    [
        b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x20\x00",  # A CONNACK without its two bytes.
        b"\x20\x05\x00\x00\x02\xff\xff",  # A property that is none.
        CONNACK + b"\x30\x02\xff\xff",  # A topic that is longer than its packet.
        CONNACK + b"\x40\x01\x00",  # Half an identifier.
        CONNACK + b"\x40\x04\x00\x01\xee\x00",  # A reason that does not exist.
        CONNACK + b"\xff\xff\xff\xff\xff\xff",  # A length without an end.
    ],
)
def test_a_peer_that_speaks_something_else_is_a_cause_like_any_other(
    peer: Callable[..., Peer], nonsense: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """An HTTP server, an SSH server, packets that are cut off: none of them ends the agent."""
    caplog.set_level(logging.CRITICAL)
    bench = Bench(peer(nonsense, hangs_up=True).port)
    event = bench.until(is_disconnected)
    assert isinstance(event, Disconnected)
    assert "127.0.0.1" in event.cause
    now_ns = bench.clock.now_ns()
    assert bench.sink.next_wake_ns(now_ns) > now_ns


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=1, max_size=60), st.booleans())
def test_no_bytes_of_a_peer_end_the_thread_that_reads_them(said: bytes, is_let_in: bool) -> None:
    """Whatever comes: the link is served or says TransientError, nothing else."""
    logging.getLogger("agent.sinks.paho_client").setLevel(logging.CRITICAL)
    near, far = socket.socketpair()
    client, wake = new_client(MqttSettings(), "porch"), Wake()
    client._sock = near  # The socket alone counts: no listener, no handshake, 60 peers a second.
    near.setblocking(False)
    link = Link(client, wake)
    try:
        far.sendall((CONNACK if is_let_in else b"") + said)
        far.shutdown(socket.SHUT_WR)
        for second in range(20):
            wake.wait(1)
            link.serve(float(second))
            if client.socket() is None:
                break
        else:
            raise AssertionError("the end of the connection was not noticed")
    except TransientError:
        pass
    finally:
        link.break_off()
        far.close()
        logging.getLogger("agent.sinks.paho_client").setLevel(logging.NOTSET)


def test_what_pahos_parser_raises_costs_the_connection_alone(peer: Callable[..., Peer]) -> None:
    """As paho 2.1 did when a peer was no broker."""
    broker = peer(CONNACK)
    bench = Bench(broker.port)
    bench.until(is_connected)
    assert bench.sink._connection is not None

    def fail() -> None:
        raise struct.error("unpack requires a buffer of 2 bytes")

    bench.sink._connection.client.loop_read = fail  # type: ignore[method-assign,assignment]
    broker.say(b"\x40\x01\x00")
    event = bench.until(is_disconnected)
    assert isinstance(event, Disconnected)
    assert "does not speak MQTT: error: unpack requires" in event.cause


def test_an_attempt_that_hangs_holds_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver or a handshake that hangs: egress goes on, says it once, and begins no second attempt beside it."""
    goes_on = threading.Event()
    attempts: list[str] = []

    def hang(client: mqtt.Client, *_: object, **__: object) -> None:
        attempts.append(threading.current_thread().name)
        assert goes_on.wait(30)
        raise TransientError("at last")

    monkeypatch.setattr(sink_module, "open_connection", hang)
    bench = Bench(9)
    assert bench.sink.advance(bench.clock.now_ns()) == []
    bench.clock.ns += CONNACK_TIMEOUT_NS + 1
    (said,) = bench.sink.advance(bench.clock.now_ns())
    assert isinstance(said, Disconnected)
    assert "no connection within 10 s" in said.cause
    bench.clock.ns += 3600 * NS_PER_S
    assert bench.sink.advance(bench.clock.now_ns()) == []
    bench.sink.close("test", NS_PER_S)  # Returns at once.
    goes_on.set()
    wait_for_the_dialer()
    assert attempts == ["mqtt-dial"]  # Asked for last: the thread may not have come so far before.


def test_what_opens_too_late_is_closed(peer: Callable[..., Peer], monkeypatch: pytest.MonkeyPatch) -> None:
    """An attempt that was given up and succeeds all the same leaves no connection behind."""
    goes_on = threading.Event()
    opened: list[mqtt.Client] = []

    def open_late(client: mqtt.Client, *args: Any, **options: Any) -> None:
        assert goes_on.wait(30)
        open_connection(client, *args, **options)
        opened.append(client)

    monkeypatch.setattr(sink_module, "open_connection", open_late)
    bench = Bench(peer(CONNACK).port)
    bench.sink.advance(bench.clock.now_ns())
    bench.sink.close("test", NS_PER_S)
    goes_on.set()
    wait_for_the_dialer()
    assert opened[0].socket().fileno() == -1  # type: ignore[union-attr]


def test_a_message_that_paho_queued_is_not_sent_twice(peer: Callable[..., Peer]) -> None:
    """Trap 3: publishing offline answers rc 4 and is kept by paho all the same; our outbox has the message too."""
    broker = peer(CONNACK)
    bench = Bench(broker.port)
    bench.until(is_connected)
    assert bench.sink._connection is not None
    bench.sink._connection.client._sock_close()  # As when the peer hangs up in the middle of a turn.
    with pytest.raises(TransientError, match="could not take a message"):
        bench.sink.send(Packet("results/s", b"queued", 1, retain=False))
    broker.hang_up()
    bench.sink._fail("test")
    bench.clock.ns += 60 * NS_PER_S
    bench.until(is_connected)
    bench.sink.send(Packet("results/s", b"from the outbox", 1, retain=False))
    broker.wait_for(b"from the outbox", connection=1)
    assert b"queued" not in broker.received[1]
    bench.sink.close("test", 0)


def test_a_stalled_socket_takes_a_bounded_amount(peer: Callable[..., Peer]) -> None:
    """Trap 4: paho would queue QoS 0 without end, 185 MiB in the trial. Trap 8: the close returns all the same."""
    broker = peer(CONNACK, reads=False)
    bench = Bench(broker.port, in_flight_max=1000)
    bench.until(is_connected)
    sent_bytes = 0
    while bench.sink.room() and sent_bytes < 100 << 20:
        bench.sink.send(Packet("image/s", bytes(200_000), 0, retain=True))
        sent_bytes += 200_000
        bench.sink.advance(bench.clock.now_ns())
    # What the kernel's buffers took besides is the kernel's; paho holds no more than the limit and one message.
    assert bench.sink._connection is not None
    queued = sum(packet["to_process"] for packet in bench.sink._connection.client._out_packet)
    assert queued <= IN_FLIGHT_BYTES_MAX + 2 * 200_000
    assert sent_bytes < 100 << 20
    began_ns = SystemClock().now_ns()
    bench.sink.close("test", NS_PER_S)
    assert SystemClock().now_ns() - began_ns < 15 * NS_PER_S  # loop_stop would take more.
    assert network_threads() == []


def test_a_stalled_socket_is_a_failure_also_without_qos_1(peer: Callable[..., Peer]) -> None:
    """No PUBACK is missing where none is owed: the age of what is not on the wire tells."""
    broker = peer(CONNACK, reads=False)
    bench = Bench(broker.port)
    bench.until(is_connected)
    assert bench.sink.state()["puback_age_s"] == 0
    while bench.sink.room():
        bench.sink.send(Packet("image/s", bytes(200_000), 0, retain=True))
        bench.sink.advance(bench.clock.now_ns())
    bench.clock.ns += PUBACK_TIMEOUT_NS // 2
    assert bench.sink.state()["puback_age_s"] == pytest.approx(10, abs=0.1)
    bench.clock.ns += PUBACK_TIMEOUT_NS // 2 + 1
    bench.until(is_disconnected)


def test_connect_asks_for_a_session_and_bounds_what_may_come(peer: Callable[..., Peer]) -> None:
    """Traps 9 and 10: SessionExpiryInterval without a clean start, and MaximumPacketSize against a 50 MB message."""
    broker = peer(CONNACK)
    bench = Bench(broker.port)
    bench.until(is_connected)
    connect = bytes(broker.received[0])
    flags_at = connect.index(b"MQTT") + 5
    assert not connect[flags_at] & 0x02  # Clean start.
    assert b"\x11" + (3600).to_bytes(4, "big") in connect
    assert b"\x27" + PACKET_BYTES_IN_MAX.to_bytes(4, "big") in connect
    bench.sink.close("test", 0)


def test_messages_carry_their_type_and_their_lifetime(peer: Callable[..., Peer]) -> None:
    """MQTT 5: content type, UTF-8, and when the broker may forget it."""
    broker = peer(CONNACK)
    bench = Bench(broker.port)
    bench.until(is_connected)
    bench.sink.send(Packet("results/s", b"first", 1, retain=False, expiry_s=3600))
    bench.sink.send(Packet("results/s", b"second", 1, retain=False))
    broker.wait_for(b"second")
    first, second = bytes(broker.received[0]).split(b"first")
    assert b"\x02" + (3600).to_bytes(4, "big") in first
    assert b"\x03\x00\x10application/json" in first
    assert b"\x01\x01" in first
    assert b"\x02\x00\x00" not in second
    bench.sink.close("test", 0)


def test_v311_carries_no_properties(peer: Callable[..., Peer]) -> None:
    """They would be read as the payload's start."""
    broker = peer(bytes([0x20, 2, 0, 0]))
    bench = Bench(broker.port, protocol="3.1.1")
    bench.until(is_connected)
    bench.sink.send(Packet("results/s", b"payload", 0, retain=False, expiry_s=3600))
    broker.wait_for(b"/results/spayload")
    bench.sink.close("test", 0)


def test_many_open_files_do_not_hinder_a_connection(peer: Callable[..., Peer]) -> None:
    """Trap 11: select() takes no descriptor above 1,023; such a connection never came up, and nothing was said."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 1200:
        pytest.skip(f"may open {hard} files only")
    resource.setrlimit(resource.RLIMIT_NOFILE, (1200, hard))
    broker = peer(CONNACK)
    opened: list[int] = []
    try:
        while not opened or opened[-1] < 1030:
            opened.append(os.open("/dev/null", os.O_RDONLY))
        bench = Bench(broker.port)
        bench.until(is_connected)
        assert socket_of(bench.sink).fileno() > 1023
        bench.sink.send(Packet("results/s", b"from far above", 1, retain=False))
        broker.wait_for(b"from far above")
        bench.sink.close("test", 0)
    finally:
        for file in opened:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_second_client_with_our_id_is_told_and_not_fought(peer: Callable[..., Peer]) -> None:
    """Trap 14: the two throw each other out about once a second. Here waits grow, and an event says why, once."""
    broker = peer(CONNACK)
    bench = Bench(broker.port)
    told: list[Noticed] = []
    waits_ns = []
    for _ in range(8):
        bench.until(is_connected)
        bench.clock.ns += NS_PER_S
        broker.say(bytes([0xE0, 2, SESSION_TAKEN_OVER, 0]))
        bench.until(is_disconnected, others=told)
        waits_ns.append(bench.sink.next_wake_ns(bench.clock.now_ns()) - bench.clock.now_ns())
        bench.clock.ns += waits_ns[-1]
    assert told[0].name == "client_id_conflict"
    assert told[0].body["client_id"] == "porch"
    assert len(told) <= 1 + sum(waits_ns) // (60 * NS_PER_S)
    assert sum(waits_ns[4:]) > sum(waits_ns[:4])
    bench.sink.close("test", 0)


def test_connections_that_do_not_last_are_told_without_a_reason_too(peer: Callable[..., Peer]) -> None:
    """MQTT 3.1.1 does not say why one ends: three short ones in a row are an event."""
    broker = peer(bytes([0x20, 2, 0, 0]))
    bench = Bench(broker.port, protocol="3.1.1")
    told: list[Noticed] = []
    for _ in range(3):
        bench.until(is_connected)
        broker.hang_up()
        bench.until(is_disconnected, others=told)
        bench.clock.ns = bench.sink.next_wake_ns(bench.clock.now_ns())
    assert [(notice.name, notice.body["losses"]) for notice in told] == [("connection_unstable", 3)]


def test_a_connection_that_lasted_is_followed_by_a_short_wait(peer: Callable[..., Peer]) -> None:
    """Trap 12: our own back-off with full jitter, and no memory of faults of yesterday."""
    broker = peer(CONNACK)
    bench = Bench(broker.port)
    bench.sink._backoff.failures = 20
    bench.until(is_connected)
    bench.clock.ns += 60 * NS_PER_S
    broker.hang_up()
    bench.until(is_disconnected)
    assert bench.sink.next_wake_ns(bench.clock.now_ns()) - bench.clock.now_ns() <= NS_PER_S


def test_limits_follow_the_connection(peer: Callable[..., Peer]) -> None:
    """A broker may come back with other limits."""
    broker = peer(CONNACK_LIMITS)
    bench = Bench(broker.port)
    bench.until(is_connected)
    assert (bench.sink.room(), bench.sink.payload_bytes_max(PACKET) < 1024) == (3, True)
    broker._answer = CONNACK
    broker.hang_up()
    bench.until(is_disconnected)
    bench.clock.ns += 60 * NS_PER_S
    bench.until(is_connected)
    assert bench.sink.room() == 64
    assert bench.sink.payload_bytes_max(PACKET) > 1_000_000
    bench.sink.close("test", 0)


def test_a_password_file_for_everybody_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And used: container runtimes mount secrets like that."""
    secret = tmp_path / "secret"
    secret.write_text("right\n")
    secret.chmod(0o644)
    assert [read_password(secret), read_password(secret)] == ["right", "right"]
    assert caplog.text.count("can be read by every user") == 1


def test_acknowledgements_may_gather_while_the_window_is_half_free(
    peer: Callable[..., Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each round costs: no PUBACK is in a hurry, unless something waits for its place or nothing else will come."""
    far = peer(CONNACK)
    bench = Bench(far.port, in_flight_max=4)
    bench.until(is_connected)
    rests: list[float] = []
    monkeypatch.setattr(bench.wake, "rest", rests.append)
    packet = Packet("results/door", b"{}", 1, False, "application/json", None)

    def acknowledge(token: Hashable) -> None:
        far.say(bytes([0x40, 2, 0, int(str(token))]))
        bench.until(lambda event: isinstance(event, Acknowledged) and event.token == token)

    tokens = [bench.sink.send(packet) for _ in range(4)]
    acknowledge(tokens[0])
    assert not rests
    acknowledge(tokens[1])
    assert len(rests) == 1
    acknowledge(tokens[2])
    assert len(rests) == 2
    acknowledge(tokens[3])
    assert len(rests) == 2


def is_corked(sink: MqttSink) -> bool:
    """Return whether the kernel keeps small pieces back."""
    return bool(socket_of(sink).getsockopt(socket.IPPROTO_TCP, socket.TCP_CORK))


def test_what_follows_at_once_leaves_in_one_piece(peer: Callable[..., Peer]) -> None:
    """The way through the kernel costs a message as much as its encoding; one that is alone waits for nobody."""
    far = peer(CONNACK)
    bench = Bench(far.port)
    bench.until(is_connected)
    bench.sink.flush()
    bench.sink.send(PACKET)
    assert not is_corked(bench.sink)
    bench.sink.send(PACKET)
    assert is_corked(bench.sink)
    bench.sink.flush()
    assert not is_corked(bench.sink)
    for _ in range(TOGETHER_MAX - 1):
        bench.sink.send(PACKET)
    assert is_corked(bench.sink)
    bench.sink.send(PACKET)
    assert not is_corked(bench.sink)
    bench.sink.send(PACKET._replace(payload=b"last"))
    far.wait_for(b"last")
    far.hang_up()
    bench.until(is_disconnected)
    bench.sink.flush()


def test_messages_in_one_piece_reach_who_is_served_by_pahos_thread(peer: Callable[..., Peer]) -> None:
    """A source of messages: that thread waits with select(), which does not see what was read ahead of a packet."""
    body = struct.pack(">H", 1) + b"a" + b"\x00"
    far = peer(CONNACK + 3 * (bytes([0x30, len(body)]) + body))
    settings = MqttSettings(url=f"mqtt://127.0.0.1:{far.port}")
    client = new_client(settings, "source")
    arrived = threading.Semaphore(0)
    client.on_message = lambda *_: arrived.release()
    open_connection(client, settings, properties=None)
    client.loop_start()
    try:
        assert all(arrived.acquire(timeout=10) for _ in range(3))
    finally:
        client.disconnect()
        client.loop_stop()


def test_who_does_not_flush_holds_nothing_back(peer: Callable[..., Peer]) -> None:
    """A command that publishes twice and goes on: the kernel would keep the second one for 200 ms."""
    settings = MqttSettings(url=f"mqtt://127.0.0.1:{peer(CONNACK).port}")
    client = new_client(settings, "desk")
    open_connection(client, settings, properties=None)
    link = Link(client, Wake())
    for _ in range(3):
        link.publish("a", b"x", 0, retain=False)
    opened = client.socket()
    assert isinstance(opened, socket.socket)
    assert not opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_CORK)
    link.break_off()


@pytest.mark.parametrize("piece", [1, 3, 7, READ_AHEAD_BYTES - 1, 10_000])
def test_packets_may_come_in_any_pieces(peer: Callable[..., Peer], piece: int) -> None:
    """What is read ahead of one packet belongs to the next ones, and none waits for more to come."""
    far = peer(CONNACK)
    bench = Bench(far.port, in_flight_max=64)
    bench.until(is_connected)
    tokens = [bench.sink.send(PACKET) for _ in range(50)]
    # Among them a message that fills more than what is read ahead; it belongs to nobody.
    topic, payload = b"edgebeat/v1/porch/none", b"#" * 5_000
    body = struct.pack(">H", len(topic)) + topic + b"\x00" + payload
    publish = bytes([0x30, len(body) & 127 | 128, len(body) >> 7]) + body
    pubacks = [bytes([0x40, 2, 0, int(str(token))]) for token in tokens]
    said = b"".join([*pubacks[:25], publish, *pubacks[25:]])
    for start in range(0, len(said), piece):
        far.say(said[start : start + piece])
    seen: list[Hashable] = []
    for _ in range(400):
        bench.wake.clear()
        seen += [event.token for event in bench.sink.advance(0) if isinstance(event, Acknowledged)]
        if len(seen) == len(tokens):
            break
        bench.wake.wait(0.05)
    assert seen == tokens


def test_what_was_read_ahead_is_looked_at_without_more_to_come(peer: Callable[..., Peer]) -> None:
    """Paho takes as many packets at a time as it has messages in flight; poll() knows nothing of what is left."""
    far = peer(CONNACK)
    bench = Bench(far.port)
    bench.until(is_connected)
    bench.until_settled(far)
    token = bench.sink.send(PACKET)
    body = struct.pack(">H", 4) + b"none" + b"\x00"
    far.say(bytes([0x30, len(body)]) + body + bytes([0x30, len(body)]) + body + bytes([0x40, 2, 0, int(str(token))]))
    bench.until(lambda event: isinstance(event, Acknowledged) and event.token == token)


def packets(data: bytes) -> list[bytes]:
    """Cut what a peer received into MQTT packets: a type, the length of the rest in sevens of bits, the rest."""
    found, start = [], 0
    while start < len(data):
        length, at, shift = 0, start + 1, 0
        while True:
            length |= (data[at] & 127) << shift
            shift, at = shift + 7, at + 1
            if data[at - 1] < 128:
                break
        found.append(bytes(data[start : at + length]))
        start = at + length
    return found


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
@pytest.mark.parametrize(
    "packet",
    [
        PACKET,
        Packet("a/" + "\u00e4" * 100, b"", 0, True, "x", 3600),
        Packet("/absolute", b"", 1, False, "application/cbor", 7, b"c" * 64),
    ],
)
def test_the_largest_payload_just_fits(
    peer: Callable[..., Peer], packet: Packet, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trap 5: a packet above the broker's limit ends the connection, and comes again. Counted on the wire."""
    monkeypatch.setattr(sink_module, "PACKET_BYTES_OUT_MAX", 1024)
    far = peer(CONNACK if protocol == "5" else bytes([0x20, 2, 0, 0]))
    bench = Bench(far.port, protocol=protocol, topic_prefix="\u00e4/b")
    bench.until(is_connected)
    size = bench.sink.payload_bytes_max(packet)
    bench.sink.send(packet._replace(payload=b"#" * (size - 4) + b"last"))
    far.wait_for(b"last")
    assert 1000 < len(packets(bytes(far.received[0]))[-1]) <= 1024
