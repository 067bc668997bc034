"""Admission and order on one session."""

from __future__ import annotations

import numpy as np
import pytest

from agent.clock import NEVER_NS, NS_PER_MS, NS_PER_S
from agent.core.ledger import Outcome
from agent.core.policy import EGRESS_RESERVE_NS, Overflow, SchedulerPolicy, StreamPolicy
from agent.core.predictor import PredictorPolicy
from agent.core.scheduler import LEAD_RUNS, Ending, Scheduler
from agent.frame import Frame

MS = NS_PER_MS
LIVE = StreamPolicy(250 * MS)


def frame(stream: str = "a", sequence: int = 1, at_ns: int = 0, policy: StreamPolicy = LIVE) -> Frame:
    """Build a frame without pixels."""
    return Frame(stream, sequence, at_ns, policy.deadline_ns(at_ns), np.empty((0, 0, 3), np.uint8))


def run(scheduler: Scheduler, now_ns: int, service_ns: int = 1, session: str = "") -> Frame:
    """Take the frame whose turn it is and run it."""
    taken, _ = scheduler.take(now_ns, session)
    assert taken is not None
    scheduler.finish(taken, now_ns, now_ns + service_ns)
    return taken


def overload(policies: dict[str, StreamPolicy], runs: int, service_ns: int = 40 * MS) -> list[str]:
    """Keep every stream waiting for so many runs and return whose they were."""
    scheduler = Scheduler(policies)
    turns, now_ns = [], 0
    for sequence in range(1, runs + 1):
        for name, policy in policies.items():
            scheduler.offer(frame(name, sequence, now_ns, policy), now_ns)
        turns.append(run(scheduler, now_ns, service_ns).stream)
        now_ns += service_ns
    return turns


def test_the_newest_frame_wins_the_slot() -> None:
    """Latest wins: what it replaces is superseded."""
    scheduler = Scheduler({"a": LIVE})
    assert scheduler.offer(frame(sequence=1), 0) == []
    (pushed,) = scheduler.offer(frame(sequence=2, at_ns=10), 0)
    assert (pushed.frame.sequence, pushed.outcome) == (1, Outcome.SUPERSEDED)
    taken, _ = scheduler.take(20)
    assert taken is not None
    assert taken.sequence == 2


def test_a_bounded_queue_drops_the_oldest_and_keeps_order() -> None:
    """With queue_frames above 1 the oldest is dropped as queue_full."""
    policy = StreamPolicy(NS_PER_S, 2, Overflow.DROP_OLDEST)
    scheduler = Scheduler({"a": policy})
    dropped = [item for n in (1, 2, 3) for item in scheduler.offer(frame(sequence=n, at_ns=n, policy=policy), 0)]
    assert [(item.frame.sequence, item.outcome) for item in dropped] == [(1, Outcome.QUEUE_FULL)]
    assert [run(scheduler, 5 + index).sequence for index in range(2)] == [2, 3]


def test_a_blocking_queue_asks_the_source_to_wait() -> None:
    """every_frame mode never drops: it says that it is full."""
    policy = StreamPolicy(None, 1, Overflow.BLOCK)
    scheduler = Scheduler({"a": policy})
    scheduler.offer(frame(policy=policy), 0)
    assert scheduler.is_full("a")
    with pytest.raises(AssertionError, match="full queue"):
        scheduler.offer(frame(policy=policy), 0)


def test_the_earliest_deadline_goes_first() -> None:
    """Across streams the most urgent frame runs next, whatever came first."""
    short = StreamPolicy(50 * MS)
    scheduler = Scheduler({"a": LIVE, "b": short})
    scheduler.offer(frame("a"), 0)
    scheduler.offer(frame("b", at_ns=10 * MS, policy=short), 0)
    first, _ = scheduler.take(11 * MS)
    assert first is not None
    assert first.stream == "b"


def test_a_frame_without_deadline_is_not_starved() -> None:
    """A file beside a busy camera is served once it has waited for a second."""
    file = StreamPolicy(None, 4, Overflow.BLOCK)
    scheduler = Scheduler({"camera": LIVE, "file": file})
    scheduler.offer(frame("file", policy=file), 0)
    scheduler.offer(frame("camera", at_ns=900 * MS), 0)
    taken, _ = scheduler.take(901 * MS)
    assert taken is not None
    assert taken.stream == "file"


def test_an_expired_frame_never_runs() -> None:
    """Its deadline passed while it waited."""
    scheduler = Scheduler({"a": LIVE})
    scheduler.offer(frame(), 0)
    taken, (settled,) = scheduler.take(250 * MS - EGRESS_RESERVE_NS)
    assert taken is None
    assert settled.outcome is Outcome.EXPIRED


def test_a_frame_that_cannot_make_it_is_unreachable() -> None:
    """Admission by the predicted service time."""
    scheduler = Scheduler({"a": LIVE})
    scheduler.finish(frame(), 0, 200 * MS)
    scheduler.offer(frame(at_ns=100 * MS), 0)
    taken, (settled,) = scheduler.take(210 * MS)
    assert taken is None
    assert settled.outcome is Outcome.UNREACHABLE


def test_the_clock_alone_decides_what_is_late() -> None:
    """A run that ignored its abort is late however it ended; one in time is published."""
    scheduler = Scheduler({"a": LIVE})
    last_ns = 250 * MS - EGRESS_RESERVE_NS
    assert scheduler.finish(frame(), 0, last_ns) is Outcome.PUBLISHED
    assert scheduler.finish(frame(), 0, last_ns + 1) is Outcome.LATE
    assert scheduler.finish(frame(), 0, last_ns + 1, Ending.ABORTED) is Outcome.ABORTED


def test_marking_streams_refuse_and_abort_nothing() -> None:
    """on_late = "mark": old frames run, and nobody stops them."""
    policy = StreamPolicy(10 * MS, late_is_published=True)
    scheduler = Scheduler({"a": policy})
    late = frame(policy=policy)
    scheduler.offer(late, 0)
    taken, settled = scheduler.take(NS_PER_S)
    assert taken is late
    assert settled == []
    assert scheduler.abort_at_ns(late) == NEVER_NS


def test_shutdown_settles_everything_that_waits() -> None:
    """Nothing is forgotten in a queue."""
    scheduler = Scheduler({"a": LIVE, "b": LIVE})
    scheduler.offer(frame("a"), 0)
    scheduler.offer(frame("b"), 0)
    assert [item.outcome for item in scheduler.drain()] == [Outcome.SHUTDOWN] * 2
    assert scheduler.take(1) == (None, [])


def test_equal_streams_differ_by_few_runs_however_long_the_overload() -> None:
    """Deadlines alone would serve the first stream for ever: its frame is always as urgent as the others'."""
    turns = overload(dict.fromkeys("abcd", LIVE), runs=400)
    counts = [turns.count(name) for name in "abcd"]
    assert max(counts) - min(counts) <= LEAD_RUNS + 1


def test_a_short_deadline_takes_no_more_than_its_share() -> None:
    """A stream that is always the most urgent leads by two runs, then the others have their turn."""
    turns = overload({"hasty": StreamPolicy(100 * MS), "calm": LIVE}, runs=100)
    assert 48 <= turns.count("hasty") <= 52


def test_priority_goes_first_down_to_the_others_minimum_share() -> None:
    """min_share = 0.2 between two streams: one run in ten or so for the lower one."""
    turns = overload({"high": StreamPolicy(250 * MS, priority=9), "low": LIVE}, runs=300)
    assert 20 <= turns.count("low") <= 45


def test_a_pause_earns_no_claim() -> None:
    """A stream that comes back after a hundred runs of another gets two runs more, not a hundred."""
    scheduler = Scheduler({"a": LIVE, "b": LIVE})
    now_ns, turns = 0, []
    for sequence in range(1, 121):
        for name in ("a", "b") if sequence > 100 else ("a",):
            scheduler.offer(frame(name, sequence, now_ns), now_ns)
        turns.append(run(scheduler, now_ns, 40 * MS).stream)
        now_ns += 40 * MS
    assert 8 <= turns[100:].count("b") <= 13


def test_a_stall_is_not_charged_to_whose_frame_it_hit() -> None:
    """The machine stood still for 5 s in a run of a: a is not left out for as long."""
    scheduler = Scheduler({"a": LIVE, "b": LIVE})
    now_ns, turns = 0, []
    for sequence in range(1, 61):
        for name in ("a", "b"):
            scheduler.offer(frame(name, sequence, now_ns), now_ns)
        service_ns = 5 * NS_PER_S if sequence == 20 else 40 * MS
        turns.append(run(scheduler, now_ns, service_ns).stream)
        now_ns += service_ns
    assert abs(turns.count("a") - turns.count("b")) <= 4


TWO_MODELS = {"a": StreamPolicy(250 * MS, session="one"), "b": StreamPolicy(200 * MS, session="two")}


def test_sessions_share_the_threads() -> None:
    """With one thread for two sessions the more urgent frame runs, and the other session waits for its end."""
    scheduler = Scheduler(TWO_MODELS, SchedulerPolicy(threads=1))
    scheduler.offer(frame("a", policy=TWO_MODELS["a"]), 0)
    scheduler.offer(frame("b", policy=TWO_MODELS["b"]), 0)
    assert scheduler.take(1, "one") == (None, [])
    urgent, _ = scheduler.take(1, "two")
    assert urgent is not None
    assert scheduler.take(1, "one") == (None, [])
    scheduler.finish(urgent, 1, 2)
    assert run(scheduler, 2, session="one").stream == "a"


def test_sessions_run_side_by_side_where_threads_are_left() -> None:
    """Two threads, two sessions of one: both run; a third frame of a busy session does not."""
    scheduler = Scheduler(TWO_MODELS, SchedulerPolicy(threads=2))
    for name, policy in TWO_MODELS.items():
        scheduler.offer(frame(name, policy=policy), 0)
    assert scheduler.take(1, "two")[0] is not None
    assert scheduler.take(1, "one")[0] is not None
    scheduler.offer(frame("a", 2, policy=TWO_MODELS["a"]), 1)
    assert scheduler.take(2, "one")[0] is None


def test_a_session_that_is_wider_than_the_limit_runs_alone() -> None:
    """Four threads asked for, two there: it runs when nothing else does."""
    scheduler = Scheduler(TWO_MODELS, SchedulerPolicy(threads=2, run_threads=4))
    scheduler.offer(frame("a", policy=TWO_MODELS["a"]), 0)
    wide, _ = scheduler.take(1, "one")
    assert wide is not None
    scheduler.offer(frame("b", policy=TWO_MODELS["b"]), 1)
    assert scheduler.take(1, "two")[0] is None
    scheduler.finish(wide, 1, 2)
    assert scheduler.take(2, "two")[0] is not None


def test_a_stream_without_runs_of_its_own_is_judged_by_its_neighbours() -> None:
    """Refused while the machine was slow, it learns from the next stream on the same model that it is fast again."""
    scheduler = Scheduler({"a": LIVE, "b": LIVE})
    for index in range(4):
        scheduler.finish(frame("a", index + 1), 0, 400 * MS + index)
    scheduler.offer(frame("b", at_ns=500 * MS), 500 * MS)
    taken, (settled,) = scheduler.take(501 * MS)
    assert taken is None
    assert settled.outcome is Outcome.UNREACHABLE
    for index in range(4):
        scheduler.finish(frame("a", index + 5), 3 * NS_PER_S, 3 * NS_PER_S + 50 * MS)
    scheduler.offer(frame("b", 2, at_ns=3100 * MS), 3100 * MS)
    assert scheduler.take(3101 * MS)[0] is not None


def test_a_variant_has_service_times_of_its_own() -> None:
    """What the full model needed says nothing about the small one, whose warm-up is all that is known at first."""
    scheduler = Scheduler({"a": LIVE})
    for _ in range(4):
        scheduler.finish(frame(), 0, 400 * MS)
    scheduler.select_variant("", "small", 30 * MS, 400 * MS)
    scheduler.offer(frame(at_ns=400 * MS), 400 * MS)
    assert scheduler.predicted_ns("a", 401 * MS) == 30 * MS
    assert scheduler.take(401 * MS)[0] is not None


def test_an_occupied_session_runs_no_frame_until_it_is_released() -> None:
    """Keep-warm runs take a session only when no frame waits for it."""
    scheduler = Scheduler({"a": LIVE})
    assert scheduler.occupy("")
    scheduler.offer(frame(), 0)
    assert scheduler.take(1)[0] is None
    scheduler.release("")
    assert not scheduler.occupy("")
    assert scheduler.take(1)[0] is not None


def test_expired_frames_do_not_take_a_stream_its_minimum_share() -> None:
    """A slow camera with a short deadline beside a saturating one of higher priority: it still gets its turns."""
    policies = {"busy": StreamPolicy(250 * MS, priority=9), "meek": StreamPolicy(100 * MS)}
    scheduler = Scheduler(policies)
    now_ns, turns = 0, []
    for sequence in range(1, 601):
        scheduler.offer(frame("busy", sequence, now_ns, policies["busy"]), now_ns)
        if sequence % 5 == 0:
            scheduler.offer(frame("meek", sequence, now_ns, policies["meek"]), now_ns)
        turns.append(run(scheduler, now_ns, 40 * MS).stream)
        now_ns += 40 * MS
    assert turns.count("meek") >= 30


def test_a_slow_spell_that_ends_between_two_deadlines_does_not_close_a_stream_for_ever() -> None:
    """The last three runs fit a frame that had no way to get here, and none that had: it must try all the same."""
    scheduler = Scheduler({"a": StreamPolicy(100 * MS)})
    latency_ns, now_ns = 10 * MS, 0
    for _ in range(3):
        scheduler.finish(frame("a", policy=StreamPolicy(100 * MS)), now_ns, now_ns + 95 * MS)
        now_ns += 95 * MS
    ran = 0
    for sequence in range(1, 101):
        now_ns += 100 * MS
        scheduler.offer(frame("a", sequence, now_ns, StreamPolicy(100 * MS)), now_ns + latency_ns)
        taken, _ = scheduler.take(now_ns + latency_ns)
        if taken is not None:
            ran += 1
            scheduler.finish(taken, now_ns + latency_ns, now_ns + latency_ns + 60 * MS)
    assert ran >= 90


def test_in_overload_the_poorest_stream_goes_before_the_most_urgent() -> None:
    """The older frame has time enough, and its stream had more: that of the stream that loses frames runs."""
    scheduler = Scheduler({"a": LIVE, "b": LIVE})
    scheduler.finish(frame("a"), 0, 40 * MS)
    for sequence in (1, 2):
        scheduler.offer(frame("b", sequence, at_ns=(30 + 10 * sequence) * MS), 50 * MS)
    scheduler.offer(frame("a", 2, at_ns=41 * MS), 50 * MS)
    assert run(scheduler, 51 * MS).stream == "b"


def test_a_warm_run_is_not_begun_while_any_frame_waits() -> None:
    """Threads are shared: another session's frame needs them."""
    scheduler = Scheduler(TWO_MODELS, SchedulerPolicy(threads=1))
    scheduler.offer(frame("b", policy=TWO_MODELS["b"]), 0)
    assert not scheduler.occupy("one")
    assert not scheduler.must_wait("two")
    assert scheduler.take(1, "two")[0] is not None
    assert scheduler.must_wait("one")


def test_a_free_thread_does_not_wait_for_another_session_to_wake_up() -> None:
    """Threads for both: each session takes its own frame, whichever is more urgent."""
    scheduler = Scheduler(TWO_MODELS, SchedulerPolicy(threads=2))
    for name, policy in TWO_MODELS.items():
        scheduler.offer(frame(name, policy=policy), 0)
    assert scheduler.take(1, "one")[0] is not None


@pytest.mark.parametrize(
    ("period_ms", "has_neighbour", "is_tried"), [(400, False, True), (70, False, False), (400, True, False)]
)
def test_a_doubtful_frame_is_tried_where_its_session_would_stand_idle(
    period_ms: int, has_neighbour: bool, is_tried: bool
) -> None:
    """With a chance of a half and nothing to do for 340 ms it goes; not where a fresh frame comes in 10, or waits."""
    no_probes = SchedulerPolicy(predictor=PredictorPolicy(probe_share=0.2))  # None within 340 ms after a run.
    scheduler = Scheduler({"a": LIVE, "b": LIVE} if has_neighbour else {"a": LIVE}, no_probes)
    now_ns = free_ns = 0
    for sequence in range(1, 31):
        now_ns += period_ms * MS
        scheduler.offer(frame(sequence=sequence, at_ns=now_ns), now_ns)
        if now_ns >= free_ns and sequence < 30:
            service_ns = (150 if sequence % 2 else 220) * MS
            run(scheduler, now_ns, service_ns)
            free_ns = now_ns + service_ns
    later_ns = now_ns + 60 * MS
    if has_neighbour:
        scheduler.offer(frame("b", 1, later_ns), later_ns)
    taken, settled = scheduler.take(later_ns)
    assert (taken is not None and taken.stream == "a") == is_tried
    assert [item.outcome for item in settled] == ([] if is_tried else [Outcome.UNREACHABLE])


def test_a_stream_that_is_gone_is_not_waited_for() -> None:
    """A camera that never came, or came an hour ago, must not keep its session from what it has."""
    for gone_ns in (None, NS_PER_S):
        scheduler = Scheduler({"a": LIVE, "gone": LIVE})
        if gone_ns is not None:
            for sequence in (1, 2):
                scheduler.offer(frame("gone", sequence, sequence * 50 * MS), sequence * 50 * MS)
                run(scheduler, sequence * 50 * MS)
        now_ns = 3600 * NS_PER_S
        for sequence in range(1, 13):
            now_ns += 400 * MS
            scheduler.offer(frame(sequence=sequence, at_ns=now_ns), now_ns)
            if sequence < 12:
                run(scheduler, now_ns, (150 if sequence % 2 else 220) * MS)
        taken, _ = scheduler.take(now_ns + 60 * MS)
        assert taken is not None
