"""A real mosquitto on loopback, and a subscriber that is none of ours."""

from __future__ import annotations

import json
import queue
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cbor2
import numpy as np
import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from agent.clock import NS_PER_MS, NS_PER_S, SystemClock
from agent.sinks.embedded import free_ports

_TYPES = {64: "<u1", 78: "<i4", 79: "<i8", 84: "<f2", 85: "<f4", 86: "<f8"}
"""RFC 8746, as far as models of the tests need it."""

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")

needs_mosquitto = pytest.mark.skipif(
    MOSQUITTO is None, reason="mosquitto is not installed: apt-get install mosquitto (scripts/test does where it may)"
)


def wait_until(is_true: Callable[[], bool], what: str, timeout_s: float = 30) -> None:
    """Wait for something that only a look shows, such as a file's size."""
    clock, never = SystemClock(), threading.Event()
    for _ in range(int(timeout_s * 20)):
        if is_true():
            return
        clock.wait(never, 50 * NS_PER_MS)
    raise AssertionError(f"{what} did not come")


class Broker:
    """One mosquitto process; may be killed and started again on its port.

    Args:
        folder: for its settings and log.
        lines: further settings, such as `max_packet_size 2000`.
        anonymous: whether clients may connect without a password.
    """

    def __init__(self, folder: Path, *lines: str, anonymous: bool = True) -> None:
        (self.port,) = free_ports(1)
        self.url = f"mqtt://127.0.0.1:{self.port}"
        self._config = folder / "mosquitto.conf"
        self.log = folder / "mosquitto.log"
        settings = [
            f"listener {self.port} 127.0.0.1",
            f"allow_anonymous {str(anonymous).lower()}",
            "user root",
            *lines,
        ]
        self._config.write_text("\n".join(settings) + "\n")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Broker:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start and wait until it accepts connections."""
        assert MOSQUITTO is not None
        with self.log.open("ab") as log:
            self._process = subprocess.Popen([MOSQUITTO, "-c", str(self._config)], stdout=log, stderr=log)
        clock, never = SystemClock(), threading.Event()
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                assert self._process.poll() is None, self.log.read_text()
                clock.wait(never, 25 * NS_PER_MS)
            else:
                return
        raise AssertionError("mosquitto does not listen")

    def wait_for_log(self, text: str, count: int, timeout_s: float = 30) -> None:
        """Wait until the broker has written a text so many times."""
        clock, never = SystemClock(), threading.Event()
        for _ in range(int(timeout_s * 20)):
            if self.log.read_text().count(text) >= count:
                return
            clock.wait(never, 50 * NS_PER_MS)
        raise AssertionError(f"{text!r} is not {count} times in:\n{self.log.read_text()}")

    def kill(self) -> None:
        """End it at once, as a crash would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Stop it in place: the sockets stay open and nothing answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


class Message:
    """One received message with the wall time of its arrival."""

    def __init__(self, message: mqtt.MQTTMessage) -> None:
        self.topic = message.topic
        self.payload = message.payload
        self.retain = message.retain
        self.qos = message.qos
        self.content_type = getattr(message.properties, "ContentType", "")
        self.arrived_wall_ns = SystemClock().wall_ns()

    @property
    def body(self) -> Any:
        """The payload, JSON or CBOR as its content type says; typed arrays are lists."""
        if self.content_type != "application/cbor":
            return json.loads(self.payload)
        return cbor2.loads(self.payload, tag_hook=lambda tag, _: np.frombuffer(tag.value, _TYPES[tag.tag]).tolist())


class Subscriber:
    """Receives everything below a prefix, with plain paho."""

    def __init__(self, port: int, topic: str = "edgebeat/v1/#", **login: str) -> None:
        self.messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.seen: list[Message] = []
        self._subscribed = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        if login:
            self._client.username_pw_set(login["username"], login["password"])
        self._client.on_connect = lambda client, *_: client.subscribe(topic, qos=1)
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = lambda _c, _u, message: self.messages.put(Message(message))
        self._client.reconnect_delay_set(1, 1)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert self._subscribed.wait(10)

    def __enter__(self) -> Subscriber:
        return self

    def __exit__(self, *exc: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def wait_for(self, topic_end: str, timeout_s: float = 30, **values: Any) -> Message:
        """Return the next message of a topic whose body holds these values."""
        clock = SystemClock()
        by_ns = clock.now_ns() + int(timeout_s * NS_PER_S)
        while (left_ns := by_ns - clock.now_ns()) > 0:
            try:
                message = self.messages.get(timeout=left_ns / NS_PER_S)
            except queue.Empty:
                break
            self.seen.append(message)
            if message.topic.endswith(topic_end) and all(message.body.get(k) == v for k, v in values.items()):
                return message
        topics = [message.topic for message in self.seen[-10:]]
        raise AssertionError(f"no {topic_end} with {values} within {timeout_s} s; last topics: {topics}")

    def wait_for_body(self, topic_end: str, is_it: Callable[[Any], bool], timeout_s: float = 30) -> Message:
        """Return the next message of a topic whose body fits."""
        clock = SystemClock()
        by_ns = clock.now_ns() + int(timeout_s * NS_PER_S)
        while (left_ns := by_ns - clock.now_ns()) > 0:
            message = self.wait_for(topic_end, left_ns / NS_PER_S)
            if is_it(message.body):
                return message
        raise AssertionError(f"no such {topic_end} within {timeout_s} s")

    def drain(self) -> list[Message]:
        """Return everything received so far, waited for or not."""
        while not self.messages.empty():
            self.seen.append(self.messages.get())
        return self.seen


class Publisher:
    """An operator's client: sends with QoS 1, and asks as docs/mqtt.md says.

    Args:
        port: of the broker.
        protocol: "5" or "3.1.1".
    """

    def __init__(self, port: int, protocol: str = "5") -> None:
        self._is_v5 = protocol == "5"
        self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5 if self._is_v5 else mqtt.MQTTv311
        )
        self._answers: queue.SimpleQueue[mqtt.MQTTMessage] = queue.SimpleQueue()
        self._subscribed = threading.Event()
        self._client.on_connect = lambda client, *_: client.subscribe("edgebeat/v1/porch/responses/desk", qos=1)
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = lambda _c, _u, message: self._answers.put(message)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert self._subscribed.wait(10)

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, *exc: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def send(self, topic: str, payload: bytes, *, retain: bool = False, properties: Any = None) -> None:
        """Publish and wait until the broker has it."""
        sent = self._client.publish(topic, payload, 1, retain, properties)
        sent.wait_for_publish(30)
        assert sent.is_published()

    def ask(self, command: str, id_: str, **arguments: Any) -> Any:
        """Send a command as the protocol wants it, and return its answer's body."""
        self.begin(command, id_, **arguments)
        return self.answer(id_)

    def begin(self, command: str, id_: str, **arguments: Any) -> None:
        """Send a command."""
        properties = None
        if self._is_v5:
            properties = Properties(PacketTypes.PUBLISH)
            properties.ResponseTopic = "edgebeat/v1/porch/responses/desk"
            properties.CorrelationData = id_.encode()
            properties.UserProperty = [("who", "test")]
        else:
            arguments |= {"id": id_, "reply": "desk"}
        self.send(f"edgebeat/v1/porch/commands/{command}", json.dumps(arguments).encode(), properties=properties)

    def answer(self, id_: str, timeout_s: float = 30) -> Any:
        """Return the body of the answer to a command; the next answer must be its."""
        message = self._answers.get(timeout=timeout_s)
        body = json.loads(message.payload)
        if self._is_v5:
            assert getattr(message.properties, "CorrelationData", None) == id_.encode()
        else:
            assert body["id"] == id_
        return body
