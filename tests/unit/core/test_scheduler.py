"""Admission and order on one session."""

from __future__ import annotations

import numpy as np
import pytest

from agent.clock import NEVER_NS, NS_PER_MS, NS_PER_S
from agent.core.ledger import Outcome
from agent.core.scheduler import EGRESS_RESERVE_NS, Overflow, Scheduler, StreamPolicy
from agent.frame import Frame

MS = NS_PER_MS
LIVE = StreamPolicy(250 * MS)


def frame(stream: str = "a", sequence: int = 1, at_ns: int = 0, policy: StreamPolicy = LIVE) -> Frame:
    """Build a frame without pixels."""
    return Frame(stream, sequence, at_ns, policy.deadline_ns(at_ns), np.empty((0, 0, 3), np.uint8))


def test_the_newest_frame_wins_the_slot() -> None:
    """Latest wins: what it replaces is superseded."""
    scheduler = Scheduler({"a": LIVE})
    assert scheduler.offer(frame(sequence=1)) == []
    (pushed,) = scheduler.offer(frame(sequence=2, at_ns=10))
    assert (pushed.frame.sequence, pushed.outcome) == (1, Outcome.SUPERSEDED)
    taken, _ = scheduler.take(20)
    assert taken is not None
    assert taken.sequence == 2


def test_a_bounded_queue_drops_the_oldest_and_keeps_order() -> None:
    """With queue_frames above 1 the oldest is dropped as queue_full."""
    policy = StreamPolicy(NS_PER_S, 2, Overflow.DROP_OLDEST)
    scheduler = Scheduler({"a": policy})
    dropped = [item for n in (1, 2, 3) for item in scheduler.offer(frame(sequence=n, at_ns=n, policy=policy))]
    assert [(item.frame.sequence, item.outcome) for item in dropped] == [(1, Outcome.QUEUE_FULL)]
    assert [scheduler.take(5)[0].sequence for _ in range(2)] == [2, 3]  # type: ignore[union-attr]


def test_a_blocking_queue_asks_the_source_to_wait() -> None:
    """every_frame mode never drops: it says that it is full."""
    policy = StreamPolicy(None, 1, Overflow.BLOCK)
    scheduler = Scheduler({"a": policy})
    scheduler.offer(frame(policy=policy))
    assert scheduler.is_full("a")
    with pytest.raises(AssertionError, match="full queue"):
        scheduler.offer(frame(policy=policy))


def test_the_earliest_deadline_goes_first() -> None:
    """Across streams the most urgent frame runs next, whatever came first."""
    short = StreamPolicy(50 * MS)
    scheduler = Scheduler({"a": LIVE, "b": short})
    scheduler.offer(frame("a"))
    scheduler.offer(frame("b", at_ns=10 * MS, policy=short))
    first, _ = scheduler.take(11 * MS)
    assert first is not None
    assert first.stream == "b"


def test_a_frame_without_deadline_is_not_starved() -> None:
    """A file beside a busy camera is served once it has waited for a second."""
    file = StreamPolicy(None, 4, Overflow.BLOCK)
    scheduler = Scheduler({"camera": LIVE, "file": file})
    scheduler.offer(frame("file", policy=file))
    scheduler.offer(frame("camera", at_ns=900 * MS))
    taken, _ = scheduler.take(901 * MS)
    assert taken is not None
    assert taken.stream == "file"


def test_an_expired_frame_never_runs() -> None:
    """Its deadline passed while it waited."""
    scheduler = Scheduler({"a": LIVE})
    scheduler.offer(frame())
    taken, (settled,) = scheduler.take(250 * MS - EGRESS_RESERVE_NS)
    assert taken is None
    assert settled.outcome is Outcome.EXPIRED


def test_a_frame_that_cannot_make_it_is_unreachable() -> None:
    """Admission by the predicted service time."""
    scheduler = Scheduler({"a": LIVE})
    scheduler.finish(frame(), 0, 200 * MS)
    scheduler.offer(frame(at_ns=100 * MS))
    taken, (settled,) = scheduler.take(210 * MS)
    assert taken is None
    assert settled.outcome is Outcome.UNREACHABLE


def test_the_clock_alone_decides_what_is_late() -> None:
    """A run that ignored its abort is late however it ended; one in time is published."""
    scheduler = Scheduler({"a": LIVE})
    last_ns = 250 * MS - EGRESS_RESERVE_NS
    assert scheduler.finish(frame(), 0, last_ns) is Outcome.PUBLISHED
    assert scheduler.finish(frame(), 0, last_ns + 1) is Outcome.LATE
    assert scheduler.finish(frame(), 0, last_ns + 1, aborted=True) is Outcome.ABORTED


def test_marking_streams_refuse_and_abort_nothing() -> None:
    """on_late = "mark": old frames run, and nobody stops them."""
    policy = StreamPolicy(10 * MS, late_is_published=True)
    scheduler = Scheduler({"a": policy})
    late = frame(policy=policy)
    scheduler.offer(late)
    taken, settled = scheduler.take(NS_PER_S)
    assert taken is late
    assert settled == []
    assert scheduler.abort_at_ns(late) == NEVER_NS


def test_shutdown_settles_everything_that_waits() -> None:
    """Nothing is forgotten in a queue."""
    scheduler = Scheduler({"a": LIVE, "b": LIVE})
    scheduler.offer(frame("a"))
    scheduler.offer(frame("b"))
    assert [item.outcome for item in scheduler.drain()] == [Outcome.SHUTDOWN] * 2
    assert scheduler.take(1) == (None, [])
