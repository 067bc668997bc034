"""Which frame runs next, on which session, and which will not run at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from agent.clock import NEVER_NS, NS_PER_S
from agent.core.lanes import PERIOD_NS_MAX, Foresight, Lane
from agent.core.ledger import Outcome
from agent.core.policy import EGRESS_RESERVE_NS, Overflow, SchedulerPolicy, StreamPolicy, publish_by_ns
from agent.core.predictor import SAMPLES_MIN
from agent.frame import Frame

PATIENCE_NS = NS_PER_S
"""A frame without a deadline is served as if it had this one, so that live streams cannot starve it."""

LEAD_RUNS = 2
"""A stream may be so many runs ahead of the poorest of its priority before the poorest goes first.

With none, the order would be round robin, and frames that are about to expire would wait for their turn. With two,
equal streams differ by three frames at most, however long the overload lasts.
"""


class Ending(Enum):
    """How a run ended, as the engine tells it; the clock still has the last word."""

    DONE = "done"
    ABORTED = "aborted"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Settled:
    """A frame whose life ended inside the scheduler."""

    frame: Frame
    outcome: Outcome


class Scheduler:
    """Admission and order over all streams and sessions.

    Among the frames that can still make it: first a stream that waited longer than its minimum share allows, then
    the highest priority. Within a priority the earliest deadline goes first, unless the stream that has had least
    loses frames already, or is more than `LEAD_RUNS` behind: then that one.
    One session runs one frame at a time; all runs together take `SchedulerPolicy.threads` at most.

    Not thread-safe: `loops.inbox` owns the lock.
    """

    def __init__(self, streams: Mapping[str, StreamPolicy], policy: SchedulerPolicy | None = None) -> None:
        self._policy = policy or SchedulerPolicy()
        self._lanes = {name: Lane(name, stream) for name, stream in streams.items()}
        self._foresight = Foresight(self._policy.predictor, self._lanes.values())
        self._running: dict[str, Frame | None] = {}  # By session; None for a run that only keeps it warm.
        self._run_threads = min(self._policy.run_threads, self._policy.threads)
        self._look_again_ns: dict[str, int] = {}  # By session.
        self._paused: set[str] = set()  # Sessions.
        self._had_ns: dict[str, int] = {}  # By session, what all its streams have had.
        self.goes_first: str | None = None
        """The session that the last `take` named in the place of the one that asked; None for none."""

    def reconfigure(self, streams: Mapping[str, StreamPolicy], policy: SchedulerPolicy) -> list[Settled]:
        """Go on by other policies from the next frame on; running frames end as they would have.

        Returns:
            What waited in streams that are gone or have another session now.
        """
        gone = [
            lane
            for name, lane in self._lanes.items()
            if name not in streams or streams[name].session != lane.policy.session
        ]
        settled = [Settled(frame, Outcome.SHUTDOWN) for lane in gone for frame in lane.waiting]
        kept = {lane.stream: lane for lane in self._lanes.values() if lane not in gone}
        self._lanes = {name: kept.get(name) or Lane(name, own) for name, own in streams.items()}
        for name, lane in self._lanes.items():
            lane.policy = streams[name]
        self._policy = policy
        self._run_threads = min(policy.run_threads, policy.threads)
        self._foresight.follow(policy.predictor, self._lanes.values())
        return settled

    def is_full(self, stream: str) -> bool:
        """Return whether the source must wait before it offers one more frame of a BLOCK stream."""
        policy = self._lanes[stream].policy
        return policy.overflow is Overflow.BLOCK and len(self._lanes[stream].waiting) >= policy.queue_frames

    def offer(self, frame: Frame, now_ns: int) -> list[Settled]:
        """Add a frame; return what it pushed out."""
        lane = self._lanes[frame.stream]
        dropped: list[Settled] = []
        lane.note_arrival(frame, now_ns)
        if lane.had_turn:
            lane.had_turn, lane.waits_since_ns = False, now_ns
            lane.session_had_ns = self._had_ns.get(lane.policy.session, 0)
        lane.is_behind = len(lane.waiting) >= lane.policy.queue_frames
        if not lane.waiting:
            self._return_from_pause(lane, now_ns)
        elif lane.is_behind:
            if lane.policy.overflow is Overflow.BLOCK:
                raise AssertionError(f"{frame.stream}: offered to a full queue; ask is_full first")
            superseding = lane.policy.overflow is Overflow.SUPERSEDE
            outcome = Outcome.SUPERSEDED if superseding else Outcome.QUEUE_FULL
            dropped.append(Settled(lane.waiting.popleft(), outcome))
        lane.waiting.append(frame)
        return dropped

    def take(self, now_ns: int, session: str = "") -> tuple[Frame | None, list[Settled]]:
        """Return the frame that a session runs now, if it is its turn, and frames that will never run.

        None also when another session's frame goes first: `goes_first` must be asked next, even where it was told a
        moment ago that this one did, since turns change with time. A frame that was returned occupies its session
        until `finish`.
        """
        if self._look_again_ns:
            self._look_again_ns.pop(session, None)
        settled: list[Settled] = []
        candidates: list[Lane] = []
        for lane in self._lanes.values():
            if not lane.waiting or lane.policy.session in self._running or lane.policy.session in self._paused:
                continue
            self._drop_hopeless(lane, now_ns, settled)
            if lane.waiting:
                candidates.append(lane)
        chosen = self._turn_of(candidates, session, now_ns)
        while chosen is not None and (owed := self._owed_to(chosen, now_ns)) is not None:
            held = chosen.policy.session
            self._look_again_ns[held] = owed.awaited_until_ns
            candidates = [lane for lane in candidates if lane.policy.session != held]
            chosen = self._turn_of(candidates, session, now_ns)
        self.goes_first = None if chosen is None or chosen.policy.session == session else chosen.policy.session
        if chosen is None or self.goes_first is not None:
            return None, settled
        chosen.had_turn, chosen.waits_since_ns, chosen.awaited_until_ns = True, now_ns, 0
        frame = self._running[session] = chosen.waiting.popleft()
        return frame, settled

    def look_again_ns(self, session: str) -> int:
        """Return when to ask again after `take` gave nothing and nothing has changed since; mostly `NEVER_NS`."""
        return self._look_again_ns.get(session, NEVER_NS)

    def finish(self, frame: Frame, started_ns: int, now_ns: int, ending: Ending = Ending.DONE) -> Outcome:
        """Free the session, learn from a run that ended now and return what becomes of its frame.

        The clock alone decides: an inference that ignored its abort and returned a result is late all the
        same (one giant operator is not interrupted, see ORT's RunOptions.terminate).
        """
        lane = self._lanes.get(frame.stream)
        if lane is not None and self._running.get(lane.policy.session) is frame:
            session: str | None = lane.policy.session
            del self._running[lane.policy.session]
        else:  # Its stream is gone, or was given to another model.
            session = self._end_run(frame)
        if lane is None or session not in (None, lane.policy.session):
            return Outcome.SHUTDOWN  # Its stream was taken away, or given to another model, while it ran.
        # At most the prediction, or what it could use: a stall of the machine is not what the stream has had.
        service_ns = now_ns - started_ns
        predicted_ns = lane.predictor(now_ns).predict_ns(now_ns) or service_ns
        charged_ns = min(service_ns, predicted_ns, lane.policy.budget_ns or service_ns)
        lane.served_ns += charged_ns
        self._had_ns[lane.policy.session] = self._had_ns.get(lane.policy.session, 0) + charged_ns
        if ending is Ending.FAILED:
            return Outcome.FAILED
        for predictor in (lane.own, lane.shared):
            predictor.observe(service_ns, now_ns, aborted=ending is Ending.ABORTED)
        if ending is Ending.ABORTED:
            return Outcome.ABORTED
        return Outcome.PUBLISHED if now_ns <= publish_by_ns(frame) else Outcome.LATE

    def occupy(self, session: str) -> bool:
        """Take a session and its threads for a run without a frame; False when they are taken or any frame waits."""
        is_wanted = any(lane.waiting for lane in self._lanes.values())
        if is_wanted or session in self._running or session in self._paused or not self._has_threads(1):
            return False
        self._running[session] = None
        return True

    def release(self, session: str) -> None:
        """Give back what `occupy` took."""
        self._running.pop(session, None)

    def pause(self, session: str) -> None:
        """Start nothing on a session until `resume`: its model is out of memory. A running frame ends as it would."""
        self._paused.add(session)

    def resume(self, session: str) -> None:
        """End a pause."""
        self._paused.discard(session)

    def is_busy(self, session: str) -> bool:
        """Return whether a run of the session was taken and has not ended."""
        return session in self._running

    def is_paused(self, session: str) -> bool:
        """Return whether nothing starts on a session."""
        return session in self._paused

    def is_wanted(self, session: str) -> bool:
        """Return whether a frame of the session waits."""
        return any(lane.waiting for lane in self._lanes.values() if lane.policy.session == session)

    def must_wait(self, session: str) -> bool:
        """Return whether a frame of the session waits for the end of a run, its own or another session's."""
        return session in self._running or not self._has_threads(1)

    def select_variant(
        self, session: str, variant: str, fastest_ns: int, now_ns: int, *, is_new_model: bool = False
    ) -> None:
        """Note that a session runs another variant of its model from the next frame on, or another model.

        Until it has runs of its own, its fastest run in the warm-up tells whether any frame can make it.
        """
        if is_new_model:
            self._foresight.forget(session)
        shared = self._foresight.select(session, variant)
        for _ in range(SAMPLES_MIN):
            shared.observe(fastest_ns, now_ns)

    def frames(self) -> Iterator[Frame]:
        """Yield what waits."""
        for lane in self._lanes.values():
            yield from lane.waiting

    def abort_at_ns(self, frame: Frame) -> int:
        """Return when a running inference of this frame has lost its purpose."""
        lane = self._lanes.get(frame.stream)
        is_late_wanted = lane is not None and lane.policy.late_is_published
        return NEVER_NS if is_late_wanted else publish_by_ns(frame)

    def predicted_ns(self, stream: str, now_ns: int) -> int:
        """Return the service time that admission expects of the stream now; 0 when unknown."""
        lane = self._lanes.get(stream)
        return 0 if lane is None else lane.predictor(now_ns).predict_ns(now_ns)

    def drain(self) -> list[Settled]:
        """Empty every queue at shutdown."""
        settled = [Settled(frame, Outcome.SHUTDOWN) for lane in self._lanes.values() for frame in lane.waiting]
        for lane in self._lanes.values():
            lane.waiting.clear()
        return settled

    def _end_run(self, frame: Frame) -> str | None:
        """Free the session that ran the frame and return its name."""
        for session, running in self._running.items():
            if running is frame:
                del self._running[session]
                return session
        return None

    def _has_threads(self, runs: int) -> bool:
        return (len(self._running) + runs) * self._run_threads <= self._policy.threads

    def _return_from_pause(self, lane: Lane, now_ns: int) -> None:
        """Give a stream that had nothing to run no more claim than `LEAD_RUNS` over those that had."""
        busy = [
            other for other in self._lanes.values() if other.waiting and other.policy.priority == lane.policy.priority
        ]
        if busy:
            lead_ns = self._lead_ns(lane, now_ns)
            lane.served_ns = max(lane.served_ns, min(other.served_ns for other in busy) - lead_ns)

    def _lead_ns(self, lane: Lane, now_ns: int) -> int:
        return LEAD_RUNS * lane.predictor(now_ns).predict_ns(now_ns)

    def _drop_hopeless(self, lane: Lane, now_ns: int, settled: list[Settled]) -> None:
        """Drop what waits at the head of a stream and cannot make it."""
        if lane.policy.late_is_published:
            return
        while lane.waiting:
            frame = lane.waiting[0]
            last_ns = publish_by_ns(frame)
            if now_ns >= last_ns:
                outcome = Outcome.UNREACHABLE if lane.is_out_of_reach() else Outcome.EXPIRED
            elif (
                last_ns == NEVER_NS
                or lane.admits(frame, last_ns, now_ns)
                or self._is_worth_a_try(lane, frame, last_ns, now_ns)
            ):
                return
            else:
                outcome = Outcome.UNREACHABLE
            settled.append(Settled(lane.waiting.popleft(), outcome))

    def _is_worth_a_try(self, lane: Lane, frame: Frame, last_ns: int, now_ns: int) -> bool:
        """Return whether a doubtful frame should start all the same, because its session would stand idle otherwise.

        Until the next frame comes, its session does nothing. A run now is worth its chance; one later is worth the
        chance of a fresh frame, and takes the wait as well: with a wait `w` and a run `s` it is better to start where
        the chance is at least s / (s + w) of a fresh frame's.
        """
        session = lane.policy.session
        own = [other for other in self._lanes.values() if other.policy.session == session]
        if any(other.waiting for other in own if other is not lane):
            return False
        expected = [other.next_ns(now_ns) for other in own if other.is_expected(now_ns)]
        wait_ns = min(expected, default=now_ns + PERIOD_NS_MAX) - now_ns
        time_left_ns = last_ns - now_ns
        time_best_ns = last_ns - frame.captured_at_ns - lane.latency_ns
        share = time_left_ns / (time_left_ns + wait_ns)
        return lane.predictor(now_ns).is_likely(time_left_ns, time_best_ns, share)

    def _turn_of(self, candidates: list[Lane], session: str, now_ns: int) -> Lane | None:
        """Return whose frame runs next, as far as it concerns a session; None for nobody's."""
        if not candidates or not self._has_threads(1):
            return None
        if len(candidates) == 1:
            return candidates[0]
        sessions = {lane.policy.session for lane in candidates}
        if session not in sessions:
            return None
        if self._has_threads(len(sessions)):
            # Nobody has to wait for another session's thread to wake up.
            candidates = [lane for lane in candidates if lane.policy.session == session]
        return self._choose(candidates, now_ns)

    def _choose(self, candidates: list[Lane], now_ns: int) -> Lane:
        if len(candidates) == 1:
            return candidates[0]
        starved = [lane for lane in candidates if self._is_starved(lane, len(candidates), now_ns)]
        if starved:
            return min(starved, key=lambda lane: lane.waits_since_ns)
        highest = max(lane.policy.priority for lane in candidates)
        equals = [lane for lane in candidates if lane.policy.priority == highest]
        urgent = min(equals, key=_urgency_ns)
        poorest = min(equals, key=lambda lane: lane.served_ns)
        # In overload the order by deadline saves no frame: it picks the oldest of many that all have time enough.
        is_ahead = urgent.served_ns - poorest.served_ns > self._lead_ns(urgent, now_ns)
        return poorest if is_ahead or poorest.is_behind else urgent

    def _owed_to(self, chosen: Lane, now_ns: int) -> Lane | None:
        """Return a starved stream whose next frame would come too late behind a run of the chosen one.

        The minimum share is also of streams whose frames never wait for a turn: they come during the runs of another,
        and have too little time when those end. The session waits for the next one instead: it is due before the run
        would end, and may be late by a quarter of its period, or by the length of a run. That is done once in the
        time of its share, so that a stream whose frames come when they like costs the others little.
        """
        run_ns = chosen.predictor(now_ns).predict_ns(now_ns)
        for lane in self._lanes.values():
            if lane.had_turn or lane.waiting or lane.policy.session != chosen.policy.session or not lane.is_regular:
                continue
            due_ns = lane.offered_ns + lane.period_ns
            until_ns = due_ns + min(lane.period_ns // 4, run_ns)
            service_ns = lane.predictor(now_ns).predict_ns(now_ns)
            time_ns = (lane.policy.budget_ns or 0) - EGRESS_RESERVE_NS - lane.latency_ns
            would_fit = service_ns <= time_ns
            would_be_late = now_ns + run_ns + service_ns > max(now_ns, due_ns) + time_ns
            if now_ns >= until_ns or not would_fit or not would_be_late:
                continue
            share_ns = self._share_ns(lane, len(self._lanes), now_ns)
            # What others had meanwhile, not the time: in a slow spell nobody has turns.
            passed_over_ns = self._had_ns.get(chosen.policy.session, 0) - lane.session_had_ns
            was_just_awaited = lane.awaited_until_ns <= now_ns < lane.awaited_until_ns + share_ns
            if passed_over_ns <= share_ns or was_just_awaited:
                continue
            lane.awaited_until_ns = until_ns
            return lane
        return None

    def _is_starved(self, lane: Lane, rivals: int, now_ns: int) -> bool:
        return now_ns - lane.waits_since_ns > self._share_ns(lane, rivals, now_ns)

    def _share_ns(self, lane: Lane, rivals: int, now_ns: int) -> int:
        """Return the time in which a stream must have had a turn; `NEVER_NS` while its runs are not known."""
        service_ns = lane.predictor(now_ns).predict_ns(now_ns)
        return int(rivals * service_ns / self._policy.min_share) if service_ns else NEVER_NS


def _urgency_ns(lane: Lane) -> int:
    frame = lane.waiting[0]
    return frame.captured_at_ns + PATIENCE_NS if frame.deadline_ns == NEVER_NS else frame.deadline_ns
