"""The control loop: who gets what, and what a failing receiver costs the others."""

from __future__ import annotations

import logging
import threading

import pytest

from agent.clock import NEVER_NS, NS_PER_S, SystemClock
from agent.core.inbound import COMMANDS, DESIRED
from agent.interfaces import Connected, Received
from agent.loops.control import ControlLoop
from tests.fakes import ManualClock


class Notebook:
    """A receiver that writes down what it is told, and fails when asked to."""

    def __init__(self, topic: str, waiting_max: int = 4) -> None:
        self.topic = topic
        self.waiting_max = waiting_max
        self.heard: list[str] = []
        self.due_ns = NEVER_NS
        self.error: Exception | None = None
        self.changed = threading.Event()

    def connected(self) -> None:
        self.heard.append("connected")

    def receive(self, message: Received) -> None:
        if self.error is not None:
            raise self.error
        self.heard.append(message.payload.decode())
        self.changed.set()

    def turn(self, now_ns: int) -> int:
        if now_ns >= self.due_ns:
            self.heard.append("due")
            self.due_ns = NEVER_NS
        return self.due_ns


def build(*receivers: Notebook) -> ControlLoop:
    """Return a loop that is stepped by hand."""
    loop = ControlLoop(ManualClock())
    for receiver in receivers:
        loop.add(receiver)
    return loop


def test_each_message_goes_to_the_receiver_of_its_topic_after_the_news_of_the_connection() -> None:
    """A receiver first says anew what the broker must know."""
    commands, desired = Notebook(COMMANDS), Notebook(DESIRED, 1)
    loop = build(commands, desired)
    loop.hear(Received("commands/ping", b"1"))
    loop.hear(Received(DESIRED, b"old"))
    loop.hear(Received(DESIRED, b"new"))
    loop.hear(Connected("broker"))
    loop.step()
    assert commands.heard == ["connected", "1"]
    assert desired.heard == ["connected", "new"]
    assert loop.snapshot() == {
        "received": 3,
        "waiting": 0,
        "dropped": {"replaced": 1, "unclaimed": 0, "failed": 0},
    }


def test_a_receiver_that_fails_costs_the_others_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A bug in it is written to the log with its trace, and counted."""
    commands, desired = Notebook(COMMANDS), Notebook(DESIRED)
    commands.error = RuntimeError("a bug")
    loop = build(commands, desired)
    loop.hear(Received("commands/ping", b"1"))
    loop.hear(Received(DESIRED, b"2"))
    with caplog.at_level(logging.CRITICAL, "agent.loops.control"):
        loop.step()
    assert desired.heard == ["2"]
    assert loop.snapshot()["dropped"]["failed"] == 1
    commands.error = None
    loop.hear(Received("commands/ping", b"3"))
    loop.step()
    assert commands.heard == ["3"]


def test_timers_come_when_they_are_due() -> None:
    """The earliest of all receivers decides when the loop looks again."""
    clock = ManualClock()
    loop = ControlLoop(clock)
    early, late = Notebook(COMMANDS), Notebook(DESIRED)
    loop.add(early)
    loop.add(late)
    early.due_ns, late.due_ns = clock.ns + NS_PER_S, clock.ns + 5 * NS_PER_S
    assert loop.step() == clock.ns + NS_PER_S
    clock.ns += NS_PER_S
    assert loop.step() == clock.ns + 4 * NS_PER_S
    assert (early.heard, late.heard) == (["due"], [])


def test_the_thread_wakes_for_a_message_and_ends_when_told() -> None:
    """In real time; nothing is polled."""
    receiver = Notebook(COMMANDS)
    loop = ControlLoop(SystemClock())
    loop.add(receiver)
    thread = threading.Thread(target=loop.run)
    thread.start()
    loop.hear(Received("commands/ping", b"1"))
    assert receiver.changed.wait(10)
    loop.stop()
    thread.join(10)
    assert not thread.is_alive()
