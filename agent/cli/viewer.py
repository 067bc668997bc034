"""A subscriber that stays: connects, subscribes below a prefix, and comes back after every loss.

Everything happens in the caller's thread, inside of `pump`, so that whoever listens needs no locks. Callbacks only
append to a deque, which `pump` reads afterwards.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from agent.clock import NS_PER_S, Clock
from agent.core.backoff import Backoff
from agent.errors import TransientError
from agent.settings import MqttSettings
from agent.sinks.paho_client import Link, new_client, open_connection
from agent.wake import Wake

ANSWER_TIMEOUT_NS = 8 * NS_PER_S
"""From the connection to the broker's answer to SUBSCRIBE: who is silent longer is no broker. Below the
keep-alive, whose own message would not say that."""
GOODBYE_NS = NS_PER_S // 2
"""What a polite end may take; a broker that hangs does not keep anybody from leaving."""
RETRY_MAX_NS = 5 * NS_PER_S
"""Somebody sits before the screen and has just started the broker."""
MESSAGES_WAITING_MAX = 10_000
"""That one `pump` takes: 10 s of 1,000 messages a second; then the oldest is dropped and counted."""
PACKET_BYTES_MAX = 1 << 19
"""A broker of MQTT 5 keeps what is larger, in 3.1.1 it ends the connection. The largest message of the contract is a
picture of 256 KiB."""

OnMessage = Callable[[str, bytes], object]
OnConnection = Callable[[bool, str], object]


class Viewer:
    """Receives everything below a prefix. One thread calls all methods; `pump` makes all the calls back.

    Args:
        settings: broker, prefix, protocol, user and authority; `url` must not be "embedded".
        clock: paces the attempts.
        on_message: topic and payload of each message, in the order of arrival.
        on_connection: whether messages come from now on, and a sentence; once a change, not once an attempt.
        topics: to hear, below the prefix.
    """

    def __init__(
        self,
        settings: MqttSettings,
        clock: Clock,
        *,
        on_message: OnMessage,
        on_connection: OnConnection,
        topics: Sequence[str] = ("#",),
    ) -> None:
        self._topics = [f"{settings.topic_prefix}/{topic}" for topic in topics]
        self._settings = settings
        self._clock = clock
        self._on_message = on_message
        self._on_connection = on_connection
        self._backoff = Backoff(cap_ns=RETRY_MAX_NS)
        self._wake = Wake()
        self._messages: deque[tuple[str, bytes]] = deque(maxlen=MESSAGES_WAITING_MAX)
        self._reports: deque[tuple[str, Any]] = deque()
        self._link: Link | None = None
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
        if self._link is None and now_ns >= self._attempt_at_ns:
            self._connect(now_ns)
        self._clock.wait(self._wake, timeout_ns)
        self._wake.clear()
        self._serve()
        while self._reports:
            self._hear(*self._reports.popleft())
        # What is there now and not what comes meanwhile: a flood must not keep the caller from the rest.
        for _ in range(len(self._messages)):
            self._on_message(*self._messages.popleft())
        is_unanswered = self._link is not None and not self.is_subscribed
        if is_unanswered and self._clock.now_ns() > self._answer_by_ns:
            self._lost(f"{self._settings.url}: no answer within {ANSWER_TIMEOUT_NS // NS_PER_S} s")

    def publish(self, topic: str, payload: bytes, *, asked_by: str, retain: bool = True) -> bool:
        """Send a message below the prefix with QoS 1; False while there is no connection.

        paho keeps it until it is acknowledged, as long as this connection lasts.
        """
        if self._link is None or not self.is_subscribed:
            return False
        properties = None
        if self._settings.protocol == "5":
            properties = Properties(PacketTypes.PUBLISH)
            properties.UserProperty = ("asked_by", asked_by)
        full = f"{self._settings.topic_prefix}/{topic}"
        try:
            self._link.publish(full, payload, 1, retain=retain, properties=properties)
        except TransientError as error:
            self._lost(f"{self._settings.url}: {error}")
            return False
        return True

    def close(self) -> None:
        """Say goodbye and end the connection."""
        link = self._link
        if link is not None:
            link.client.disconnect()
            by_ns = self._clock.now_ns() + GOODBYE_NS
            # Without the wait, a socket that is full would show the broker a client that vanished.
            while all(kind != "disconnect" for kind, _ in self._reports) and self._clock.now_ns() < by_ns:
                self._clock.wait(self._wake, GOODBYE_NS // 10)
                self._serve()
            link.break_off()
        self._link, self.is_subscribed = None, False

    def _serve(self) -> None:
        if self._link is not None:
            try:
                self._link.serve(self._clock.now_ns() / NS_PER_S)
            except TransientError as error:
                self._lost(f"{self._settings.url}: {error}")

    def _connect(self, now_ns: int) -> None:
        properties = Properties(PacketTypes.CONNECT)
        properties.MaximumPacketSize = PACKET_BYTES_MAX
        try:
            # A name of its own each time: two watchers with one name would throw each other out for ever.
            client = new_client(self._settings, f"edgebeat-watch-{secrets.token_hex(4)}")
            client.packet_bytes_in_max = PACKET_BYTES_MAX
            client.on_connect = lambda _c, _u, _f, reason, _p: self._report("connack", reason)
            client.on_subscribe = lambda _c, _u, _m, reasons, _p: self._report("suback", _worst(reasons))
            client.on_disconnect = lambda _c, _u, _f, reason, _p: self._report("disconnect", reason)
            client.on_message = lambda _c, _u, message: self._receive(message)
            open_connection(client, self._settings, properties=properties)
        except TransientError as error:
            self._lost(str(error))
            return
        self._link = Link(client, self._wake)
        self._answer_by_ns = now_ns + ANSWER_TIMEOUT_NS

    def _report(self, kind: str, reason: Any) -> None:
        # Bounded: three reports a connection.
        self._reports.append((kind, reason))

    def _receive(self, message: mqtt.MQTTMessage) -> None:
        if len(self._messages) >= MESSAGES_WAITING_MAX:
            self.missed += 1
        self._messages.append((message.topic, bytes(message.payload)))

    def _hear(self, kind: str, reason: Any) -> None:
        if self._link is None:
            return  # The last word of a connection that was given up.
        if kind == "disconnect":
            self._lost(f"{self._settings.url}: the connection was lost: {self._link.client.refused or reason}")
        elif reason.is_failure:
            what = "the broker refuses" if kind == "connack" else f"may not read {', '.join(self._topics)}"
            self._lost(f"{self._settings.url}: {what}: {reason}")
        elif kind == "connack":
            self._link.client.subscribe([(topic, 1) for topic in self._topics])
        else:
            self.is_subscribed = self.has_been_subscribed = True
            self._backoff.reset()
            self._say(f"connected to {self._settings.url}, listening below {self._settings.topic_prefix}/")

    def _lost(self, cause: str) -> None:
        link, self._link, self.is_subscribed = self._link, None, False
        if link is not None:
            link.break_off()
            self._reports.clear()
        self._attempt_at_ns = self._clock.now_ns() + self._backoff.next_wait_ns()
        self._say(f"{cause}; trying again")

    def _say(self, text: str) -> None:
        if text != self._said:
            self._said = text
            self._on_connection(self.is_subscribed, text)


def _worst(reasons: Sequence[Any]) -> Any:
    """Return the first refusal among the answers to a SUBSCRIBE, or any of them."""
    return next((reason for reason in reasons if reason.is_failure), reasons[0])
