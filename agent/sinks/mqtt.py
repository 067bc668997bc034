"""The broker: one paho client for one connection, thrown away when it breaks.

What was not acknowledged goes back to our outbox, which knows its age. Callbacks only append to a deque; `advance`
reads it.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from enum import Enum
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.properties import Properties

from agent.clock import NEVER_NS, NS_PER_MS, NS_PER_S, Clock
from agent.core.backoff import Backoff
from agent.errors import TransientError
from agent.interfaces import Acknowledged, Connected, Disconnected, Noticed, Packet, SinkEvent
from agent.settings import MqttSettings
from agent.sinks import credentials
from agent.sinks.inbound import Inbound, absolute
from agent.sinks.paho_client import break_off, new_client, open_connection
from agent.sinks.properties import PublishProperties, connect_properties, will_properties
from agent.sinks.window import Window

CONNACK_TIMEOUT_NS = 10 * NS_PER_S
"""A peer that accepts TCP and does not answer CONNECT is no broker."""
PUBACK_TIMEOUT_NS = 20 * NS_PER_S
"""A broker that acknowledges nothing for this long, or whose socket takes nothing, is failing: start anew."""
ACKNOWLEDGED_WITHIN_NS = 50 * NS_PER_MS
"""How late a PUBACK may be booked; 20 short wake-ups a second while one is missing."""
STABLE_NS = 10 * NS_PER_S
"""A connection that lasted for so long makes the next wait a short one again. Two clients with one id throw each
other out about once a second; forgetting that at each success, they would do so for ever."""
UNSTABLE_LOSSES = 3
"""Short connections in a row after which the operator is told; MQTT 3.1.1 does not say why one ended."""
NOTICE_EVERY_NS = 60 * NS_PER_S
"""Between two such events: each takes a message through the very connection it complains of."""
SESSION_TAKEN_OVER = 142
"""MQTT 5's reason when another client connects with the same id."""
CREDENTIALS_EVERY_NS = 10 * NS_PER_S
"""Between two looks at the files of passwords and certificates: four calls of stat."""
CREDENTIALS_PATIENCE_NS = 60 * NS_PER_S
"""How long such a look waits for a moment without a message under way; then those are sent again."""
PACKET_BYTES_OUT_MAX = 1 << 20
"""Own limit where the broker states none: nothing that we send comes near it."""
IN_FLIGHT_BYTES_MAX = 2 << 20
"""Given to paho and not yet settled: 64 messages of 10 kB are below it, 2,000 pictures above."""
OVERHEAD_BYTES = 360
"""Beside a payload, an upper bound: prefix 128, device 64, `results/` and a name 73, headers and properties 60."""


class _Phase(Enum):
    IDLE = "idle"
    CONNECTING = "connecting"
    ONLINE = "online"


class _Connection:
    """One paho client and what its callbacks reported. Callbacks run in paho's thread.

    Acknowledgements wake the egress thread in groups only, since all they bring is bookkeeping: a wake-up for each
    cost as much as the message itself. `advance` is called every `ACKNOWLEDGED_WITHIN_NS` while one is missing.

    Args:
        client: not yet connected.
        wake: the egress thread's event.
        group: so many acknowledgements wake it; less than the window, or a full one would wait.
    """

    def __init__(self, client: mqtt.Client, wake: threading.Event, group: int) -> None:
        self.client = client
        self.reports: deque[tuple[str, Any, Any]] = deque()
        self.group = group
        self._wake = wake
        client.on_connect = lambda _c, _u, _f, reason, properties: self._report("connack", reason, properties)
        client.on_disconnect = lambda _c, _u, _f, reason, _p: self._report("disconnect", reason)
        client.on_publish = lambda _c, _u, mid, reason, _p: self._report("puback", mid, reason)

    def _report(self, kind: str, first: Any, second: Any = None) -> None:
        # Bounded by what is in flight: one PUBACK a message, one CONNACK, one disconnect.
        self.reports.append((kind, first, second))
        if kind != "puback" or len(self.reports) >= self.group:
            self._wake.set()


class MqttSink:
    """See `interfaces.Sink`.

    Args:
        settings: the `mqtt` section; `url` must not be "embedded" any more.
        device: the device's id, also its client id at the broker.
        boot: identifies this run, in status messages.
        version: of Edgebeat, in status messages.
        clock: the agent's.
        wake: set when something happened that `advance` should hear of.
        backoff: waits between attempts.
        subscriptions: topics to hear, as `Inbound` takes them.
        optional_subscriptions: likewise, where the broker may refuse them.
    """

    def __init__(
        self,
        settings: MqttSettings,
        *,
        device: str,
        boot: str,
        version: str,
        clock: Clock,
        wake: threading.Event,
        backoff: Backoff,
        subscriptions: Sequence[str] = (),
        optional_subscriptions: Sequence[str] = (),
    ) -> None:
        self._settings = settings
        self._device = device
        self._base = f"{settings.topic_prefix}/{device}"
        self._boot = boot
        self._version = version
        self._clock = clock
        self._wake = wake
        self._backoff = backoff
        self._is_v5 = settings.protocol == "5"
        self._inbound = Inbound(self._base, subscriptions, wake, is_v5=self._is_v5, optional=optional_subscriptions)
        self._phase = _Phase.IDLE
        self._connection: _Connection | None = None
        self._next_attempt_ns = 0
        self._since_ns = 0
        self._window = Window(settings.in_flight_max, IN_FLIGHT_BYTES_MAX)
        self._properties = PublishProperties()
        self._packet_bytes_max = PACKET_BYTES_OUT_MAX
        self._connects = 0
        self._failures = 0
        self._short_connections = 0
        self._notice_at_ns = 0
        self._credentials: tuple[object, ...] = ()
        self._credentials_at_ns = 0

    def advance(self, now_ns: int) -> list[SinkEvent]:
        """See `Sink.advance`; blocks for `CONNECT_TIMEOUT_S` and the name look-up while it connects."""
        events: list[SinkEvent] = []
        if self._phase is _Phase.IDLE and now_ns >= self._next_attempt_ns:
            events += self._connect(now_ns)
        while self._connection is not None and self._connection.reports:
            events += self._hear(*self._connection.reports.popleft())
        events += self._inbound.drain()
        if self._phase is _Phase.CONNECTING and now_ns - self._since_ns > CONNACK_TIMEOUT_NS:
            events += self._fail(f"{self._settings.url}: no CONNACK within {CONNACK_TIMEOUT_NS // NS_PER_S} s")
        if now_ns - self._window.oldest_ns() > PUBACK_TIMEOUT_NS:
            events += self._fail(f"{self._settings.url}: no PUBACK within {PUBACK_TIMEOUT_NS // NS_PER_S} s")
        if self._phase is _Phase.ONLINE and now_ns >= self._credentials_at_ns:
            events += self._watch_credentials(now_ns)
        return events

    def room(self) -> int:
        """See `Sink.room`."""
        return self._window.room() if self._phase is _Phase.ONLINE else 0

    def packet_bytes_max(self) -> int:
        """See `Sink.packet_bytes_max`."""
        return self._packet_bytes_max - OVERHEAD_BYTES

    def send(self, packet: Packet) -> Hashable | None:
        """See `Sink.send`."""
        assert self._connection is not None
        sent = self._connection.client.publish(
            absolute(self._base, packet.topic),
            packet.payload,
            packet.qos,
            packet.retain,
            self._properties.of(packet) if self._is_v5 else None,
        )
        if sent.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            # rc 4 is queued inside paho: it is lost with this client, and sent again from our outbox.
            raise TransientError(f"paho could not take a message: {mqtt.error_string(sent.rc)}")
        self._window.add(sent.mid, len(packet.payload), self._clock.now_ns(), is_acknowledged=packet.qos > 0)
        return sent.mid if packet.qos else None

    def next_wake_ns(self, now_ns: int) -> int:
        """See `Sink.next_wake_ns`."""
        if self._phase is _Phase.IDLE:
            return max(now_ns, self._next_attempt_ns)
        if len(self._window):
            return now_ns + ACKNOWLEDGED_WITHIN_NS
        return now_ns + NS_PER_S if self._phase is _Phase.CONNECTING else NEVER_NS

    def close(self, reason: str, timeout_ns: int) -> None:
        """See `Sink.close`: `offline`, its acknowledgement, DISCONNECT, then the socket is shut."""
        connection, by_ns = self._connection, self._clock.now_ns() + timeout_ns
        self._connection = None
        was_online, self._phase, self._next_attempt_ns = self._phase is _Phase.ONLINE, _Phase.IDLE, NEVER_NS
        if connection is None:
            return
        if was_online:
            # A clean DISCONNECT discards the will, so the goodbye is ours to say.
            goodbye = self._publish_status(connection.client, "offline", reason)
            if self._await_report(connection, "puback", goodbye.mid, by_ns):
                self._leave(connection, by_ns)
                return
        break_off(connection.client)

    def state(self) -> Mapping[str, Any]:
        """See `Sink.state`."""
        return {
            "kind": "mqtt",
            "url": self._settings.url,
            "protocol": self._settings.protocol,
            "phase": self._phase.value,
            "connects": self._connects,
            "failures": self._failures,
            "inbound": self._inbound.state(),
        }

    def _connect(self, now_ns: int) -> list[SinkEvent]:
        try:
            self._credentials = credentials.stamp(self._settings)
            self._credentials_at_ns = now_ns + CREDENTIALS_EVERY_NS
            client = new_client(self._settings, self._device, keeps_session=True)
            self._inbound.attach(client)
            self._set_will(client)
            connection = _Connection(client, self._wake, self._window.group)
            # The session is resumed so that a delayed will is revoked (v5), and that requests to a device that was
            # away arrive.
            open_connection(client, self._settings, properties=connect_properties(), clean_start=False)
        except TransientError as error:
            return self._fail(str(error))
        self._connection = connection
        self._phase = _Phase.CONNECTING
        self._since_ns = now_ns
        return []

    def _set_will(self, client: mqtt.Client) -> None:
        client.max_inflight_messages_set(self._settings.in_flight_max + 8)  # Status messages come on top.
        will = self._status("offline", "connection lost")
        properties = will_properties() if self._is_v5 else None
        client.will_set(f"{self._base}/status", will, 1, retain=True, properties=properties)

    def _watch_credentials(self, now_ns: int) -> list[SinkEvent]:
        """Connect anew when a password or a certificate was replaced, at a moment when nothing is under way."""
        if len(self._window) and now_ns < self._credentials_at_ns + CREDENTIALS_PATIENCE_NS:
            return []
        self._credentials_at_ns = now_ns + CREDENTIALS_EVERY_NS
        found = credentials.stamp(self._settings)
        if found == self._credentials or not credentials.are_usable(self._settings):
            return []
        connection, self._connection = self._connection, None
        assert connection is not None
        self._leave(connection, now_ns + NS_PER_S)
        self._window.clear()
        self._phase, self._next_attempt_ns = _Phase.IDLE, now_ns
        return [Disconnected(f"{self._settings.url}: connecting anew with changed credentials")]

    def _hear(self, kind: str, first: Any, second: Any) -> list[SinkEvent]:
        if kind == "puback":
            if not self._window.remove(first):
                return []  # A status message of our own, or one of QoS 0 that is on the wire now.
            return [Acknowledged(first, not second.is_failure, str(second))]
        if kind == "disconnect":
            is_taken_over = getattr(first, "value", 0) == SESSION_TAKEN_OVER
            return self._fail(f"{self._settings.url}: the connection was lost: {first}", is_taken_over=is_taken_over)
        if first.is_failure:
            return self._fail(f"{self._settings.url}: the broker refuses: {first}")
        return [self._online(second)]

    def _online(self, properties: Properties | None) -> Connected:
        """Take over the broker's limits, which paho ignores, and say hello."""
        assert self._connection is not None
        self._window.limit(getattr(properties, "ReceiveMaximum", 65_535))
        self._connection.group = self._window.group
        self._packet_bytes_max = min(
            PACKET_BYTES_OUT_MAX, getattr(properties, "MaximumPacketSize", PACKET_BYTES_OUT_MAX)
        )
        self._phase = _Phase.ONLINE
        self._since_ns = self._clock.now_ns()
        self._connects += 1
        self._inbound.subscribe(self._connection.client)
        self._publish_status(self._connection.client, "online", "started" if self._connects == 1 else "reconnected")
        return Connected(f"{self._settings.url} as {self._device}, MQTT {self._settings.protocol}")

    def _fail(self, cause: str, *, is_taken_over: bool = False) -> list[SinkEvent]:
        now_ns = self._clock.now_ns()
        notices: list[SinkEvent] = []
        if self._phase is _Phase.ONLINE:
            notices = self._judge_connection(now_ns, is_taken_over=is_taken_over)
        connection, self._connection = self._connection, None
        if connection is not None:
            break_off(connection.client)
        self._phase = _Phase.IDLE
        self._window.clear()
        self._failures += 1
        self._next_attempt_ns = now_ns + self._backoff.next_wait_ns()
        return [Disconnected(cause), *notices]

    def _judge_connection(self, now_ns: int, *, is_taken_over: bool) -> list[SinkEvent]:
        """Look at a connection that ended: one that lasted is forgotten, several short ones are told."""
        if now_ns - self._since_ns >= STABLE_NS:
            self._backoff.reset()
            self._short_connections = 0
        else:
            self._short_connections += 1
        if now_ns < self._notice_at_ns:
            return []
        told = {"client_id": self._device, "url": self._settings.url}
        if is_taken_over:
            self._notice_at_ns = now_ns + NOTICE_EVERY_NS
            return [Noticed("client_id_conflict", told)]
        if self._short_connections >= UNSTABLE_LOSSES:
            self._notice_at_ns = now_ns + NOTICE_EVERY_NS
            return [Noticed("connection_unstable", {**told, "losses": self._short_connections})]
        return []

    def _leave(self, connection: _Connection, by_ns: int) -> None:
        """Say DISCONNECT, which discards the will, and end paho's thread."""
        connection.client.disconnect()
        self._await_report(connection, "disconnect", None, min(by_ns, self._clock.now_ns() + NS_PER_S // 2))
        break_off(connection.client)

    def _publish_status(self, client: mqtt.Client, state: str, reason: str) -> mqtt.MQTTMessageInfo:
        return client.publish(f"{self._base}/status", self._status(state, reason), 1, retain=True)

    def _status(self, state: str, reason: str) -> str:
        return json.dumps({"state": state, "boot": self._boot, "reason": reason, "version": self._version})

    def _await_report(self, connection: _Connection, kind: str, first: Any, by_ns: int) -> bool:
        """Wait for one report of the network thread; return whether it came."""
        connection.group = 1
        while True:
            self._wake.clear()
            while connection.reports:
                heard, value, _ = connection.reports.popleft()
                if heard == "disconnect" or (heard == kind and value == first):
                    return heard == kind
            left_ns = by_ns - self._clock.now_ns()
            if left_ns <= 0:
                return False
            self._clock.wait(self._wake, min(left_ns, 100 * NS_PER_MS))
