"""The receivers around Home Assistant: one that announces the device, one that takes it away. The control thread."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable, Mapping
from typing import Any

from agent.clock import NEVER_NS, NS_PER_S, Clock
from agent.core.discovery import is_ours
from agent.core.message import Message
from agent.interfaces import Received

log = logging.getLogger(__name__)

JITTER_NS = 5 * NS_PER_S
"""After Home Assistant's birth: a hundred devices answer within 5 s instead of at once."""

Emit = Callable[[Message], None]


class Announcement:
    """Publishes the device's document at each connection, and some time after Home Assistant came up.

    Args:
        prefix: Home Assistant's discovery prefix.
        topic: of the document.
        build: returns it.
        emit: hands a message to egress.
        clock: the agent's.
        rng: injected, seeded in tests.
    """

    waiting_max = 1

    def __init__(
        self,
        prefix: str,
        topic: str,
        *,
        build: Callable[[], Mapping[str, Any]],
        emit: Emit,
        clock: Clock,
        rng: random.Random | None = None,
    ) -> None:
        self.topic = f"/{prefix}/status"
        self._document_topic = topic
        self._build = build
        self._emit = emit
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311  Jitter is not a secret.
        self._due_ns = NEVER_NS
        self._told: dict[str, str] = {}
        self.births = 0
        """How often Home Assistant said that it is there."""

    def connected(self) -> None:
        """See `Receiver.connected`: the broker may have lost what was retained."""
        self._due_ns = 0

    def again(self) -> None:
        """Say it again at the next turn: it has changed. Any thread."""
        self._due_ns = 0

    def receive(self, message: Received) -> None:
        """See `Receiver.receive`: `online` or `offline` of Home Assistant."""
        if message.payload.strip() != b"online":
            return
        self.births += 1
        if self._due_ns == NEVER_NS:  # Many births in a row are answered once: the first one's moment stands.
            self._due_ns = self._clock.now_ns() + self._rng.randint(0, JITTER_NS)

    def turn(self, now_ns: int) -> int:
        """See `Receiver.turn`."""
        if now_ns >= self._due_ns:
            self._due_ns = NEVER_NS
            payload = json.dumps(self._document(), separators=(",", ":"), ensure_ascii=False).encode()
            self._emit(_retained(self._document_topic, payload, now_ns))
        return self._due_ns

    def snapshot(self) -> dict[str, Any]:
        """Return figures for health. Any thread."""
        return {"births": self.births}

    def _document(self) -> dict[str, Any]:
        """Return the document; an entity that is gone stays in it as its platform alone, which removes it."""
        document = dict(self._build())
        gone = {
            key: {"platform": platform} for key, platform in self._told.items() if key not in document["components"]
        }
        self._told |= {key: entity["platform"] for key, entity in document["components"].items()}
        document["components"] = {**document["components"], **gone}
        return document


class Withdrawal:
    """Takes a document away that an earlier run announced, now that the setting is off.

    It hears its own topic: what lies there is the only trace that needs no file of ours.

    Args:
        topic: of the document.
        emit: hands a message to egress.
        clock: the agent's.
    """

    waiting_max = 1

    def __init__(self, topic: str, *, emit: Emit, clock: Clock) -> None:
        self.topic = f"/{topic}"
        self._document_topic = topic
        self._emit = emit
        self._clock = clock

    def connected(self) -> None:
        """See `Receiver.connected`."""

    def receive(self, message: Received) -> None:
        """See `Receiver.receive`."""
        if message.payload and is_ours(message.payload):
            log.info("home_assistant.enabled is off: taking the device away from %s", self._document_topic)
            self._emit(_retained(self._document_topic, b"", self._clock.now_ns()))

    def turn(self, now_ns: int) -> int:
        """See `Receiver.turn`."""
        del now_ns
        return NEVER_NS


def _retained(topic: str, payload: bytes, now_ns: int) -> Message:
    return Message(
        kind="discovery", topic=f"/{topic}", body={}, captured_at_ns=now_ns, qos=1, retain=True, payload=payload
    )
