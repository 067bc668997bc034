"""One who asks a device for settings and hears what becomes of it, with plain paho."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, Self

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

Arrival = tuple[int, str, Any]
"""Nanoseconds of the wall clock, topic, body."""


class OperatorClient:
    """Hears everything below a device's tree.

    Args:
        port: of the broker on 127.0.0.1.
        device: its id.
    """

    def __init__(self, port: int, device: str) -> None:
        self._base = f"edgebeat/v1/{device}"
        self._changed = threading.Condition()
        self._arrivals: list[Arrival] = []
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        self._client.on_message = self._hear
        self._client.on_socket_open = lambda _c, _u, opened: _without_delay(opened)
        subscribed = threading.Event()
        self._client.on_subscribe = lambda *_: subscribed.set()
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        self._client.subscribe(f"{self._base}/#", 1)
        if not subscribed.wait(10):
            raise RuntimeError("the broker did not confirm the subscription within 10 s")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def ask(self, version: int, values: Any, **more: Any) -> int:
        """Publish a document and return the moment before."""
        payload = json.dumps({"schema": 1, "version": version, "values": values, **more})
        at_ns = time.clock_gettime_ns(time.CLOCK_REALTIME)
        self._client.publish(f"{self._base}/settings/desired", payload, 1, retain=True)
        return at_ns

    def command(self, name: str, body: Any) -> None:
        """Ask for something."""
        self._client.publish(f"{self._base}/commands/{name}", json.dumps(body), 1)

    def heard(self, topic: str, *, since: int = 0) -> list[Arrival]:
        """Return the messages of a topic that came from a place in the list of all on."""
        with self._changed:
            return [one for one in self._arrivals[since:] if one[1].endswith(topic)]

    def wait_for(self, topic: str, is_it: Callable[[Any], bool], *, since: int = 0, timeout_s: float = 60) -> Arrival:
        """Return the first message of a topic, from a place in the list of all on, whose body fits.

        Raises:
            RuntimeError: none came in time.
        """
        found: list[Arrival] = []

        def look() -> bool:
            found[:] = [one for one in self._arrivals[since:] if one[1].endswith(topic) and is_it(one[2])][:1]
            return bool(found)

        with self._changed:
            if not self._changed.wait_for(look, timeout_s):
                raise RuntimeError(f"no such {topic} within {timeout_s:g} s")
        return found[0]

    def count(self) -> int:
        """Return how many messages have come."""
        with self._changed:
            return len(self._arrivals)

    def _hear(self, _client: mqtt.Client, _user: Any, message: mqtt.MQTTMessage) -> None:
        at_ns = time.clock_gettime_ns(time.CLOCK_REALTIME)
        with self._changed:
            self._arrivals.append((at_ns, message.topic, json.loads(message.payload)))
            self._changed.notify_all()


def _without_delay(opened: Any) -> None:
    # Nagle's algorithm would hold a document back behind the acknowledgements of results, for up to 200 ms.
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
