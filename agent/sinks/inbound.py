"""What the broker sends to the device: subscriptions, and messages on their way from paho to the egress thread."""

from __future__ import annotations

import functools
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.subscribeoptions import SubscribeOptions

from agent.core.inbound import DESIRED, PAYLOAD_BYTES_MAX
from agent.interfaces import Noticed, Received, SinkEvent
from agent.wake import Wake

WAITING_MAX = 32
"""Between paho and `drain`, which follows within milliseconds: 32 x 64 KiB = 2 MiB; then a message is dropped and
counted."""
USER_PROPERTIES_MAX = 16
"""The others of a message are ignored: they say who asked, and need one."""


class Inbound:
    """Outlives connections. `accept` and `answered` are called by paho, all else by the egress thread.

    Args:
        base: the device's tree, without a slash at its end.
        topics: to subscribe to, below the tree or absolute with a leading slash.
        wake: the egress thread's event.
        is_v5: the protocol.
        optional: further topics; nobody is told when the broker refuses them.
    """

    def __init__(
        self,
        base: str,
        topics: Sequence[str],
        wake: Wake,
        *,
        is_v5: bool,
        optional: Sequence[str] = (),
    ) -> None:
        self._base = base
        self._topics = [absolute(base, topic) for topic in (*topics, *optional)]
        self._optional = {absolute(base, topic) for topic in optional}
        self._wake = wake
        self._is_v5 = is_v5
        self._waiting: deque[SinkEvent] = deque()
        self._received = 0
        self._dropped = Counter(oversize=0, queue_full=0, malformed=0)
        self._refused: tuple[str, ...] = ()

    def attach(self, client: mqtt.Client) -> None:
        """Hear what a new client receives."""
        client.on_message = lambda _c, _u, message: self.accept(message)
        client.on_subscribe = lambda _c, _u, _m, reasons, _p: self.answered(reasons)

    def subscribe(self, client: mqtt.Client) -> None:
        """Ask for every topic after each connection, also where a session was kept: it may be another broker."""
        if not self._topics:
            return
        if self._is_v5:
            # As published: a retained command is known as one also when it comes while we are subscribed.
            options = SubscribeOptions(qos=1, retainAsPublished=True)
            client.subscribe([(topic, options) for topic in self._topics])
        else:
            client.subscribe([(topic, 1) for topic in self._topics])

    def accept(self, message: mqtt.MQTTMessage) -> None:
        """Queue one message: checks and one append."""
        self._received += 1
        is_oversize = len(message.payload) > PAYLOAD_BYTES_MAX
        self._dropped["oversize"] += is_oversize
        if (received := self._read(message)) is None:
            self._dropped["malformed"] += 1
        elif is_oversize and received.topic != DESIRED:
            return
        elif len(self._waiting) >= WAITING_MAX:
            self._dropped["queue_full"] += 1
        else:
            self._waiting.append(received)
            self._wake.set()

    def answered(self, reasons: Sequence[Any]) -> None:
        """Tell the operator, once a change, which topics the broker does not let us hear."""
        answers = zip(self._topics, reasons, strict=False)
        refused = {topic: str(why) for topic, why in answers if why.is_failure and topic not in self._optional}
        if refused and tuple(refused) != self._refused:
            self._waiting.append(Noticed("subscription_refused", {"topics": refused}))
            self._wake.set()
        self._refused = tuple(refused)

    def drain(self) -> list[SinkEvent]:
        """Return what came since the last call."""
        return [self._waiting.popleft() for _ in range(len(self._waiting))]

    def state(self) -> dict[str, Any]:
        """Return figures for health. Any thread."""
        return {"received": self._received, "dropped": dict(self._dropped), "refused_topics": list(self._refused)}

    def _read(self, message: mqtt.MQTTMessage) -> Received | None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            return None
        properties = message.properties
        return Received(
            topic=relative(self._base, topic),
            # One byte too many is kept of a document, so that its receiver can refuse it by name.
            payload=bytes(message.payload[: PAYLOAD_BYTES_MAX + 1]),
            retain=bool(message.retain),
            response_topic=getattr(properties, "ResponseTopic", ""),
            correlation=getattr(properties, "CorrelationData", b""),
            user_properties=tuple(getattr(properties, "UserProperty", ())[:USER_PROPERTIES_MAX]),
        )


@functools.lru_cache(maxsize=256)  # Of a device's own topics, for each message.
def absolute(base: str, topic: str) -> str:
    """Return a topic as the broker knows it."""
    return topic[1:] if topic.startswith("/") else f"{base}/{topic}"


def relative(base: str, topic: str) -> str:
    """Return a broker's topic as we write it: below the device's tree, or with a leading slash."""
    return topic.removeprefix(f"{base}/") if topic.startswith(f"{base}/") else f"/{topic}"
