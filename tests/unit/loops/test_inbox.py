"""The inbox between threads: nobody waits for what has already happened."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from agent.clock import NS_PER_MS, NS_PER_S, SystemClock
from agent.core.ledger import Outcome
from agent.core.policy import Overflow, SchedulerPolicy, StreamPolicy
from agent.frame import Capture, Frame
from agent.loops.inbox import FORGOTTEN_AFTER_NS, Inbox, Nothing
from tests.broker import wait_until
from tests.fakes import PICTURE, ManualClock, ScriptedAbort

LIVE = StreamPolicy(60 * NS_PER_S, session="one")
FILE = StreamPolicy(None, 4, Overflow.BLOCK, session="one")


def two_models(threads: int = 1) -> Inbox:
    """An inbox of two files, each with a model of its own."""
    policies = {"a": FILE, "b": StreamPolicy(None, 4, Overflow.BLOCK, session="two")}
    return Inbox(policies, SystemClock(), SchedulerPolicy(threads=threads))


@contextmanager
def taking(inbox: Inbox, session: str) -> Iterator[list[Frame | Nothing]]:
    """Take in a thread of its own; at the end of the block it must have come back."""
    taken: list[Frame | Nothing] = []
    thread = threading.Thread(target=lambda: taken.append(inbox.take(session)))
    thread.start()
    yield taken
    thread.join(10)
    assert not thread.is_alive()


def take(inbox: Inbox, session: str) -> Frame:
    """Take a frame that must be there."""
    taken = inbox.take(session, 0)
    assert isinstance(taken, Frame)
    return taken


def test_two_files_on_one_thread_are_served_to_their_ends() -> None:
    """Neither session leaves while frames of its own wait for the other's thread."""
    inbox, served = two_models(), {"one": 0, "two": 0}

    def capture(stream: str) -> None:
        for _ in range(50):
            inbox.offer(stream, Capture(SystemClock().now_ns(), PICTURE))
        inbox.end_stream(stream)

    def serve(session: str) -> None:
        while isinstance(frame := inbox.take(session), Frame):
            served[session] += 1
            inbox.settle(frame, inbox.finish(frame, SystemClock().now_ns()))

    threads = [threading.Thread(target=capture, args=(stream,)) for stream in "ab"]
    threads += [threading.Thread(target=serve, args=(session,)) for session in served]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)  # Emulated ARM64 takes more than 20 s.
        assert not thread.is_alive()
    assert served == {"one": 50, "two": 50}


def test_a_turn_that_changes_while_a_session_waits_for_it() -> None:
    """Each was told that the other goes first, and both waited for ever, their readers for room."""
    clock = ManualClock()
    started_ns = clock.ns
    policies = {"a": FILE, "b": StreamPolicy(None, 4, Overflow.BLOCK, session="two")}
    inbox = Inbox(policies, clock, SchedulerPolicy(threads=1))
    for session in ("one", "two"):
        inbox.select_variant(session, "only", 10 * NS_PER_MS)
    clock.ns += 10 * NS_PER_MS
    inbox.offer("b", Capture(clock.ns, PICTURE))
    clock.ns += 50 * NS_PER_MS
    inbox.offer("a", Capture(started_ns, PICTURE))  # Older, so it goes first.
    with taking(inbox, "two") as taken:
        wait_until(lambda: bool(inbox.attention("two")[0]), "the thread to wait for its turn")
        clock.ns += 60 * NS_PER_MS  # Twice 10 ms by the minimum share of a fifth: `b` is starved.
        assert inbox.take("one", 0) is Nothing.IDLE
    assert isinstance(taken[0], Frame)


def test_the_end_of_a_run_wakes_the_other_session() -> None:
    """Its frame waited for a thread."""
    inbox = two_models()
    inbox.offer("a", Capture(0, PICTURE))
    running = take(inbox, "one")
    inbox.offer("b", Capture(0, PICTURE))
    with taking(inbox, "two") as taken:
        inbox.finish(running, 0)
    assert isinstance(taken[0], Frame)


def test_the_end_of_a_warm_run_wakes_the_other_session() -> None:
    """The same for a run without a frame; the frame asked it to end."""
    inbox, abort = two_models(), ScriptedAbort()
    assert inbox.begin_warm_run("one", abort)
    inbox.offer("b", Capture(0, PICTURE))
    assert abort.event.is_set()
    with taking(inbox, "two") as taken:
        inbox.end_warm_run("one")
    assert isinstance(taken[0], Frame)


def test_a_taken_frame_makes_room_for_its_source() -> None:
    """An every_frame source waits for room, and gets it without another event."""
    inbox = Inbox({"a": StreamPolicy(None, 1, Overflow.BLOCK, session="one")}, SystemClock())
    inbox.offer("a", Capture(0, PICTURE))
    thread = threading.Thread(target=inbox.offer, args=("a", Capture(0, PICTURE)))
    thread.start()
    take(inbox, "one")
    thread.join(10)
    assert not thread.is_alive()


def test_a_warm_run_with_threads_to_spare_goes_on() -> None:
    """Another session's frame has a thread of its own."""
    inbox, abort = two_models(threads=2), ScriptedAbort()
    assert inbox.begin_warm_run("one", abort)
    inbox.offer("b", Capture(0, PICTURE))
    assert not abort.event.is_set()
    inbox.stop()
    assert abort.event.is_set()


def test_a_thread_that_was_left_behind_changes_nothing_after_the_end() -> None:
    """Its frame ended as shutdown; a result that comes later is none."""
    inbox = Inbox({"a": LIVE}, SystemClock())
    inbox.offer("a", Capture(SystemClock().now_ns(), PICTURE))
    frame = take(inbox, "one")
    inbox.stop()
    inbox.settle_in_flight()
    assert inbox.finish(frame, 0) is Outcome.SHUTDOWN
    inbox.settle(frame, Outcome.PUBLISHED)
    ledger = inbox.snapshot()["a"]["ledger"]
    assert (ledger["published"], ledger["shutdown"]) == (0, 1)
    assert inbox.self_check() == {"a": 0}


@pytest.mark.parametrize("policy", [LIVE, FILE, StreamPolicy(NS_PER_S, late_is_published=True, session="one")])
def test_a_frame_that_its_thread_lost_is_reported_at_once_and_at_the_end(policy: StreamPolicy) -> None:
    """Whatever its deadline is: its thread came back for another one, and nobody has it."""
    clock = ManualClock()
    inbox = Inbox({"a": policy}, clock)
    inbox.offer("a", Capture(clock.now_ns(), PICTURE))
    frame = take(inbox, "one")
    inbox.finish(frame, 0)
    assert inbox.self_check() == {"a": 0}
    assert inbox.take("one", 0) is Nothing.IDLE
    assert inbox.self_check() == {"a": 1}
    inbox.offer("a", Capture(clock.now_ns(), PICTURE))
    inbox.settle_in_flight()
    ledger = inbox.snapshot()["a"]["ledger"]
    assert (ledger["captured"], ledger["shutdown"], ledger["in_flight"]) == (2, 1, 1)
    assert inbox.self_check() == {"a": 1}


def test_what_waits_runs_or_has_no_room_is_not_lost() -> None:
    """A queue of one, one that runs, and a reader that cannot give its frame away."""
    inbox = Inbox({"a": StreamPolicy(None, 1, Overflow.BLOCK, session="one")}, SystemClock())

    def read() -> None:
        for _ in range(3):
            inbox.offer("a", Capture(0, PICTURE))

    reader = threading.Thread(target=read)
    reader.start()
    frame = take_in_time(inbox)
    wait_until(lambda: inbox.snapshot()["a"]["ledger"]["captured"] == 3, "three were read")
    assert inbox.self_check() == {"a": 0}
    inbox.settle(frame, inbox.finish(frame, 0))
    inbox.stop()
    reader.join(10)
    assert inbox.self_check() == {"a": 0}


def take_in_time(inbox: Inbox) -> Frame:
    """Wait for the first frame."""
    taken = inbox.take("one", 10 * NS_PER_S)
    assert isinstance(taken, Frame)
    return taken


def test_a_forgotten_frame_is_reported_at_the_second_look() -> None:
    """Once may be a suspend, in which every frame in flight grows old."""
    clock = ManualClock()
    inbox = Inbox({"a": LIVE}, clock)
    inbox.offer("a", Capture(clock.now_ns(), PICTURE))
    frame = take(inbox, "one")
    clock.ns += 60 * NS_PER_S + FORGOTTEN_AFTER_NS + NS_PER_MS
    assert inbox.self_check() == {"a": 0}
    assert inbox.self_check() == {"a": 1}
    inbox.settle(frame, inbox.finish(frame, 0))
    assert inbox.self_check() == {"a": 0}


def test_a_stream_that_marks_late_results_may_wait() -> None:
    """on_late = "mark": a frame that waits for long is not forgotten."""
    clock = ManualClock()
    inbox = Inbox({"a": StreamPolicy(NS_PER_S, late_is_published=True, session="one")}, clock)
    inbox.offer("a", Capture(clock.now_ns(), PICTURE))
    clock.ns += 10 * FORGOTTEN_AFTER_NS
    assert [inbox.self_check(), inbox.self_check()] == [{"a": 0}, {"a": 0}]


def test_a_session_that_waits_for_a_camera_looks_again_when_that_is_gone() -> None:
    """A file's frame is there, and nothing happens any more: the thread must wake by itself."""
    clock = ManualClock()
    inbox = Inbox({"file": FILE, "camera": StreamPolicy(100 * NS_PER_MS, session="one")}, clock)
    inbox.offer("file", Capture(clock.ns, PICTURE))
    while (taken := inbox.take("one", 0)) is not Nothing.IDLE:
        assert isinstance(taken, Frame)
        assert clock.ns < 5 * NS_PER_S, "the camera never had its turn"
        inbox.offer("file", Capture(clock.ns, PICTURE))
        clock.ns += 40 * NS_PER_MS  # Too late in a run of 70 ms to be in time behind it.
        inbox.offer("camera", Capture(clock.ns, PICTURE))
        clock.ns += 30 * NS_PER_MS
        inbox.settle(taken, inbox.finish(taken, clock.ns - 70 * NS_PER_MS))
    with taking(inbox, "one") as late:
        wait_until(lambda: inbox._waiters == 1, "the session waits")
        clock.ns += NS_PER_S
    assert isinstance(late[0], Frame)
    assert late[0].stream == "file"


def test_a_paused_session_starts_nothing_and_is_busy_until_its_run_ends() -> None:
    """From the moment that a frame was taken; what comes meanwhile waits, and nobody is expected to look at it."""
    inbox = Inbox({"a": LIVE}, ManualClock())
    inbox.offer("a", Capture(0, PICTURE))
    frame = take(inbox, "one")
    inbox.pause("one")
    assert inbox.is_busy("one")
    inbox.settle(frame, inbox.finish(frame, 0))
    assert not inbox.is_busy("one")
    inbox.offer("a", Capture(0, PICTURE))
    assert inbox.take("one", 0) is Nothing.IDLE
    assert not inbox.begin_warm_run("one", ScriptedAbort())
    assert inbox.attention("one")[1] is False
    inbox.resume("one")
    assert isinstance(inbox.take("one", 0), Frame)
