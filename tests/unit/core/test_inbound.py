"""The queues of what came from the broker."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.core.inbound import COMMANDS, DESIRED, InboundQueues, matches
from agent.interfaces import Received


def test_plus_stands_for_exactly_one_level() -> None:
    """As in MQTT; an absolute topic has an empty first level."""
    assert matches("commands/+", "commands/ping")
    assert not matches("commands/+", "commands")
    assert not matches("commands/+", "commands/a/b")
    assert not matches("commands/+", "/commands/ping")
    assert matches("/homeassistant/status", "/homeassistant/status")


def test_a_flood_for_one_receiver_takes_nothing_from_another() -> None:
    """The oldest command gives way to a newer one; the settings stay."""
    queues = InboundQueues({COMMANDS: 2, DESIRED: 1})
    queues.put(Received(DESIRED, b"kept"))
    for number in range(5):
        assert queues.put(Received("commands/ping", b"%d" % number))
    assert queues.dropped == {"replaced": 3, "unclaimed": 0}
    assert [queues.take(COMMANDS).payload for _ in range(2)] == [b"3", b"4"]  # type: ignore[union-attr]
    assert queues.take(COMMANDS) is None
    assert queues.take(DESIRED) == Received(DESIRED, b"kept")


def test_what_nobody_takes_is_counted() -> None:
    """A topic of a newer version, or one of somebody else."""
    queues = InboundQueues({COMMANDS: 2})
    assert not queues.put(Received(DESIRED, b""))
    assert (queues.received, queues.dropped["unclaimed"], queues.waiting) == (1, 1, 0)


@given(st.lists(st.tuples(st.sampled_from(["commands/a", "commands/b", DESIRED, "x"]), st.booleans())))
def test_everything_that_came_is_taken_dropped_or_waits(steps: list[tuple[str, bool]]) -> None:
    """The same equation as everywhere, whatever the order."""
    queues = InboundQueues({COMMANDS: 3, DESIRED: 1})
    taken = 0
    for topic, takes in steps:
        queues.put(Received(topic, b""))
        for pattern in (COMMANDS, DESIRED) if takes else ():
            taken += queues.take(pattern) is not None
    assert queues.received == taken + queues.waiting + sum(queues.dropped.values())
    assert queues.waiting <= 4
