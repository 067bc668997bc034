"""What paho hands over, on its way to the egress thread."""

from __future__ import annotations

import threading

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from agent.core.inbound import PAYLOAD_BYTES_MAX, SUBSCRIPTIONS
from agent.interfaces import Noticed, Received
from agent.sinks.inbound import USER_PROPERTIES_MAX, WAITING_MAX, Inbound

BASE = "edgebeat/v1/porch"


def build() -> Inbound:
    """Return what a sink on MQTT 5 uses."""
    return Inbound(BASE, SUBSCRIPTIONS, threading.Event(), is_v5=True)


def message(topic: bytes, payload: bytes = b"x") -> mqtt.MQTTMessage:
    """Build what paho hands to its callback."""
    received = mqtt.MQTTMessage(topic=topic)
    received.payload = payload
    return received


def test_a_message_keeps_what_its_sender_said() -> None:
    """Topic below the tree, answer's address, and who asked; no more user properties than are of use."""
    inbound = build()
    asked = message(f"{BASE}/commands/ping".encode())
    asked.properties = Properties(PacketTypes.PUBLISH)
    asked.properties.ResponseTopic = f"{BASE}/responses/me"
    asked.properties.CorrelationData = b"7"
    asked.properties.UserProperty = [("who", str(number)) for number in range(USER_PROPERTIES_MAX + 5)]
    asked.retain = True
    inbound.accept(asked)
    (received,) = inbound.drain()
    assert isinstance(received, Received)
    assert (received.topic, received.payload, received.retain) == ("commands/ping", b"x", True)
    assert (received.response_topic, received.correlation) == (f"{BASE}/responses/me", b"7")
    assert len(received.user_properties) == USER_PROPERTIES_MAX
    assert inbound.drain() == []


def test_what_is_too_large_too_much_or_no_text_is_counted_and_dropped() -> None:
    """None of it may raise in paho's thread, or grow in memory."""
    inbound = build()
    inbound.accept(message(f"{BASE}/settings/desired".encode(), b"x" * (PAYLOAD_BYTES_MAX + 1)))
    inbound.accept(message(f"{BASE}/commands/ping".encode(), b"x" * (PAYLOAD_BYTES_MAX + 1)))
    inbound.accept(message(b"edgebeat/v1/porch/commands/\xff"))
    for _ in range(WAITING_MAX + 3):
        inbound.accept(message(f"{BASE}/settings/desired".encode(), b"x" * PAYLOAD_BYTES_MAX))
    state = inbound.state()
    assert state["dropped"] == {"oversize": 2, "queue_full": 4, "malformed": 1}
    assert state["received"] == WAITING_MAX + 6
    first, *rest = inbound.drain()
    assert isinstance(first, Received)
    assert len(first.payload) == PAYLOAD_BYTES_MAX + 1, "a document that is too large is refused by name"
    assert len(rest) == WAITING_MAX - 1


def test_a_topic_outside_of_the_tree_is_absolute() -> None:
    """Another device whose name begins alike is outside."""
    inbound = build()
    inbound.accept(message(b"homeassistant/status"))
    inbound.accept(message(b"edgebeat/v1/porch2/commands/ping"))
    topics = [event.topic for event in inbound.drain() if isinstance(event, Received)]
    assert topics == ["/homeassistant/status", "/edgebeat/v1/porch2/commands/ping"]


def test_a_refused_subscription_is_told_once_a_change() -> None:
    """An access list that forbids it would otherwise look like an operator who never asks."""
    inbound = build()
    granted, refused = ReasonCode(PacketTypes.SUBACK, "Granted QoS 1"), ReasonCode(PacketTypes.SUBACK, identifier=135)
    inbound.answered([granted, refused])
    inbound.answered([granted, refused])
    (notice,) = inbound.drain()
    assert isinstance(notice, Noticed)
    assert notice.body == {"topics": {f"{BASE}/settings/desired": "Not authorized"}}
    inbound.answered([granted, granted])
    assert inbound.drain() == []
    assert inbound.state()["refused_topics"] == []
