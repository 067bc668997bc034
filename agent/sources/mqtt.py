"""Messages of an MQTT topic as samples or pictures; with `$share/GROUP/TOPIC` each goes to one agent of a group."""

from __future__ import annotations

import secrets
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from agent.clock import NS_PER_S, Clock
from agent.core.samples import Codec, SenderTime
from agent.errors import PermanentError, TransientError
from agent.frame import Block, Capture
from agent.interfaces import SignalForm
from agent.settings import MqttSettings
from agent.sinks.paho_client import break_off, new_client, open_connection
from agent.sources.pictures import decode_picture

MESSAGES_MAX = 64
"""Messages that wait for the capture thread: a minute of readings a second, or 64 pictures."""
WAITING_BYTES_MAX = 16 << 20
"""What they hold together; then the oldest are dropped."""
MESSAGE_BYTES_MAX = 16 << 20
"""A larger one is refused before it is looked at."""
HEADERS_BYTES = 70_000
"""Of a packet beside its message: a topic of 65,535 bytes at most."""
SUBSCRIBE_NS = 5 * NS_PER_S
"""For CONNACK and SUBACK."""
WAIT_NS = NS_PER_S // 4
"""A look at the connection between two messages."""


REPORTS_IN_A_ROW_MAX = 50
"""Below what the capture loop takes for a broken source."""


class Arrived(NamedTuple):
    """One message; `follows` is False where others were dropped before it; `mid` and `qos` are for its PUBACK."""

    payload: bytes
    arrived_ns: int
    follows: bool
    mid: int
    qos: int


class Subscription:
    """One connection with one subscription. The capture thread calls everything; paho's thread only appends.

    Args:
        settings: of the broker.
        topic: filter, with wildcards or `$share/GROUP/` where wanted.
        clock: stamps messages when they arrive.
        waits: acknowledge a message when it is read, so that the broker keeps the others and gives those of an agent
            that died to another one of its group; else the oldest are dropped when they come too fast.
        silence_s: after so long without a message the source is lost, until one comes; the connection stays, because
            its keep-alive proves it and a message in between would be missed. None for never.
    """

    def __init__(
        self, settings: MqttSettings, topic: str, clock: Clock, *, waits: bool, silence_s: float | None = None
    ) -> None:
        self._settings = settings
        self.name = f"{settings.url}/{topic}"
        self._topic = topic
        self._clock = clock
        self._waits = waits
        self._silence_ns = None if silence_s is None else round(silence_s * NS_PER_S)
        self._silent_ns = 0
        """Counted in waits, so that an agent that was stopped or suspended suspects nobody."""
        self._keeps_open = False
        """The next `close` is for a silence alone."""
        self._reported = 0
        self._client: Any = None
        self._arrived: deque[Arrived] = deque()
        self._bytes = 0
        self._dropped = 0
        self._wake = threading.Event()
        self._is_subscribed = False
        self._cause = ""
        self._interrupted = threading.Event()
        self._lock = threading.Lock()

    def open(self) -> None:
        """Connect and subscribe, where it is not. Raises TransientError."""
        self._silent_ns, self._keeps_open = 0, False
        if self._client is not None:
            return
        self._is_subscribed, self._cause = False, ""
        with self._lock:
            self._arrived.clear()
            self._bytes = self._dropped = 0
        client = new_client(self._settings, f"edgebeat-source-{secrets.token_hex(4)}")
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.manual_ack_set(self._waits)
        client.packet_bytes_in_max = MESSAGE_BYTES_MAX + HEADERS_BYTES
        properties = Properties(PacketTypes.CONNECT)
        properties.ReceiveMaximum = MESSAGES_MAX
        open_connection(client, self._settings, properties=properties)
        # A thread of paho's: the capture thread may wait long for room, and the connection must be kept alive.
        client.loop_start()
        self._client = client
        by_ns = self._clock.now_ns() + SUBSCRIBE_NS
        while not self._is_subscribed:
            left_ns = by_ns - self._clock.now_ns()
            if self._cause or left_ns <= 0 or self._interrupted.is_set():
                cause = self._cause or "does not answer"
                self.close()
                raise TransientError(f"{self.name}: {cause}")
            self._clock.wait(self._wake, min(left_ns, WAIT_NS))
            self._wake.clear()

    def next(self) -> Arrived | None:
        """Return the next message; None once interrupted. Raises TransientError, PermanentError for a dropped one."""
        while not self._interrupted.is_set():
            self._report_dropped()
            with self._lock:
                message = self._arrived.popleft() if self._arrived else None
                self._bytes -= 0 if message is None else len(message.payload)
            if message is not None:
                self._silent_ns = 0
                if self._waits:
                    self._client.ack(message.mid, message.qos)
                return message
            if self._cause:
                raise TransientError(f"{self.name}: {self._cause}")
            self._silent_ns += 0 if self._clock.wait(self._wake, WAIT_NS) else WAIT_NS
            self._wake.clear()
            if self._silence_ns is not None and self._silent_ns >= self._silence_ns:
                self._keeps_open = True
                raise TransientError(f"{self.name}: no message for {self._silence_ns / NS_PER_S:g} s")
        return None

    def close(self) -> None:
        """Leave, unless it was a silence that made the source lost. Never raises."""
        if self._keeps_open:
            self._keeps_open = False
            return
        if self._client is not None:
            client, self._client = self._client, None
            client.disconnect()
            break_off(client)
            client.loop_stop()

    def interrupt(self) -> None:
        """End a wait. Any thread."""
        self._interrupted.set()
        self._wake.set()

    def _on_connect(self, client: Any, _userdata: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self._cause = f"refused: {reason}"
        else:
            client.subscribe(self._topic, qos=1)
        self._wake.set()

    def _on_subscribe(self, _client: Any, _userdata: Any, _mid: Any, reasons: Any, _properties: Any) -> None:
        if reasons and reasons[0].is_failure:
            self._cause = f"subscription refused: {reasons[0]}"
        else:
            self._is_subscribed = True
        self._wake.set()

    def _on_disconnect(self, _client: Any, _userdata: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        self._cause = self._cause or f"the connection was lost: {reason}"
        self._wake.set()

    def _on_message(self, _client: Any, _userdata: Any, message: Any) -> None:
        arrived = Arrived(message.payload, self._clock.now_ns(), follows=True, mid=message.mid, qos=message.qos)
        with self._lock:
            before = self._dropped
            # In every_frame mode only messages of QoS 0 can overflow it: the broker waits with the others.
            while self._is_full(len(message.payload)):
                oldest = self._arrived.popleft()
                self._bytes -= len(oldest.payload)
                self._dropped += 1
                if self._waits:
                    self._client.ack(oldest.mid, oldest.qos)
            if self._dropped > before and self._arrived:
                self._arrived[0] = self._arrived[0]._replace(follows=False)
            elif self._dropped > before:
                arrived = arrived._replace(follows=False)
            self._arrived.append(arrived)
            self._bytes += len(message.payload)
        self._wake.set()

    def _is_full(self, more_bytes: int) -> bool:
        is_full = len(self._arrived) >= MESSAGES_MAX or self._bytes + more_bytes > WAITING_BYTES_MAX
        return is_full and bool(self._arrived)

    def _report_dropped(self) -> None:
        """Account for each message that was dropped, one a call, with a message in between from time to time."""
        with self._lock:
            if self._dropped and (self._reported < REPORTS_IN_A_ROW_MAX or not self._arrived):
                self._dropped -= 1
                self._reported += 1
                raise PermanentError(f"{self.name}: a message was dropped: they come faster than they are read")
            self._reported = 0


class MqttPictures:
    """See `interfaces.Source`: a JPEG or PNG a message."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription
        self.open, self.close = subscription.open, subscription.close
        self.interrupt = subscription.interrupt

    def read(self) -> Capture | None:
        """See `Source.read`."""
        message = self._subscription.next()
        if message is None:
            return None
        try:
            _check_size(message)
            return Capture(message.arrived_ns, decode_picture(message.payload), message.follows)
        except PermanentError as error:
            raise PermanentError(f"{self._subscription.name}: a message's {error}") from None


class MqttSamples:
    """See `interfaces.SampleSource`.

    Args:
        subscription: where messages come from.
        clock: tells the present, for messages with times of their own.
        new_codec: reads a message.
        new_time: reads the times of samples; None where they carry none.
        form: what it gives.
    """

    def __init__(
        self,
        subscription: Subscription,
        clock: Clock,
        *,
        new_codec: Callable[[], Codec],
        new_time: Callable[[], SenderTime] | None,
        form: SignalForm,
    ) -> None:
        self._subscription = subscription
        self._clock = clock
        self._codec = new_codec()
        self._new_time = new_time
        self._time: SenderTime | None = None
        self._form = form
        self.close, self.interrupt = subscription.close, subscription.interrupt

    def open(self) -> None:
        """See `Source.open`."""
        self._subscription.open()
        self._time = None if self._new_time is None else self._new_time()

    def form(self) -> SignalForm:
        """See `SampleSource.form`."""
        return self._form

    def read(self) -> Block | None:
        """See `SampleSource.read`."""
        while (message := self._subscription.next()) is not None:
            try:
                _check_size(message)
                reading = self._codec.parse(message.payload)
                if reading is None:
                    continue
                at_ns = message.arrived_ns
                if self._time is not None and reading.time_ns is not None:
                    wall_ns = self._clock.wall_ns() - (self._clock.now_ns() - at_ns)
                    at_ns = self._time.captured_at_ns(reading.time_ns, wall_ns, at_ns)
            except PermanentError as error:
                raise PermanentError(f"{self._subscription.name}: a message {error}") from None
            return Block(at_ns, reading.samples, reading.time_ns, message.follows)
        return None


def _check_size(message: Arrived) -> None:
    if len(message.payload) > MESSAGE_BYTES_MAX:
        raise PermanentError(f"has {len(message.payload)} bytes, more than {MESSAGE_BYTES_MAX}")
