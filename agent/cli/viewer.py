"""A subscriber that stays: connects, subscribes below a prefix, and comes back after every loss.

As in `agent.sinks.mqtt`, a paho client serves one connection and is thrown away when that breaks, and callbacks
only append to a deque: an exception in one would kill paho's thread in silence. `pump` reads the deque in the
caller's thread, so that whoever listens needs no locks.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from agent.clock import NS_PER_S, Clock
from agent.core.backoff import Backoff
from agent.settings import MqttSettings

CONNECT_TIMEOUT_S = 3.0
"""For the TCP and TLS handshake, during which the view stands still."""
ANSWER_TIMEOUT_NS = 8 * NS_PER_S
"""From the connection to the broker's answer to SUBSCRIBE: who is silent longer is no broker. Below the
keep-alive, whose own message would not say that."""
GOODBYE_NS = NS_PER_S // 2
"""What a polite end may take; a broker that hangs does not keep anybody from leaving."""
RETRY_MAX_NS = 5 * NS_PER_S
"""Somebody sits before the screen and has just started the broker."""
MESSAGES_WAITING_MAX = 10_000
"""Between paho's thread and `pump`: 10 s of 1,000 messages a second; then the oldest is dropped and counted."""
PACKET_BYTES_MAX = 1 << 19
"""Told to the broker (MQTT 5): the largest message of the contract is a picture of 256 KiB."""
PORTS = {"mqtt": 1883, "mqtts": 8883, "ws": 80, "wss": 443}

OnMessage = Callable[[str, bytes], object]
OnConnection = Callable[[bool, str], object]


class Viewer:
    """Receives everything below a prefix. One thread calls all methods; `pump` makes all the calls back.

    Args:
        settings: broker, prefix, protocol, user and authority; `url` must not be "embedded".
        clock: paces the attempts.
        on_message: topic and payload of each message, in the order of arrival.
        on_connection: whether messages come from now on, and a sentence; once a change, not once an attempt.
    """

    def __init__(
        self, settings: MqttSettings, clock: Clock, *, on_message: OnMessage, on_connection: OnConnection
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._on_message = on_message
        self._on_connection = on_connection
        self._backoff = Backoff(cap_ns=RETRY_MAX_NS)
        self._wake = threading.Event()
        self._messages: deque[tuple[str, bytes]] = deque(maxlen=MESSAGES_WAITING_MAX)
        self._reports: deque[tuple[str, Any]] = deque()
        self._client: mqtt.Client | None = None
        self._attempt_at_ns = 0
        self._answer_by_ns = 0
        self._said = ""
        self.is_subscribed = False
        self.has_been_subscribed = False
        self.missed = 0
        """Messages that came faster than `pump` took them."""

    def pump(self, timeout_ns: int) -> None:
        """Wait for something to happen, at most so long, and hand over what came."""
        now_ns = self._clock.now_ns()
        if self._client is None and now_ns >= self._attempt_at_ns:
            self._connect(now_ns)
        self._clock.wait(self._wake, timeout_ns)
        self._wake.clear()
        while self._reports:
            self._hear(*self._reports.popleft())
        # What is there now and not what comes meanwhile: a flood must not keep the caller from the rest.
        for _ in range(len(self._messages)):
            self._on_message(*self._messages.popleft())
        is_unanswered = self._client is not None and not self.is_subscribed
        if is_unanswered and self._clock.now_ns() > self._answer_by_ns:
            self._lost(f"no answer within {ANSWER_TIMEOUT_NS // NS_PER_S} s")

    def close(self) -> None:
        """Say goodbye and end the connection."""
        client, self._client, self.is_subscribed = self._client, None, False
        if client is None:
            return
        client.disconnect()
        by_ns = self._clock.now_ns() + GOODBYE_NS
        # paho's thread sends the DISCONNECT; without the wait the broker would log a client that vanished.
        while all(kind != "disconnect" for kind, _ in self._reports) and self._clock.now_ns() < by_ns:
            self._wake.clear()
            self._clock.wait(self._wake, GOODBYE_NS // 10)
        _break_off(client)

    def _connect(self, now_ns: int) -> None:
        url = urlsplit(self._settings.url)
        properties = None
        if self._settings.protocol == "5":
            properties = Properties(PacketTypes.CONNECT)
            properties.MaximumPacketSize = PACKET_BYTES_MAX
        try:
            client = self._new_client(url.scheme, url.path)
            client.connect(
                url.hostname or "",
                url.port or PORTS[url.scheme],
                self._settings.keepalive_s,
                properties=properties,
            )
        except (OSError, ValueError, mqtt.WebsocketConnectionError) as error:
            # UnicodeError, a ValueError, comes from the look-up of a malformed host name.
            # Without the errno, which says nothing to people; the look-up's and TLS' texts stand alone.
            self._lost(f"cannot connect: {getattr(error, 'strerror', None) or error}")
            return
        self._client = client
        self._answer_by_ns = now_ns + ANSWER_TIMEOUT_NS
        client.loop_start()

    def _new_client(self, scheme: str, path: str) -> mqtt.Client:
        is_v5 = self._settings.protocol == "5"
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            # A name of its own each time: two watchers with one name would throw each other out for ever.
            client_id=f"edgebeat-watch-{secrets.token_hex(4)}",
            clean_session=None if is_v5 else True,
            protocol=mqtt.MQTTv5 if is_v5 else mqtt.MQTTv311,
            transport="websockets" if scheme in ("ws", "wss") else "tcp",
            reconnect_on_failure=False,
        )
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.suppress_exceptions = True
        if scheme in ("ws", "wss"):
            client.ws_set_options(path=path or "/mqtt")
        if scheme in ("mqtts", "wss"):
            ca_file = self._settings.ca_file
            client.tls_set_context(ssl.create_default_context(cafile=None if ca_file is None else str(ca_file)))
        if self._settings.username is not None or self._settings.password_file is not None:
            file = self._settings.password_file
            lines = [] if file is None else file.read_text(encoding="utf-8").splitlines()
            client.username_pw_set(self._settings.username or "", lines[0] if lines else None)
        client.on_connect = lambda _c, _u, _f, reason, _p: self._report("connack", reason)
        client.on_subscribe = lambda _c, _u, _m, reasons, _p: self._report("suback", reasons[0])
        client.on_disconnect = lambda _c, _u, _f, reason, _p: self._report("disconnect", reason)
        client.on_message = lambda _c, _u, message: self._receive(message)
        return client

    def _report(self, kind: str, reason: Any) -> None:
        # Bounded: three reports a connection.
        self._reports.append((kind, reason))
        self._wake.set()

    def _receive(self, message: mqtt.MQTTMessage) -> None:
        if len(self._messages) >= MESSAGES_WAITING_MAX:
            self.missed += 1
        self._messages.append((message.topic, bytes(message.payload)))
        self._wake.set()

    def _hear(self, kind: str, reason: Any) -> None:
        if self._client is None:
            return  # The last word of a connection that was given up.
        if kind == "disconnect":
            self._lost(f"the connection was lost: {reason}")
        elif reason.is_failure:
            what = "the broker refuses" if kind == "connack" else f"may not read {self._settings.topic_prefix}/#"
            self._lost(f"{what}: {reason}")
        elif kind == "connack":
            self._client.subscribe(f"{self._settings.topic_prefix}/#", qos=1)
        else:
            self.is_subscribed = self.has_been_subscribed = True
            self._backoff.reset()
            self._say(f"connected to {self._settings.url}, listening below {self._settings.topic_prefix}/")

    def _lost(self, cause: str) -> None:
        client, self._client, self.is_subscribed = self._client, None, False
        if client is not None:
            _break_off(client)
            self._reports.clear()
        self._attempt_at_ns = self._clock.now_ns() + self._backoff.next_wait_ns()
        self._say(f"{self._settings.url}: {cause}; trying again")

    def _say(self, text: str) -> None:
        if text != self._said:
            self._said = text
            self._on_connection(self.is_subscribed, text)


def _break_off(client: mqtt.Client) -> None:
    """End the connection and paho's thread whatever the peer does."""
    # Shutting the socket first: loop_stop alone waits over 15 s on a stalled one.
    opened: Any = client.socket()
    if hasattr(opened, "shutdown"):
        with contextlib.suppress(OSError):
            opened.shutdown(socket.SHUT_RDWR)
    client.loop_stop()
