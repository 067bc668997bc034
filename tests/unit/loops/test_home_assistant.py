"""Announcing the device, and taking it away."""

from __future__ import annotations

import json
import random

from agent.clock import NEVER_NS
from agent.core.message import Message
from agent.interfaces import Received
from agent.loops.home_assistant import JITTER_NS, Announcement, Withdrawal
from tests.fakes import ManualClock

TOPIC = "homeassistant/device/porch/config"
BIRTH = Received("/homeassistant/status", b"online")


def announcement(clock: ManualClock, sent: list[Message], seed: int = 0) -> Announcement:
    """Build one."""
    return Announcement(
        "homeassistant",
        TOPIC,
        build=lambda: {"components": {}},
        emit=sent.append,
        clock=clock,
        rng=random.Random(seed),
    )


def test_the_document_is_retained_and_sent_at_each_connection() -> None:
    """A broker that was restarted may have lost it."""
    clock, sent = ManualClock(), list[Message]()
    told = announcement(clock, sent)
    assert told.turn(clock.ns) == NEVER_NS
    for _ in range(2):
        told.connected()
        assert told.turn(clock.ns) == NEVER_NS
    assert len(sent) == 2
    assert (sent[0].topic, sent[0].retain, sent[0].qos, sent[0].kind) == (f"/{TOPIC}", True, 1, "discovery")
    assert json.loads(sent[0].payload or b"") == {"components": {}}


def test_a_birth_is_answered_once_within_five_seconds_and_not_at_once_by_all() -> None:
    """Missed births are what people complain of; a hundred answers in one moment are no better."""
    waits = []
    for seed in range(50):
        clock, sent = ManualClock(), list[Message]()
        told = announcement(clock, sent, seed)
        for _ in range(10):
            told.receive(BIRTH)
        waits.append(told.turn(clock.ns) - clock.ns)
        assert sent == []
        clock.ns += waits[-1]
        assert told.turn(clock.ns) == NEVER_NS
        assert len(sent) == 1
        assert told.snapshot() == {"births": 10}
    assert max(waits) <= JITTER_NS
    assert max(waits) - min(waits) > JITTER_NS // 2


def test_an_entity_that_is_gone_is_taken_away_by_its_platform_alone() -> None:
    """Home Assistant keeps what a document leaves out; it comes back as it was."""
    clock, sent = ManualClock(), list[Message]()
    entities = {"a": {"platform": "sensor", "name": "A"}, "b": {"platform": "image", "name": "B"}}
    told = Announcement(
        "homeassistant", TOPIC, build=lambda: {"components": dict(entities)}, emit=sent.append, clock=clock
    )
    told.connected()
    told.turn(clock.ns)
    removed = entities.pop("b")
    for expected in ({"platform": "image"}, removed):
        told.again()
        told.turn(clock.ns)
        assert json.loads(sent[-1].payload or b"")["components"]["b"] == expected
        entities["b"] = removed
    assert len(sent) == 3


def test_other_words_of_home_assistant_are_no_birth() -> None:
    """Its goodbye, and whatever else somebody sends there."""
    clock, sent = ManualClock(), list[Message]()
    told = announcement(clock, sent)
    for payload in (b"offline", b"", b"\xff", b"ONLINE"):
        told.receive(Received("/homeassistant/status", payload))
    assert told.turn(clock.ns) == NEVER_NS
    assert sent == []


def test_only_a_document_of_ours_is_taken_away() -> None:
    """The empty payload that we send comes back to us and is the end of it."""
    sent: list[Message] = []
    withdrawal = Withdrawal(TOPIC, emit=sent.append, clock=ManualClock())
    withdrawal.receive(Received(f"/{TOPIC}", b"", retain=True))
    withdrawal.receive(Received(f"/{TOPIC}", b'{"origin":{"name":"Other"}}', retain=True))
    assert sent == []
    withdrawal.receive(Received(f"/{TOPIC}", b'{"origin":{"name":"Edgebeat"}}', retain=True))
    assert [(message.topic, message.payload, message.retain) for message in sent] == [(f"/{TOPIC}", b"", True)]
