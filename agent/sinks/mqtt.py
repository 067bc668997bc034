"""The broker: one paho client for one connection, thrown away when it breaks.

paho's own reconnect has no jitter, resends what is old without a mark, and keeps certificates and passwords of
its first try. So a client never reconnects here: each attempt builds a new one, and what was not acknowledged
goes back to our outbox, which knows its age. Callbacks only append to a deque; `advance` reads it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import ssl
import threading
from collections import deque
from collections.abc import Hashable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from agent.clock import NEVER_NS, NS_PER_MS, NS_PER_S, Clock
from agent.core.backoff import Backoff
from agent.errors import TransientError
from agent.interfaces import Acknowledged, Connected, Disconnected, Packet, SinkEvent
from agent.settings import MqttSettings

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 3.0
"""For the TCP and TLS handshake. The egress thread waits for it, so it stays below the 5 s of a clean stop."""
CONNACK_TIMEOUT_NS = 10 * NS_PER_S
"""A peer that accepts TCP and does not answer CONNECT is no broker."""
PUBACK_TIMEOUT_NS = 20 * NS_PER_S
"""A broker that acknowledges nothing for this long is failing: drop the connection and start anew."""
TCP_USER_TIMEOUT_MS = 5_000
"""Unacknowledged TCP data breaks the connection: a half-open one is noticed in 5.5 s instead of twice the
keep-alive (tcp(7))."""
WILL_DELAY_S = 20
"""A device that is back within 20 s was never offline to its operator (v5)."""
SESSION_EXPIRY_S = 3600
"""The broker keeps the session so that the will can be delayed and revoked (v5)."""
PACKET_BYTES_IN_MAX = 262_144
"""Told to the broker (v5): a 50 MB inbound message would cost 144 MiB of memory."""
PACKET_BYTES_OUT_MAX = 1 << 20
"""Own limit where the broker states none: nothing that we send comes near it."""
TOPIC_OVERHEAD_BYTES = 300
"""Topic and headers beside a payload, an upper bound: prefix and names are bounded by the settings."""
_paho_log = log.getChild("paho")
# paho says this at the end of each connection that we broke off ourselves. What it says of exceptions in callbacks
# is the only trace of them, so the logger as a whole stays.
_paho_log.addFilter(lambda record: not record.getMessage().startswith("Client is not connected"))

PORTS = {"mqtt": 1883, "mqtts": 8883, "ws": 80, "wss": 443}


class _Phase(Enum):
    IDLE = "idle"
    CONNECTING = "connecting"
    ONLINE = "online"


class _Connection:
    """One paho client and what its callbacks reported. Callbacks run in paho's thread."""

    def __init__(self, client: mqtt.Client, wake: threading.Event) -> None:
        self.client = client
        self.reports: deque[tuple[str, Any, Any]] = deque()
        self._wake = wake
        client.suppress_exceptions = True
        client.on_connect = lambda _c, _u, _f, reason, properties: self._report("connack", reason, properties)
        client.on_disconnect = lambda _c, _u, _f, reason, _p: self._report("disconnect", reason)
        client.on_publish = lambda _c, _u, mid, reason, _p: self._report("puback", mid, reason)
        client.on_socket_open = lambda _c, _u, opened: _set_user_timeout(opened)

    def _report(self, kind: str, first: Any, second: Any = None) -> None:
        # Bounded by what is in flight: one PUBACK a message, one CONNACK, one disconnect.
        self.reports.append((kind, first, second))
        self._wake.set()

    def break_off(self) -> None:
        """End the connection and paho's thread whatever the peer does."""
        # Shutting the socket first: loop_stop alone waits over 15 s on a stalled one that is full.
        opened: Any = self.client.socket()
        if hasattr(opened, "shutdown"):
            with contextlib.suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)
        self.client.loop_stop()


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
        self._phase = _Phase.IDLE
        self._connection: _Connection | None = None
        self._next_attempt_ns = 0
        self._since_ns = 0
        self._unacknowledged: dict[int, int] = {}
        self._in_flight_max = settings.in_flight_max
        self._packet_bytes_max = PACKET_BYTES_OUT_MAX
        self._connects = 0
        self._failures = 0

    def advance(self, now_ns: int) -> list[SinkEvent]:
        """See `Sink.advance`; blocks for `CONNECT_TIMEOUT_S` and the name look-up while it connects."""
        events: list[SinkEvent] = []
        if self._phase is _Phase.IDLE and now_ns >= self._next_attempt_ns:
            events += self._connect(now_ns)
        while self._connection is not None and self._connection.reports:
            events += self._hear(*self._connection.reports.popleft())
        if self._phase is _Phase.CONNECTING and now_ns - self._since_ns > CONNACK_TIMEOUT_NS:
            events += self._fail(f"{self._settings.url}: no CONNACK within {CONNACK_TIMEOUT_NS // NS_PER_S} s")
        oldest_ns = next(iter(self._unacknowledged.values()), None)
        if oldest_ns is not None and now_ns - oldest_ns > PUBACK_TIMEOUT_NS:
            events += self._fail(f"{self._settings.url}: no PUBACK within {PUBACK_TIMEOUT_NS // NS_PER_S} s")
        return events

    def room(self) -> int:
        """See `Sink.room`."""
        return self._in_flight_max - len(self._unacknowledged) if self._phase is _Phase.ONLINE else 0

    def packet_bytes_max(self) -> int:
        """See `Sink.packet_bytes_max`."""
        return self._packet_bytes_max - TOPIC_OVERHEAD_BYTES

    def send(self, packet: Packet) -> Hashable | None:
        """See `Sink.send`."""
        assert self._connection is not None
        sent = self._connection.client.publish(
            f"{self._base}/{packet.topic}", packet.payload, packet.qos, packet.retain
        )
        if sent.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            # rc 4 is queued inside paho: it is lost with this client, and sent again from our outbox.
            raise TransientError(f"paho could not take a message: {mqtt.error_string(sent.rc)}")
        if packet.qos == 0:
            return None
        self._unacknowledged[sent.mid] = self._clock.now_ns()
        return sent.mid

    def next_wake_ns(self, now_ns: int) -> int:
        """See `Sink.next_wake_ns`."""
        if self._phase is _Phase.IDLE:
            return max(now_ns, self._next_attempt_ns)
        return now_ns + NS_PER_S if self._phase is _Phase.CONNECTING or self._unacknowledged else NEVER_NS

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
                connection.client.disconnect()
                self._await_report(connection, "disconnect", None, min(by_ns, self._clock.now_ns() + NS_PER_S // 2))
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
        }

    def _connect(self, now_ns: int) -> list[SinkEvent]:
        url = urlsplit(self._settings.url)
        try:
            client = self._new_client(url.scheme, url.path)
        except (OSError, ssl.SSLError, ValueError) as error:
            return self._fail(f"{self._settings.url}: cannot prepare the connection: {error}")
        connection = _Connection(client, self._wake)
        try:
            client.connect(
                url.hostname or "",
                url.port or PORTS[url.scheme],
                self._settings.keepalive_s,
                clean_start=False if self._is_v5 else mqtt.MQTT_CLEAN_START_FIRST_ONLY,
                properties=self._connect_properties(),
            )
        except (OSError, ValueError, mqtt.WebsocketConnectionError) as error:
            # UnicodeError (a ValueError) comes from the look-up of a malformed host name.
            return self._fail(f"{self._settings.url}: cannot connect: {error}")
        client.loop_start()
        self._connection = connection
        self._phase = _Phase.CONNECTING
        self._since_ns = now_ns
        return []

    def _new_client(self, scheme: str, path: str) -> mqtt.Client:
        """Return a client that is ready to connect, with the certificates and the password of this moment."""
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._device,
            clean_session=None if self._is_v5 else True,
            protocol=mqtt.MQTTv5 if self._is_v5 else mqtt.MQTTv311,
            transport="websockets" if scheme in ("ws", "wss") else "tcp",
            reconnect_on_failure=False,
        )
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.max_inflight_messages_set(self._settings.in_flight_max + 8)  # Status messages come on top.
        client.enable_logger(_paho_log)
        if scheme in ("ws", "wss"):
            client.ws_set_options(path=path or "/mqtt")
        if scheme in ("mqtts", "wss"):
            ca_file = self._settings.ca_file
            context = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
            if self._settings.cert_file is not None and self._settings.key_file is not None:
                context.load_cert_chain(self._settings.cert_file, self._settings.key_file)
            client.tls_set_context(context)
        if self._settings.username is not None or self._settings.password_file is not None:
            client.username_pw_set(self._settings.username or "", _read_password(self._settings.password_file))
        will_properties = None
        if self._is_v5:
            will_properties = Properties(PacketTypes.WILLMESSAGE)
            will_properties.WillDelayInterval = WILL_DELAY_S
        client.will_set(
            f"{self._base}/status",
            self._status("offline", "connection lost"),
            1,
            retain=True,
            properties=will_properties,
        )
        return client

    def _connect_properties(self) -> Properties | None:
        if not self._is_v5:
            return None
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = SESSION_EXPIRY_S
        properties.MaximumPacketSize = PACKET_BYTES_IN_MAX
        return properties

    def _hear(self, kind: str, first: Any, second: Any) -> list[SinkEvent]:
        if kind == "puback":
            if self._unacknowledged.pop(first, None) is None:
                return []  # A status message of our own.
            return [Acknowledged(first, not second.is_failure, str(second))]
        if kind == "disconnect":
            return self._fail(f"{self._settings.url}: the connection was lost: {first}")
        if first.is_failure:
            return self._fail(f"{self._settings.url}: the broker refuses: {first}")
        return [self._online(second)]

    def _online(self, properties: Properties | None) -> Connected:
        """Take over the broker's limits, which paho ignores, and say hello."""
        assert self._connection is not None
        self._in_flight_max = min(self._settings.in_flight_max, getattr(properties, "ReceiveMaximum", 65_535))
        self._packet_bytes_max = min(
            PACKET_BYTES_OUT_MAX, getattr(properties, "MaximumPacketSize", PACKET_BYTES_OUT_MAX)
        )
        self._phase = _Phase.ONLINE
        self._connects += 1
        self._backoff.reset()
        self._publish_status(self._connection.client, "online", "started" if self._connects == 1 else "reconnected")
        return Connected(f"{self._settings.url} as {self._device}, MQTT {self._settings.protocol}")

    def _fail(self, cause: str) -> list[SinkEvent]:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.break_off()
        self._phase = _Phase.IDLE
        self._unacknowledged.clear()
        self._failures += 1
        self._next_attempt_ns = self._clock.now_ns() + self._backoff.next_wait_ns()
        return [Disconnected(cause)]

    def _publish_status(self, client: mqtt.Client, state: str, reason: str) -> mqtt.MQTTMessageInfo:
        return client.publish(f"{self._base}/status", self._status(state, reason), 1, retain=True)

    def _status(self, state: str, reason: str) -> str:
        return json.dumps({"state": state, "boot": self._boot, "reason": reason, "version": self._version})

    def _await_report(self, connection: _Connection, kind: str, first: Any, by_ns: int) -> bool:
        """Wait for one report of the network thread; return whether it came."""
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


def _set_user_timeout(opened: Any) -> None:
    # A websocket wrapper has no setsockopt; its keep-alive is the guard there.
    if hasattr(opened, "setsockopt"):
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, TCP_USER_TIMEOUT_MS)


def _read_password(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise OSError(f"password file {file} is not UTF-8 text") from error
    return lines[0] if lines else ""
