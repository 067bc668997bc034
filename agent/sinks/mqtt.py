"""The broker: one paho client for one connection, thrown away when it breaks.

What was not acknowledged goes back to our outbox, which knows its age. paho has no thread: `advance` serves its
socket, and `wake` ends the egress thread's wait when there is something to read. Callbacks only append to a deque,
which `advance` reads afterwards.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from enum import Enum
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.properties import Properties

from agent.clock import NEVER_NS, NS_PER_MS, NS_PER_S, Clock
from agent.core.backoff import Backoff
from agent.errors import TransientError
from agent.interfaces import Acknowledged, Connected, Disconnected, Noticed, Packet, SinkEvent
from agent.settings import MqttSettings
from agent.sinks import credentials
from agent.sinks.dial import Dialer
from agent.sinks.inbound import Inbound, absolute
from agent.sinks.paho_client import BoundedClient, Link, new_client, open_connection
from agent.sinks.properties import PublishProperties, connect_properties, will_properties
from agent.sinks.window import Window
from agent.wake import Wake

CONNACK_TIMEOUT_NS = 10 * NS_PER_S
"""From the beginning of an attempt: who has not let us in by then is no broker, or cannot be reached."""
PUBACK_TIMEOUT_NS = 20 * NS_PER_S
"""A broker that acknowledges nothing for this long, or whose socket takes nothing, is failing: start anew."""
STABLE_NS = 10 * NS_PER_S
"""A connection that lasted for so long makes the next wait a short one again. Two clients with one id throw each
other out about once a second; forgetting that at each success, they would do so for ever."""
UNSTABLE_LOSSES = 3
"""Short connections in a row after which the operator is told; MQTT 3.1.1 does not say why one ended."""
NOTICE_EVERY_NS = 60 * NS_PER_S
"""Between two such events: each takes a message through the very connection it complains of."""
SESSION_TAKEN_OVER = 142
"""MQTT 5's reason when another client connects with the same id."""
PUBACK_REST_S = 0.002
"""After one PUBACK the next are left to gather for so long, unless there is something to send: each round costs about
60 us, and nothing waits for a PUBACK while half of the window is free. What comes in waits as long at most."""
CREDENTIALS_EVERY_NS = 10 * NS_PER_S
"""Between two looks at the files of passwords and certificates: four calls of stat."""
CREDENTIALS_PATIENCE_NS = 60 * NS_PER_S
"""How long such a look waits for a moment without a message under way; then those are sent again."""
PACKET_BYTES_OUT_MAX = 1 << 20
"""Own limit where the broker states none: nothing that we send comes near it."""
IN_FLIGHT_BYTES_MAX = 2 << 20
"""Given to paho and not yet settled: 64 messages of 10 kB are below it, 2,000 pictures above."""
HEADER_BYTES = 1 + 4 + 2 + 2
"""Of a PUBLISH at most, beside topic, properties and payload: type, length of the rest, of the topic, and identifier
(MQTT 5, 3.3)."""


class _Phase(Enum):
    IDLE = "idle"
    DIALING = "dialing"
    CONNECTING = "connecting"
    ONLINE = "online"


class _Connection(Link):
    """An open client and what its callbacks reported. They run in the egress thread, inside of paho's own calls."""

    keeps_together = True

    def __init__(self, client: BoundedClient, wake: Wake) -> None:
        super().__init__(client, wake)
        self.reports: deque[tuple[str, Any, Any]] = deque()
        self._is_told = wake.set
        client.on_connect = lambda _c, _u, _f, reason, properties: self._report("connack", reason, properties)
        client.on_disconnect = lambda _c, _u, _f, reason, _p: self._report("disconnect", reason)
        client.on_publish = lambda _c, _u, mid, reason, _p: self._report("puback", mid, reason)

    def _report(self, kind: str, first: Any, second: Any = None) -> None:
        # Bounded by what is in flight: one PUBACK a message, one CONNACK, one disconnect.
        self.reports.append((kind, first, second))
        if kind == "disconnect":
            # It may come in the middle of a `send`: without this it would be heard at the end of the next wait.
            self._is_told()


class MqttSink:
    """See `interfaces.Sink`.

    Args:
        settings: the `mqtt` section; `url` must not be "embedded" any more.
        device: the device's id, also its client id at the broker.
        boot: identifies this run, in status messages.
        version: of Edgebeat, in status messages.
        clock: the agent's.
        wake: watches the socket; set when an attempt to connect has ended.
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
        wake: Wake,
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
        self._dialer = Dialer(wake)
        self._connection: _Connection | None = None
        self._next_attempt_ns = 0
        self._since_ns = 0
        self._window = Window(settings.in_flight_max, IN_FLIGHT_BYTES_MAX)
        self._oldest_ns = NEVER_NS
        self._properties = PublishProperties()
        self._packet_bytes_max = PACKET_BYTES_OUT_MAX
        self._connects = 0
        self._failures = 0
        self._short_connections = 0
        self._notice_at_ns = 0
        self._credentials: tuple[object, ...] = ()
        self._credentials_at_ns = 0

    def advance(self, now_ns: int) -> list[SinkEvent]:
        """See `Sink.advance`."""
        events: list[SinkEvent] = []
        if self._phase is _Phase.IDLE and now_ns >= self._next_attempt_ns and not self._dialer.is_busy:
            self._dial(now_ns)
        if self._phase is _Phase.DIALING:
            events += self._take_dialed()
        if self._connection is not None:
            events += self._listen(self._connection, now_ns)
        events += self._inbound.drain()
        if self._phase in (_Phase.DIALING, _Phase.CONNECTING) and now_ns - self._since_ns > CONNACK_TIMEOUT_NS:
            what = "no connection" if self._phase is _Phase.DIALING else "no CONNACK"
            events += self._fail(f"{self._settings.url}: {what} within {CONNACK_TIMEOUT_NS // NS_PER_S} s")
        self._oldest_ns = self._window.oldest_ns()
        if now_ns - self._oldest_ns > PUBACK_TIMEOUT_NS:
            events += self._fail(f"{self._settings.url}: no PUBACK within {PUBACK_TIMEOUT_NS // NS_PER_S} s")
        if self._phase is _Phase.ONLINE and now_ns >= self._credentials_at_ns:
            events += self._watch_credentials(now_ns)
        return events

    def room(self) -> int:
        """See `Sink.room`."""
        return self._window.room() if self._phase is _Phase.ONLINE else 0

    def payload_bytes_max(self, packet: Packet, /) -> int:
        """See `Sink.payload_bytes_max`."""
        correlation_bytes = len(packet.correlation)
        overhead = _overhead_bytes(self._base, packet.topic, packet.content_type, correlation_bytes, self._is_v5)
        return self._packet_bytes_max - overhead

    def send(self, packet: Packet) -> Hashable | None:
        """See `Sink.send`."""
        assert self._connection is not None
        mid, is_written = self._connection.publish(
            absolute(self._base, packet.topic),
            packet.payload,
            packet.qos,
            retain=packet.retain,
            properties=self._properties.of(packet) if self._is_v5 else None,
        )
        if packet.qos or not is_written:
            self._window.add(mid, len(packet.payload), self._clock.now_ns(), is_acknowledged=packet.qos > 0)
        return mid if packet.qos else None

    def flush(self) -> None:
        """See `Sink.flush`."""
        if self._connection is not None:
            self._connection.flush()

    def next_wake_ns(self, now_ns: int) -> int:
        """See `Sink.next_wake_ns`."""
        if self._phase is _Phase.IDLE:
            return NEVER_NS if self._dialer.is_busy else max(now_ns, self._next_attempt_ns)
        return NEVER_NS if self._phase is _Phase.ONLINE else self._since_ns + CONNACK_TIMEOUT_NS + 1

    def close(self, reason: str, timeout_ns: int) -> None:
        """See `Sink.close`: `offline`, its acknowledgement, DISCONNECT, then the socket is shut."""
        connection, by_ns = self._connection, self._clock.now_ns() + timeout_ns
        self._connection = None
        was_online, self._phase, self._next_attempt_ns = self._phase is _Phase.ONLINE, _Phase.IDLE, NEVER_NS
        self._dialer.give_up()
        if connection is None:
            return
        # A clean DISCONNECT discards the will, so the goodbye is ours to say.
        if was_online and self._say(connection, "offline", reason, by_ns):
            self._leave(connection, by_ns)
            return
        connection.break_off()

    def state(self) -> Mapping[str, Any]:
        """See `Sink.state`."""
        return {
            "kind": "mqtt",
            "url": self._settings.url,
            "protocol": self._settings.protocol,
            "phase": self._phase.value,
            "connects": self._connects,
            "failures": self._failures,
            "puback_age_s": self._puback_age_s(),
            "inbound": self._inbound.state(),
        }

    def _puback_age_s(self) -> float:
        oldest_ns = self._oldest_ns
        return 0.0 if oldest_ns == NEVER_NS else round(max(0, self._clock.now_ns() - oldest_ns) / NS_PER_S, 3)

    def _dial(self, now_ns: int) -> None:
        self._phase, self._since_ns = _Phase.DIALING, now_ns
        self._credentials = credentials.stamp(self._settings)
        self._credentials_at_ns = now_ns + CREDENTIALS_EVERY_NS
        self._dialer.start(self._open)

    def _open(self) -> BoundedClient:
        """Return a client that has sent CONNECT. The dialer's thread."""
        client = new_client(self._settings, self._device, keeps_session=True)
        self._inbound.attach(client)
        self._set_will(client)
        # The session is resumed so that a delayed will is revoked (v5), and that requests to a device that was away
        # arrive.
        open_connection(client, self._settings, properties=connect_properties(), clean_start=False)
        return client

    def _take_dialed(self) -> list[SinkEvent]:
        try:
            client = self._dialer.take()
        except TransientError as error:
            return self._fail(str(error))
        if client is not None and client.socket() is None:
            # Before our callbacks were there to hear of it.
            return self._fail(
                f"{self._settings.url}: the peer closed the connection at once{self._certificate_hint()}"
            )
        if client is not None:
            self._connection = _Connection(client, self._wake)
            self._phase = _Phase.CONNECTING
        return []

    def _certificate_hint(self) -> str:
        """Return what may be wrong with a connection that ends before CONNACK.

        In TLS 1.3 a client's certificate is judged after the handshake, and the alert that says why is lost where we
        write first.
        """
        own = self._settings.cert_file
        return "" if own is None else f"; it may refuse the certificate in mqtt.cert_file, {own}: has it expired?"

    def _listen(self, connection: _Connection, now_ns: int) -> list[SinkEvent]:
        """Serve the socket and return what its callbacks reported."""
        try:
            connection.serve(now_ns / NS_PER_S)
        except TransientError as error:
            return self._fail(f"{self._settings.url}: {error}")
        events: list[SinkEvent] = []
        while connection.reports and connection is self._connection:
            kind, first, second = connection.reports.popleft()
            if kind == "puback":
                if self._window.remove(first):  # Else one of our own status, or of QoS 0 that is on the wire now.
                    # The reason's name is worth looking up only where somebody will read it.
                    is_refused = second.is_failure
                    events.append(Acknowledged(first, not is_refused, str(second) if is_refused else ""))
            else:
                events += self._hear(kind, first, second)
        if events and self._window.is_half_free():
            self._wake.rest(PUBACK_REST_S)
        return events

    def _set_will(self, client: mqtt.Client) -> None:
        # No limit of paho's: `Window` keeps one, and paho would walk through all that is in flight at each PUBACK.
        client.max_inflight_messages_set(0)
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
        if kind == "disconnect":
            is_taken_over = getattr(first, "value", 0) == SESSION_TAKEN_OVER
            assert self._connection is not None
            why = self._connection.client.refused or first
            if self._phase is _Phase.CONNECTING:
                why = f"{why}{self._certificate_hint()}"
            return self._fail(f"{self._settings.url}: the connection was lost: {why}", is_taken_over=is_taken_over)
        if first.is_failure:
            return self._fail(f"{self._settings.url}: the broker refuses: {first}")
        return [self._online(second)]

    def _online(self, properties: Properties | None) -> Connected:
        """Take over the broker's limits, which paho ignores, and say hello."""
        assert self._connection is not None
        self._window.limit(getattr(properties, "ReceiveMaximum", 65_535))
        self._packet_bytes_max = min(
            PACKET_BYTES_OUT_MAX, getattr(properties, "MaximumPacketSize", PACKET_BYTES_OUT_MAX)
        )
        self._phase = _Phase.ONLINE
        self._since_ns = self._clock.now_ns()
        self._connects += 1
        self._inbound.subscribe(self._connection.client)
        # Gone again already: its `disconnect` follows.
        with contextlib.suppress(TransientError):
            self._publish_status(self._connection, "online", "started" if self._connects == 1 else "reconnected")
        return Connected(f"{self._settings.url} as {self._device}, MQTT {self._settings.protocol}")

    def _fail(self, cause: str, *, is_taken_over: bool = False) -> list[SinkEvent]:
        now_ns = self._clock.now_ns()
        notices: list[SinkEvent] = []
        if self._phase is _Phase.ONLINE:
            notices = self._judge_connection(now_ns, is_taken_over=is_taken_over)
        connection, self._connection = self._connection, None
        self._dialer.give_up()
        if connection is not None:
            connection.break_off()
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
        """Say DISCONNECT, which discards the will, and close the socket."""
        connection.client.disconnect()
        self._await_report(connection, "disconnect", None, min(by_ns, self._clock.now_ns() + NS_PER_S // 2))
        connection.break_off()

    def _say(self, connection: _Connection, state: str, reason: str, by_ns: int) -> bool:
        """Publish a status and return whether the broker has it."""
        try:
            mid = self._publish_status(connection, state, reason)
            return self._await_report(connection, "puback", mid, by_ns)
        except TransientError:
            return False

    def _publish_status(self, connection: _Connection, state: str, reason: str) -> int:
        return connection.publish(f"{self._base}/status", self._status(state, reason), 1, retain=True)[0]

    def _status(self, state: str, reason: str) -> str:
        return json.dumps({"state": state, "boot": self._boot, "reason": reason, "version": self._version})

    def _await_report(self, connection: _Connection, kind: str, first: Any, by_ns: int) -> bool:
        """Serve the socket until one report has come; return whether it did."""
        while True:
            self._wake.clear()
            now_ns = self._clock.now_ns()
            try:
                connection.serve(now_ns / NS_PER_S)
            except TransientError:
                return False
            while connection.reports:
                heard, value, _ = connection.reports.popleft()
                if heard == "disconnect" or (heard == kind and value == first):
                    return heard == kind
            if now_ns >= by_ns:
                return False
            self._clock.wait(self._wake, min(by_ns - now_ns, 100 * NS_PER_MS))


@functools.lru_cache(maxsize=256)  # Of a device's topics; counted anew for each message it cost 3 us.
def _overhead_bytes(base: str, topic: str, content_type: str, correlation_bytes: int, is_v5: bool) -> int:
    """Return what a PUBLISH takes at most beside its payload."""
    properties_bytes = PublishProperties.bytes_max(content_type, correlation_bytes) if is_v5 else 0
    return HEADER_BYTES + len(absolute(base, topic).encode()) + properties_bytes
