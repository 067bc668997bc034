"""What others send to us: 50 MB, topics that are no text, certificates that have expired."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import paho.mqtt.client as mqtt
import psutil
import pytest

from agent.settings import MqttSettings
from agent.sinks.embedded import free_ports
from agent.sinks.paho_client import Link, new_client, open_connection
from agent.sinks.properties import PACKET_BYTES_IN_MAX, connect_properties
from agent.wake import Wake
from tests.agent_process import AgentProcess, settings_text
from tests.broker import Broker, Subscriber, needs_mosquitto
from tests.certificates import issue, make_authority

SIZE_BYTES = 50_000_000


class Reader:
    """A link as the agent has it, that reads a topic; a test serves it."""

    def __init__(self, url: str, protocol: str) -> None:
        settings = MqttSettings.model_validate({"url": url, "protocol": protocol})
        self.client = new_client(settings, "porch")
        self.messages: list[mqtt.MQTTMessage] = []
        self.has_ended = self.is_subscribed = False
        self.client.on_connect = lambda client, *_: client.subscribe("in/#", 1)
        self.client.on_subscribe = lambda *_: setattr(self, "is_subscribed", True)
        self.client.on_message = lambda _c, _u, message: self.messages.append(message)
        self.client.on_disconnect = lambda *_: setattr(self, "has_ended", True)
        open_connection(self.client, settings, properties=connect_properties(), clean_start=False)
        self._wake = Wake()
        self._link = Link(self.client, self._wake)

    def serve_until(self, what: str) -> None:
        """Serve until an attribute is true."""
        for second in range(200):
            if getattr(self, what):
                return
            self._wake.wait(0.1)
            self._link.serve(float(second))
        raise AssertionError(f"not {what}")

    def close(self) -> None:
        self._link.break_off()


@contextlib.contextmanager
def reader(url: str, protocol: str) -> Iterator[Reader]:
    """Subscribe for the length of the block."""
    opened = Reader(url, protocol)
    try:
        opened.serve_until("is_subscribed")
        yield opened
    finally:
        opened.close()


_PUBLISH = """
import sys
from paho.mqtt.publish import single
single(sys.argv[2], bytes(int(sys.argv[3])), 1, port=int(sys.argv[1]))
"""


def publish(port: int, topic: str, size_bytes: int) -> subprocess.Popen[bytes]:
    """Publish zeros from another process, whose memory is not ours."""
    return subprocess.Popen([sys.executable, "-c", _PUBLISH, str(port), topic, str(size_bytes)])


@needs_mosquitto
@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_50_mb_that_somebody_sends_cost_nothing(tmp_path: Path, protocol: str) -> None:
    """Trap 10: MQTT 5's broker keeps it to itself; in 3.1.1 it ends the connection before a byte of it is read."""
    with Broker(tmp_path) as broker, reader(broker.url, protocol) as opened:
        process = psutil.Process()
        before_bytes = process.memory_info().rss
        with publish(broker.port, "in/large", SIZE_BYTES) as sender:
            if protocol == "5":
                assert sender.wait(60) == 0
                with publish(broker.port, "in/small", 1):
                    opened.serve_until("messages")
            else:
                opened.serve_until("has_ended")
        grown_bytes = process.memory_info().rss - before_bytes
        assert [message.topic for message in opened.messages] == (["in/small"] if protocol == "5" else [])
        assert grown_bytes < 10 << 20
        size = SIZE_BYTES + 2 + len("in/large") + 2
        refused = f"a message of {size} bytes came in, more than {PACKET_BYTES_IN_MAX}"
        assert opened.client.refused == ("" if protocol == "5" else refused)


@needs_mosquitto
def test_what_is_just_small_enough_comes_in(tmp_path: Path) -> None:
    """The bound of 3.1.1 is the one that MQTT 5 is told."""
    with Broker(tmp_path) as broker, reader(broker.url, "3.1.1") as opened:
        with publish(broker.port, "in/a", PACKET_BYTES_IN_MAX - 20):
            opened.serve_until("messages")
        assert len(opened.messages[0].payload) == PACKET_BYTES_IN_MAX - 20


def test_a_topic_that_is_no_text_ends_nothing() -> None:
    """A broker should not pass it on; one that does gets its PUBACK, and the message raises only where it is read."""
    near, far = socket.socketpair()
    client, wake = new_client(MqttSettings(protocol="3.1.1"), "porch"), Wake()
    client._sock = near
    near.setblocking(False)
    messages: list[mqtt.MQTTMessage] = []
    client.on_message = lambda _c, _u, message: messages.append(message)
    link = Link(client, wake)
    try:
        far.sendall(b"\x32\x08\x00\x02\xff\xfe\x00\x07hi")
        wake.wait(10)
        link.serve(0.0)
        assert messages[0].payload == b"hi"
        with pytest.raises(UnicodeDecodeError):
            _ = messages[0].topic
        assert far.recv(10) == b"\x40\x02\x00\x07"
        link.publish("t", b"still here", 0, retain=False)
        assert b"still here" in far.recv(100)
    finally:
        link.break_off()
        far.close()


def expired(folder: Path, name: str) -> tuple[Path, Path]:
    """Issue a certificate whose last day was yesterday."""
    return issue(folder, name, "localhost", "-days", "-1")


@needs_mosquitto
def test_an_expired_certificate_of_the_broker_is_named_as_such(tmp_path: Path) -> None:
    """Said once, tried again without end, and the agent works on."""
    authority = make_authority(tmp_path)
    certificate, key = expired(tmp_path, "server")
    with Broker(tmp_path, f"certfile {certificate}", f"keyfile {key}") as broker:
        url = f"mqtts://localhost:{broker.port}"
        text = settings_text(url=url, mqtt=f'ca_file = "{authority}"', stream="repeat = true")
        with AgentProcess(tmp_path, text) as agent:
            agent.wait_for_log("certificate has expired")
            broker.wait_for_log("certificate expired", 2)
            summary = agent.terminate()
    assert agent.log.count("certificate has expired") == 1
    assert summary["delivery"]["sink"]["failures"] >= 2


@needs_mosquitto
def test_an_expired_certificate_of_ours_is_named_as_such(tmp_path: Path) -> None:
    """The broker says so in TLS; one that is put in its place is used without a restart."""
    authority = make_authority(tmp_path)
    certificate, key = issue(tmp_path, "server", "localhost")
    own, own_key = expired(tmp_path, "client")
    (tls_port,) = free_ports(1)
    lines = (f"cafile {authority}", f"certfile {certificate}", f"keyfile {key}", "require_certificate true")
    with Broker(tmp_path, f"listener {tls_port} 127.0.0.1", *lines) as broker, Subscriber(broker.port) as subscriber:
        login = f'ca_file = "{authority}"\ncert_file = "{own}"\nkey_file = "{own_key}"'
        text = settings_text(url=f"mqtts://localhost:{tls_port}", mqtt=login, stream="repeat = true")
        with AgentProcess(tmp_path, text) as agent:
            # Every loss before CONNACK says so, whether or not the broker's alert reached us.
            agent.wait_for_log("it may refuse the certificate in mqtt.cert_file")
            issue(tmp_path, "client", "porch")
            subscriber.wait_for("results/door")
            agent.terminate()
