"""Warnings on `log`: which, how many, and what becomes of the rest."""

from __future__ import annotations

import logging

from agent.core.message import Message
from agent.loops.log_relay import BURST, relaying
from tests.fakes import ManualClock

log = logging.getLogger("agent.tests")


def test_warnings_are_relayed_and_information_is_not() -> None:
    """Only for the length of the block."""
    sent: list[Message] = []
    with relaying(sent.append, ManualClock()):
        log.info("connected")
        log.warning("door: %s", "the source is lost")
    log.warning("after")
    (message,) = sent
    assert (message.topic, message.qos, message.retain) == ("log", 0, False)
    assert (message.body["level"], message.body["message"]) == ("warning", "door: the source is lost")


def test_a_flood_is_cut_and_counted() -> None:
    """The next line that goes says how many did not."""
    sent: list[Message] = []
    clock = ManualClock()
    with relaying(sent.append, clock):
        for number in range(200):
            log.error("line %d %s", number, "x" * 5000)
        clock.ns += 10**9
        log.error("later")
    assert len(sent) == BURST + 1
    assert sent[-1].body["suppressed"] == 200 - BURST
    assert len(sent[0].body["message"]) == 1000
