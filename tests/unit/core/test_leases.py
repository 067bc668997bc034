"""Watch leases."""

from __future__ import annotations

from agent.clock import NEVER_NS, NS_PER_S
from agent.core.leases import HOLDERS_MAX, STREAMS_MAX, Leases


def test_a_stream_is_watched_until_the_last_lease_ends() -> None:
    """Each holder has one lease a stream; to renew is to hold again."""
    leases = Leases()
    assert leases.hold("door", "a", 10 * NS_PER_S)
    assert leases.hold("door", "b", 20 * NS_PER_S)
    assert leases.hold("door", "a", 15 * NS_PER_S)
    assert (len(leases), leases.next_ns()) == (2, 15 * NS_PER_S)
    leases.expire(15 * NS_PER_S)
    assert leases.streams == {"door"}
    leases.expire(20 * NS_PER_S)
    assert (leases.streams, leases.next_ns()) == (frozenset(), NEVER_NS)


def test_one_holder_ends_only_its_own() -> None:
    """And one that has none ends nothing."""
    leases = Leases()
    leases.hold("door", "a", NS_PER_S)
    leases.release("door", "b")
    assert leases.streams == {"door"}
    leases.release("door", "a")
    assert not leases.streams


def test_streams_and_holders_are_bounded_and_a_renewal_always_works() -> None:
    """Whoever holds one keeps it."""
    leases = Leases()
    for number in range(STREAMS_MAX):
        assert leases.hold(f"s{number}", "a", NS_PER_S)
    assert not leases.hold("one more", "a", NS_PER_S)
    for number in range(HOLDERS_MAX - STREAMS_MAX):
        assert leases.hold("s0", f"h{number}", NS_PER_S)
    assert not leases.hold("s0", "one more", NS_PER_S)
    assert leases.hold("s0", "a", 2 * NS_PER_S)
