"""The thread-safe shell around the intake, and the figures of every stream."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, Protocol

import numpy as np

from agent.clock import NEVER_NS, NS_PER_S, Clock
from agent.core.intake import Intake
from agent.core.ledger import Ledger, Outcome
from agent.core.policy import Overflow, SchedulerPolicy, StreamPolicy
from agent.core.probation import StreamReading
from agent.core.scheduler import Ending
from agent.frame import Capture, Frame, Pixels
from agent.interfaces import Abort
from agent.loops.stream_figures import Durations, StreamFigures, snapshot
from agent.settings.steps import StepsSettings

NO_PIXELS: Pixels = np.empty((0, 0, 3), np.uint8)

MISSES = (Outcome.LATE, Outcome.EXPIRED, Outcome.UNREACHABLE, Outcome.ABORTED)
"""What ended because time was too short; a frame that a newer one replaced is no miss."""

IN_TIME = (Outcome.PUBLISHED, Outcome.UNCHANGED)

FORGOTTEN_AFTER_NS = 900 * NS_PER_S
"""A live frame without an outcome so long after its deadline was lost by us: the self-check reports it. A hang may
last 600 s (`limits.hang_s`), or ten times a warm-up run, before the agent replaces itself."""


class Nothing(Enum):
    """Why `Inbox.take` returns no frame."""

    IDLE = "idle"
    """Nothing came for the time that was given."""
    NUDGED = "nudged"
    """Somebody asked its thread to look around."""
    ENDED = "ended"
    """Nothing will come any more."""


class Trace(Protocol):
    """Writes down what happened, for `edgebeat simulate`. Called under the inbox's lock: one append each."""

    def arrived(self, stream: str, captured_at_ns: int, now_ns: int) -> None:
        """Note a captured frame and its arrival."""

    def ran(self, frame: Frame, started_ns: int, ended_ns: int, ending: Ending) -> None:
        """Note a run."""


class Inbox:
    """Hands captured frames to the inference threads; every method may be called by any thread.

    Args:
        policies: by stream name.
        clock: the agent's.
        scheduling: what holds for all streams.
        trace: where arrivals and runs are written down; None for nowhere.
    """

    def __init__(
        self,
        policies: Mapping[str, StreamPolicy],
        clock: Clock,
        scheduling: SchedulerPolicy | None = None,
        trace: Trace | None = None,
    ) -> None:
        self._clock = clock
        self._intake = Intake(policies, scheduling)
        self._trace = trace
        self._figures = {name: StreamFigures() for name in policies}
        self._lock = threading.Lock()
        # Entered as the plain lock, which costs a tenth of the condition's own methods.
        self._changed = threading.Condition(self._lock)
        self._waiters = 0
        self._asleep: set[str] = set()
        """Sessions whose threads wait in `take`, and were told of nothing since."""
        self._is_stopping = False
        self._is_closed = False
        self._forgotten: dict[str, set[int]] = {name: set() for name in policies}
        self._entering: dict[str, Frame] = {}
        """By stream: what its reader has until there is room."""
        self._taken: dict[str, Frame] = {}
        """By session: what its thread has from `take` to `settle`; one that comes back without has lost it."""
        self._warm_runs: dict[str, Abort] = {}
        self._looks: dict[str, int] = {}
        self._nudged: set[str] = set()

    def reconfigure(self, policies: Mapping[str, StreamPolicy], scheduling: SchedulerPolicy) -> None:
        """Go on by other policies from the next frame on; see `Intake.reconfigure`.

        A stream that is gone is closed, its figures and its book stay. One that is new waits for its reader. A trace
        ends here: it tells of the policies that it began with.
        """
        with self._lock:
            self._trace = None
            for name in self._intake.policies.keys() - policies.keys():
                self._figures[name].reader += 1
                self._figures[name].is_open = self._figures[name].is_off = False
            for name in policies.keys() - self._figures.keys():
                self._figures[name], self._forgotten[name] = StreamFigures(is_open=False, is_off=True), set()
            self._intake.reconfigure(policies, scheduling)
            self._tell()

    def attach(self, stream: str) -> int:
        """Open a stream for a new reader and return its number; calls of an earlier one change nothing any more."""
        with self._lock:
            figures = self._figures[stream]
            figures.reader += 1
            figures.is_open, figures.is_off = True, False
            self._tell()
            return figures.reader

    def switch_off(self, stream: str) -> None:
        """Let nobody read a stream for now: its session stays, and what waits is still served."""
        with self._lock:
            figures = self._figures[stream]
            figures.reader += 1
            figures.is_open, figures.is_off = False, True
            self._tell()

    def nudge(self, session: str) -> None:
        """Let a session's thread look around, even when no frame comes."""
        with self._lock:
            self._nudged.add(session)
            self._tell()

    def steps(self, stream: str) -> StepsSettings | None:
        """Return what a stream does with its results now; None for nothing."""
        policy = self._intake.policies.get(stream)  # Replaced as a whole: needs no lock.
        return None if policy is None else policy.steps

    def publishes_late(self, stream: str) -> bool:
        """Return whether a late result of the stream is published, marked."""
        policy = self._intake.policies.get(stream)
        return policy is not None and policy.late_is_published

    def offer(self, stream: str, capture: Capture, reader: int = 0) -> None:
        """Count a captured frame and queue it; an every_frame stream waits here for room.

        After `stop`, and when another reader came meanwhile, the frame ends as `shutdown`.
        """
        figures = self._figures[stream]
        with self._lock:
            if reader != figures.reader:
                return  # Read by one that was replaced: it never came in.
            frame = self._open(stream, capture, figures)
            if frame is None:
                return
            if self._intake.policies[stream].overflow is Overflow.BLOCK:
                self._entering[stream] = frame
                while self._intake.is_full(stream) and not self._is_stopping and reader == figures.reader:
                    self._wait(None)
                self._entering.pop(stream, None)
            if self._is_stopping or reader != figures.reader:
                self._intake.settle(frame, Outcome.SHUTDOWN)
                return
            self._intake.queue(frame, self._clock.now_ns())
            if self._warm_runs and self._intake.scheduler.must_wait(self._intake.policies[stream].session):
                self._abort_warm_runs()
            if self._waiters:
                self._tell()

    def unusable(self, stream: str, captured_at_ns: int, reader: int = 0) -> None:
        """Count a frame that was captured and could not be decoded by its source."""
        with self._lock:
            if reader != self._figures[stream].reader:
                return
            frame = self._open(stream, Capture(captured_at_ns, NO_PIXELS), self._figures[stream])
            if frame is not None:
                self._intake.settle(frame, Outcome.FAILED, stage="capture")

    def _open(self, stream: str, capture: Capture, figures: StreamFigures) -> Frame | None:
        now_ns = self._clock.now_ns()
        if figures.first_at_ns is None:
            figures.first_at_ns = now_ns
        figures.last_at_ns = now_ns
        figures.gaps += not capture.follows
        if self._trace is not None:
            self._trace.arrived(stream, min(capture.captured_at_ns, now_ns), now_ns)
        return self._intake.open(stream, capture, now_ns)

    def take(self, session: str = "", idle_after_ns: int = NEVER_NS) -> Frame | Nothing:
        """Wait for the next frame that a session runs; its thread owes it a `finish` and a `settle`.

        Args:
            session: whose thread calls.
            idle_after_ns: return `Nothing.IDLE` when there was no frame for so long.
        """
        with self._lock:
            self._taken.pop(session, None)
            idle_at_ns = NEVER_NS if idle_after_ns == NEVER_NS else self._clock.now_ns() + idle_after_ns
            while not self._is_stopping:
                self._looks[session] = self._looks.get(session, 0) + 1
                if session in self._nudged:
                    self._nudged.discard(session)
                    return Nothing.NUDGED
                now_ns = self._clock.now_ns()
                frame = self._intake.take(now_ns, session)
                if frame is not None:
                    self._taken[session] = frame
                    if self._waiters:
                        self._tell()  # A waiting every_frame source has room now, and another session may be next.
                    return frame
                if self._intake.scheduler.goes_first in self._asleep:
                    self._tell()  # It was told that another went first, and turns change with time.
                if not self._is_open(session) and not self._intake.scheduler.is_wanted(session):
                    return Nothing.ENDED
                if now_ns >= idle_at_ns:
                    return Nothing.IDLE
                until_ns = min(idle_at_ns, self._intake.scheduler.look_again_ns(session))
                self._asleep.add(session)
                self._wait(None if until_ns == NEVER_NS else (until_ns - now_ns) / NS_PER_S)
                self._asleep.discard(session)
            return Nothing.ENDED

    def _wait(self, timeout_s: float | None) -> None:
        self._waiters += 1
        try:
            self._changed.wait(timeout_s)
        finally:
            self._waiters -= 1

    def _tell(self) -> None:
        """Wake whoever waits for a change. What is done for each frame asks first: mostly nobody does."""
        if self._waiters:
            self._asleep.clear()
            self._changed.notify_all()

    def attention(self, session: str) -> tuple[int, bool]:
        """Return how often a session's thread looked for a frame, and whether one waits for it. Any thread."""
        with self._lock:
            scheduler = self._intake.scheduler
            return self._looks.get(session, 0), scheduler.is_wanted(session) and not scheduler.is_paused(session)

    def pause(self, session: str) -> None:
        """See `Scheduler.pause`; frames go on to wait, and to be replaced. The control thread, as `resume`."""
        with self._lock:
            self._intake.scheduler.pause(session)

    def is_busy(self, session: str) -> bool:
        """See `Scheduler.is_busy`: from `take` on, before its thread has begun. Any thread."""
        with self._lock:
            return self._intake.scheduler.is_busy(session)

    def resume(self, session: str) -> None:
        """See `Scheduler.resume`."""
        with self._lock:
            self._intake.scheduler.resume(session)
            self._tell()

    def _is_open(self, session: str) -> bool:
        own = [self._figures[name] for name, policy in self._intake.policies.items() if policy.session == session]
        return any(figures.is_open or figures.is_off for figures in own)

    def begin_warm_run(self, session: str, abort: Abort) -> bool:
        """Occupy a session for a run that only keeps it warm; False when threads are taken or a frame came.

        A frame that comes during the run sets `abort`. The caller owes an `end_warm_run`.
        """
        with self._lock:
            if self._is_stopping or not self._intake.scheduler.occupy(session):
                return False
            self._warm_runs[session] = abort
            return True

    def _abort_warm_runs(self) -> None:
        for abort in self._warm_runs.values():
            abort.set()
        self._warm_runs.clear()

    def end_warm_run(self, session: str) -> None:
        """Free the session again."""
        with self._lock:
            self._warm_runs.pop(session, None)
            self._intake.scheduler.release(session)
            self._tell()

    def abort_at_ns(self, frame: Frame) -> int:
        """See `Scheduler.abort_at_ns`."""
        return self._intake.scheduler.abort_at_ns(frame)

    def finish(self, frame: Frame, started_ns: int, ending: Ending = Ending.DONE) -> Outcome:
        """See `Scheduler.finish`; the frame still needs its `settle`."""
        with self._lock:
            if self._is_closed:
                return Outcome.SHUTDOWN
            now_ns = self._clock.now_ns()
            if self._trace is not None:
                self._trace.ran(frame, started_ns, now_ns, ending)
            outcome = self._intake.finish(frame, started_ns, now_ns, ending)
            if self._waiters:
                self._tell()  # Threads are free: another session may be next.
            return outcome

    def settle(self, frame: Frame, outcome: Outcome, *, stage: str | None = None, marks: Sequence[int] = ()) -> None:
        """Record the outcome of a frame that was taken.

        Args:
            frame: from `take`.
            outcome: of it.
            stage: where it failed.
            marks: when its `STAGES` began and ended, ns, none for those that did not run.
        """
        with self._lock:
            if not self._is_closed:
                self._intake.settle(frame, outcome, stage=stage)
            if marks:
                self._figures[frame.stream].record_stages(marks)

    def select_variant(self, session: str, variant: str, fastest_ns: int, *, is_new_model: bool = False) -> None:
        """Note that a session runs another variant or model, and how fast that was in its warm-up."""
        with self._lock:
            now_ns = self._clock.now_ns()
            self._intake.scheduler.select_variant(session, variant, fastest_ns, now_ns, is_new_model=is_new_model)

    def throttle(self, stream: str, *, factor: int, is_paused: bool) -> None:
        """See `Intake.throttle`."""
        with self._lock:
            self._intake.throttle(stream, factor=factor, is_paused=is_paused)

    def misses(self) -> dict[str, tuple[int, int]]:
        """Return (frames that missed their deadline, those and the ones in time) since the start, by session."""
        sums: dict[str, tuple[int, int]] = {}
        with self._lock:
            for name, policy in self._intake.policies.items():
                session, ledger = policy.session, self._intake.ledgers[name]
                missed = sum(ledger.count(outcome) for outcome in MISSES)
                before = sums.get(session, (0, 0))
                in_time = sum(ledger.count(outcome) for outcome in IN_TIME)
                sums[session] = before[0] + missed, before[1] + missed + in_time
        return sums

    def tallies(self) -> dict[str, StreamReading]:
        """Return what a change of settings is judged by, for every stream that is on."""
        with self._lock:
            return {name: self._tally(name) for name in self._intake.policies if not self._figures[name].is_off}

    def _tally(self, name: str) -> StreamReading:
        ledger = self._intake.ledgers[name]
        return StreamReading(
            captured=ledger.captured,
            in_time=ledger.count(Outcome.PUBLISHED),
            not_in_time=sum(ledger.count(outcome) for outcome in (*MISSES, Outcome.FAILED)),
            is_open=self._figures[name].is_open,
        )

    def record_sent(self, stream: str, age_ns: int, hand_over_ns: int) -> None:
        """Add the age of a live result when the sink had it, and how long that took after inference."""
        with self._lock:
            self._figures[stream].record_sent(age_ns, hand_over_ns)

    def source_lost(self, stream: str) -> None:
        """Count one loss of a stream's source."""
        with self._lock:
            self._figures[stream].source_losses += 1

    def end_stream(self, stream: str, reader: int = 0) -> None:
        """Note that a stream's source has ended; its waiting frames are still served."""
        with self._lock:
            if reader == self._figures[stream].reader:
                self._figures[stream].is_open = False
                self._tell()

    def stop(self) -> None:
        """End every wait and settle what waits as `shutdown`."""
        with self._lock:
            self._is_stopping = True
            self._abort_warm_runs()
            self._intake.drain()
            self._tell()

    def settle_in_flight(self) -> None:
        """Settle what is still open at the very end; a thread that was left behind changes nothing after it.

        A frame that nobody has stays open: the summary must not hide that it was lost.
        """
        with self._lock:
            self._is_closed = True
            for name, ledger in self._intake.ledgers.items():
                ledger.settle_all(Outcome.SHUTDOWN, but=ledger.lost(self._owned(name)))

    def self_check(self) -> dict[str, int]:
        """Return, by stream, frames lost or settled twice by us. Every figure must be 0."""
        with self._lock:
            now_ns = self._clock.now_ns()
            return {name: self._violations(name, ledger, now_ns) for name, ledger in self._intake.ledgers.items()}

    def snapshot(self, *, recent: bool = False) -> dict[str, dict[str, Any]]:
        """Return the figures of every stream under their public names.

        The lock is held for some 20 us a stream at a time: whoever has a frame waits for no more than that.

        Args:
            recent: rates and durations of the last one to two minutes, instead of since the start.
        """
        found = {}
        with self._lock:
            names = list(self._figures)
        for name in names:
            with self._lock:
                state, durations = self._look(name, recent=recent)
            found[name] = {**state, **durations.snapshot()}
        return found

    def _look(self, name: str, *, recent: bool) -> tuple[dict[str, Any], Durations]:
        figures, ledger, policy = self._figures[name], self._intake.ledgers[name], self._intake.policies.get(name)
        now_ns = self._clock.now_ns()
        figures.turn(ledger, now_ns)
        state = {
            **snapshot(figures, ledger, policy, now_ns, recent=recent),
            "failures": dict(self._intake.failures[name]),
            "predicted_ms": round(self._intake.scheduler.predicted_ns(name, now_ns) / 1e6, 3),
            "future_stamps": self._intake.future_stamps[name],
        }
        return state, figures.durations(recent=recent)

    def _violations(self, name: str, ledger: Ledger, now_ns: int) -> int:
        """Count what is wrong: frames that nobody has, and those that somebody has had for far too long.

        One look is not enough for the latter: after a suspend every frame in flight is old.
        """
        policy = self._intake.policies.get(name)
        # A stream that is gone has no deadline any more, and must be empty just as soon.
        is_bounded = policy is None or (policy.budget_ns is not None and not policy.late_is_published)
        limit_ns = (0 if policy is None else policy.budget_ns or 0) + FORGOTTEN_AFTER_NS
        forgotten = ledger.forgotten(now_ns, limit_ns) if is_bounded else set()
        stuck, self._forgotten[name] = forgotten & self._forgotten[name], forgotten
        lost = ledger.lost(self._owned(name))
        return ledger.violations + len(lost | stuck) + (not ledger.is_exact())

    def _owned(self, name: str) -> set[int]:
        """Return the frames of a stream that wait, or that a thread took and owes an outcome."""
        frames = (*self._intake.scheduler.frames(), *self._entering.values(), *self._taken.values())
        return {frame.sequence for frame in frames if frame.stream == name}
