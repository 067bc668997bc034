"""Faults of the connection, with a real broker: certificates, names, permissions, dead networks, 200 reconnects."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from agent.clock import NS_PER_MS, NS_PER_S, SystemClock
from agent.core.backoff import Backoff
from agent.core.message import Message
from agent.core.outbox import Outbox
from agent.loops.egress import EgressLoop, Keeping
from agent.settings import MqttSettings
from agent.sinks import mqtt as sink_module
from agent.sinks.mqtt import MqttSink
from agent.sinks.paho_client import TCP_USER_TIMEOUT_MS
from agent.wake import Wake
from tests.agent_process import AgentProcess, settings_text
from tests.broker import MOSQUITTO, Broker, Subscriber, needs_mosquitto, wait_until
from tests.certificates import issue, make_authority

pytestmark = needs_mosquitto


class Egress:
    """An egress loop in a thread, on a real broker.

    Args:
        settings: of the `mqtt` section.
        keeping: of what waits.
    """

    def __init__(self, keeping: Keeping = Keeping(), **settings: object) -> None:  # noqa: B008
        self.clock = SystemClock()
        wake = Wake()
        self.sink = MqttSink(
            MqttSettings.model_validate(settings),
            device="porch",
            boot="b00t",
            version="0",
            clock=self.clock,
            wake=wake,
            backoff=Backoff(cap_ns=NS_PER_S // 4),
        )
        self.loop = EgressLoop(
            sink=self.sink,
            outbox=Outbox(20_000),
            clock=self.clock,
            boot="b00t",
            wake=wake,
            record_sent=lambda *_: None,
            waits_for_room=False,
            keeping=keeping,
        )
        self._thread = threading.Thread(target=self.loop.run, name="egress")
        self._thread.start()

    def __enter__(self) -> Egress:
        return self

    def __exit__(self, *exc: object) -> None:
        self.loop.stop("test", self.clock.now_ns() + 20 * NS_PER_S)
        self._thread.join(30)
        assert not self._thread.is_alive()

    def emit(self, number: int) -> None:
        """Emit one result without a deadline."""
        self.loop.emit(Message("result", "results/s", {"n": number}, self.clock.now_ns(), stream="s"))

    def emit_range(self, first: int, count: int) -> None:
        """Emit several."""
        for number in range(first, first + count):
            self.emit(number)

    def wait_for(self, timeout_s: float = 30, **figures: object) -> dict[str, Any]:
        """Wait until the delivery ledger shows these figures."""
        return self.wait_until(lambda book: all(book[name] == figures[name] for name in figures), timeout_s)

    def wait_for_results(self, acknowledged: int) -> dict[str, Any]:
        """Wait until so many results have been acknowledged."""
        return self.wait_until(lambda book: book["classes"]["result"]["acknowledged"] == acknowledged)

    def wait_until(self, is_right: Callable[[dict[str, Any]], bool], timeout_s: float = 30) -> dict[str, Any]:
        """Wait until the delivery ledger is as it should be, and return it."""
        never = threading.Event()
        for _ in range(int(timeout_s * 100)):
            book = self.loop.snapshot()
            if is_right(book):
                return book
            self.clock.wait(never, 10 * NS_PER_MS)
        raise AssertionError(f"it did not come: {self.loop.snapshot()}")


@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_websockets(tmp_path: Path, scheme: str) -> None:
    """ws:// and wss://: connected, delivered, ended."""
    lines = ["protocol websockets"]
    if scheme == "wss":
        make_authority(tmp_path)
        certificate, key = issue(tmp_path, "server", "localhost")
        lines += [f"certfile {certificate}", f"keyfile {key}"]
    port_of_tcp = Broker(tmp_path).port
    with (
        Broker(tmp_path, *lines, f"listener {port_of_tcp} 127.0.0.1") as broker,
        Subscriber(port_of_tcp) as subscriber,
    ):
        url = f"{scheme}://localhost:{broker.port}/mqtt"
        ca_file = tmp_path / "ca.pem" if scheme == "wss" else None
        with Egress(url=url, ca_file=ca_file) as egress:
            egress.emit(7)
            subscriber.wait_for("results/s", n=7)
            egress.wait_for(acknowledged=1)
            connection = egress.sink._connection
            assert connection is not None
            with socket.socket(fileno=os.dup(connection.client.socket().fileno())) as opened:  # type: ignore[union-attr]
                assert opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == TCP_USER_TIMEOUT_MS
        subscriber.wait_for("porch/status", state="offline")


def test_client_certificates_rotate_without_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trap 13: new files are used within seconds, half-written ones are not, and nothing is lost."""
    monkeypatch.setattr(sink_module, "CREDENTIALS_EVERY_NS", NS_PER_S // 10)
    make_authority(tmp_path)
    certificate, key = issue(tmp_path, "server", "localhost")
    lines = (f"cafile {tmp_path / 'ca.pem'}", f"certfile {certificate}", f"keyfile {key}", "require_certificate true")
    issue(tmp_path, "client", "first")
    with Broker(tmp_path, *lines, "use_identity_as_username true", anonymous=False) as broker:
        settings = {
            "url": f"mqtts://localhost:{broker.port}",
            "ca_file": tmp_path / "ca.pem",
            "cert_file": tmp_path / "client.pem",
            "key_file": tmp_path / "client.key",
        }
        with Egress(Keeping(), **settings) as egress:
            broker.wait_for_log("u'first'", 1)
            egress.emit(1)
            egress.wait_for(acknowledged=1)
            issue(tmp_path, "next", "second")
            # The key is not there yet: a connection that stands is not given up for it.
            (tmp_path / "next.pem").replace(tmp_path / "client.pem")
            egress.emit(2)
            egress.wait_for(acknowledged=2)
            assert egress.sink.state()["connects"] == 1
            (tmp_path / "next.key").replace(tmp_path / "client.key")
            broker.wait_for_log("u'second'", 1)
            egress.emit(3)
            egress.wait_for(acknowledged=3)
            assert egress.sink.state()["failures"] == 0


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_an_acl_that_refuses(tmp_path: Path, protocol: str) -> None:
    """Trap 6: a PUBACK of 135 reads as published; MQTT 5 tells, and the ledger says refused."""
    acl = tmp_path / "acl"
    acl.write_text("topic write edgebeat/v1/porch/status\ntopic read #\n")
    with Broker(tmp_path, f"acl_file {acl}") as broker, Egress(url=broker.url, protocol=protocol) as egress:
        egress.emit(1)
        if protocol == "5":
            book = egress.wait_for(queued=0, in_flight=0, acknowledged=0, emitted=1)
            assert book["dropped"]["refused"] == 1
        else:
            egress.wait_for(acknowledged=1)  # 3.1.1 has no way to tell; the contract says so.


def test_two_clients_with_one_id(tmp_path: Path) -> None:
    """Trap 14: they throw each other out. mosquitto 2.0 only hangs up; the event names the id all the same."""
    with (
        Broker(tmp_path) as broker,
        Subscriber(broker.port) as subscriber,
        Egress(url=broker.url),
        Egress(url=broker.url),
    ):
        event = subscriber.wait_for("events/connection_unstable").body
        assert (event["client_id"], event["losses"] >= 3) == ("porch", True)


def test_messages_from_many_threads_at_full_speed(tmp_path: Path) -> None:
    """Trap 2: a lock held around publish and taken in a callback deadlocks after about a thousand messages."""
    with Broker(tmp_path, "max_queued_messages 0") as broker, Egress(url=broker.url) as egress:
        threads = [threading.Thread(target=egress.emit_range, args=(first, 1000)) for first in range(0, 4000, 1000)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        egress.wait_for(acknowledged=4000, timeout_s=60)


def test_200_connects_and_disconnects(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """No thread is lost, no message is lost, and the memory stays."""
    caplog.set_level(logging.CRITICAL)  # What pytest keeps of 400 log lines is not the agent's memory.
    process = psutil.Process()
    with Broker(tmp_path) as broker, Egress(url=broker.url) as egress:
        egress.sink._backoff = Backoff(first_ns=1, cap_ns=1, floor_ns=1)
        egress.wait_for(connected=True)
        threads, files, rss_after_50 = set(threading.enumerate()), process.num_fds(), 0
        for number in range(1, 201):
            egress.emit(number)
            egress.wait_for_results(number)
            connection = egress.sink._connection
            assert connection is not None
            opened = connection.client.socket()
            opened.shutdown(2)  # type: ignore[union-attr]
            never = threading.Event()
            while egress.sink.state()["failures"] < number:
                egress.clock.wait(never, NS_PER_MS)
            if number == 50:
                rss_after_50 = process.memory_info().rss
        egress.wait_for(connected=True)
        grown_bytes = process.memory_info().rss - rss_after_50
        egress.wait_for_results(200)
        wait_until(lambda: set(threading.enumerate()) == threads, "that no dialer is left")
        assert process.num_fds() <= files
        assert grown_bytes < 2 << 20


def test_a_broker_that_stands_still_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes nothing for longer than the patience with its PUBACKs: a new connection, and no message is lost."""
    monkeypatch.setattr(sink_module, "PUBACK_TIMEOUT_NS", NS_PER_S)
    monkeypatch.setattr(sink_module, "CONNACK_TIMEOUT_NS", NS_PER_S)
    with Broker(tmp_path) as broker, Subscriber(broker.port) as subscriber, Egress(url=broker.url) as egress:
        egress.emit(0)
        egress.wait_for_results(1)
        broker.freeze()
        try:
            egress.emit_range(1, 500)
            egress.wait_for(connected=False)
            egress.wait_until(lambda book: book["sink"]["failures"] >= 2)
        finally:
            broker.thaw()
        egress.wait_for_results(501)
        missing = set(range(501))
        while missing:  # What was under way comes twice, and after what was not.
            missing.discard(subscriber.wait_for("results/s").body["n"])


@pytest.fixture
def namespace() -> Iterator[tuple[list[str], str]]:
    """Make a network namespace whose address this one reaches; return how to run in it, and its address."""
    ip = shutil.which("ip") or shutil.which("ip", path="/usr/sbin:/sbin")
    if ip is None or os.geteuid() != 0:
        pytest.skip("needs iproute2 and the right to make a network namespace")
    name, near, far = f"eb{os.getpid()}", f"eba{os.getpid()}", f"ebb{os.getpid()}"
    inside = [ip, "netns", "exec", name]
    commands = [
        [ip, "netns", "add", name],
        [ip, "link", "add", near, "type", "veth", "peer", "name", far, "netns", name],
        [ip, "addr", "add", "198.51.100.1/30", "dev", near],
        [ip, "link", "set", near, "up"],
        [*inside, ip, "addr", "add", "198.51.100.2/30", "dev", far],
        [*inside, ip, "link", "set", far, "up"],
        [*inside, ip, "link", "set", "lo", "up"],
    ]
    try:
        for command in commands:
            made = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
            if made.returncode != 0:
                pytest.skip(f"no network namespaces here: {' '.join(command)}: {made.stderr.strip()}")
        yield inside, "198.51.100.2"
    finally:
        subprocess.run([ip, "link", "del", near], capture_output=True, timeout=30, check=False)
        subprocess.run([ip, "netns", "del", name], capture_output=True, timeout=30, check=False)


def test_half_open_tcp(namespace: tuple[list[str], str], tmp_path: Path) -> None:
    """Trap 7: packets vanish, no FIN comes. TCP_USER_TIMEOUT tells within 5 s of data, not twice the keep-alive."""
    inside, address = namespace
    assert MOSQUITTO is not None
    config = tmp_path / "mosquitto.conf"
    config.write_text(f"listener 1883 {address}\nallow_anonymous true\nuser root\n")
    broker = subprocess.Popen([*inside, MOSQUITTO, "-c", str(config)], stderr=subprocess.DEVNULL)
    route = [*inside, inside[0], "route"]
    try:
        with Egress(url=f"mqtt://{address}:1883", keepalive_s=600) as egress:
            egress.emit(1)
            egress.wait_for(acknowledged=1)
            subprocess.run([*route, "add", "blackhole", "198.51.100.1/32"], check=True, timeout=30)
            egress.emit(2)
            egress.wait_for(connected=False, timeout_s=15)  # PUBACK's age would tell after 20 s.
            subprocess.run([*route, "del", "blackhole", "198.51.100.1/32"], check=True, timeout=30)
            egress.wait_for(acknowledged=2)
    finally:
        broker.kill()
        broker.wait()


def test_a_clean_stop_on_a_stalled_full_socket(tmp_path: Path) -> None:
    """Trap 8: the broker is frozen, the socket is full, and SIGTERM ends the agent in 5 s with exact books."""
    wal = tmp_path / "state" / "spool.db-wal"
    with Broker(tmp_path) as broker, Subscriber(broker.port) as subscriber:
        text = settings_text(
            url=broker.url,
            mqtt="in_flight_max = 1000",
            stream="repeat = true\nfps = 100\ndeadline_ms = 1000",
            state=tmp_path / "state",
        )
        with AgentProcess(tmp_path, text) as agent:
            subscriber.wait_for("results/door")
            broker.freeze()
            size_bytes = wal.stat().st_size
            try:
                wait_until(lambda: wal.stat().st_size > size_bytes + 100_000, "a spool that grows")
                summary = agent.terminate(timeout_s=8)  # 5 s are promised; the rest is for a busy test machine.
            finally:
                broker.thaw()
    assert summary["delivery"]["spooled"] > 0
    assert summary["delivery"]["dropped"]["queue_full"] == 0
