"""Which frame runs next, on which session, and which will not run at all."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from agent.clock import NEVER_NS, NS_PER_MS, NS_PER_S
from agent.core.ledger import Outcome
from agent.core.predictor import SAMPLES_MIN, PredictorPolicy, ServicePredictor
from agent.frame import Frame
from agent.settings.steps import StepsSettings

EGRESS_RESERVE_NS = 2 * NS_PER_MS
"""Kept free before every deadline for the hand-over from inference to the socket.

The hand-over is one append, one thread switch and one JSON encoding; health shows it as stage `hand_over`.
"""

PATIENCE_NS = NS_PER_S
"""A frame without a deadline is served as if it had this one, so that live streams cannot starve it."""

PERIOD_FRAMES = 8
"""A stream's period is an average that forgets as fast as one over so many frames."""
PERIOD_NS_MAX = NS_PER_S
"""What a pause counts as, and the wait for a frame of which nobody knows when it comes."""

LEAD_RUNS = 2
"""A stream may be so many runs ahead of the poorest of its priority before the poorest goes first.

With none, the order would be round robin, and frames that are about to expire would wait for their turn. With two,
equal streams differ by three frames at most, however long the overload lasts.
"""


class Overflow(Enum):
    """What a full queue does with one more frame."""

    SUPERSEDE = "supersede"
    """The newest frame wins; the one it replaces is `superseded` (the one-frame slot of live mode)."""
    DROP_OLDEST = "drop_oldest"
    """The oldest frame is dropped as `queue_full` (live mode with a queue, for models that need order)."""
    BLOCK = "block"
    """The source waits (every_frame mode)."""


class Ending(Enum):
    """How a run ended, as the engine tells it; the clock still has the last word."""

    DONE = "done"
    ABORTED = "aborted"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class StreamPolicy:
    """How the scheduler treats one stream.

    Attributes:
        budget_ns: a frame's deadline is its capture plus this; None for no deadline.
        queue_frames: the most frames that wait, at least 1.
        overflow: what happens to one more.
        late_is_published: `on_late = "mark"`: nothing is refused or aborted for its age.
        session: the model whose session serves it.
        priority: higher goes first, down to the others' minimum share.
        max_hz: the highest rate of frames that ask for inference, None for no limit.
        stride: of the captured frames, every n-th asks for inference.
        steps: what becomes of its results; for the inference loop, the scheduler does not look at it.
        is_stateful: its model remembers, so that no step of the degradation ladder leaves out frames in between.
    """

    budget_ns: int | None
    queue_frames: int = 1
    overflow: Overflow = Overflow.SUPERSEDE
    late_is_published: bool = False
    session: str = ""
    priority: int = 0
    max_hz: float | None = None
    stride: int = 1
    steps: StepsSettings | None = None
    is_stateful: bool = False

    def deadline_ns(self, captured_at_ns: int) -> int:
        """Return the absolute deadline of a frame captured then."""
        return NEVER_NS if self.budget_ns is None else captured_at_ns + self.budget_ns


@dataclass(frozen=True, slots=True)
class SchedulerPolicy:
    """What holds for all streams and sessions.

    Attributes:
        threads: inference threads that may run at the same time, over all sessions.
        run_threads: what one run takes of them.
        min_share: of the sessions' time, what is divided evenly among waiting streams whatever their priority.
        predictor: see `PredictorPolicy`.
    """

    threads: int = 1
    run_threads: int = 1
    min_share: float = 0.2
    predictor: PredictorPolicy = field(default_factory=PredictorPolicy)


@dataclass(frozen=True, slots=True)
class Settled:
    """A frame whose life ended inside the scheduler."""

    frame: Frame
    outcome: Outcome


class _Lane:
    """One stream's waiting frames and what it has had.

    Attributes:
        served_ns: inference time that it has had; lifted when it comes back from a pause, so that nobody saves up a
            claim.
        waits_since_ns: when it had its last turn, or began to wait after it. Frames that expire meanwhile do not
            change it: their stream still waits.
        had_turn: its last frame was run, and none has come since.
        latency_ns: from the capture of its newest frame to its arrival here.
        is_behind: its newest frame pushed out one that had waited: it cannot have every frame.
        offered_ns: when its newest frame came here; 0 before the first.
        period_ns: between two of them, of late.
        own: learns its service times, on the variant in use.
        shared: learns those of all streams of its session.
    """

    own: ServicePredictor
    shared: ServicePredictor

    def __init__(self, stream: str, policy: StreamPolicy) -> None:
        self.stream = stream
        self.policy = policy
        self.waiting: deque[Frame] = deque()
        self.served_ns = 0
        self.waits_since_ns = 0
        self.had_turn = True
        self.latency_ns = 0
        self.is_behind = False
        self.offered_ns = 0
        self.period_ns = 0

    def predictor(self, now_ns: int) -> ServicePredictor:
        """Return the one to judge by: its own, if it had enough runs of late."""
        return self.own if self.own.is_current(now_ns) else self.shared

    def admits(self, frame: Frame, last_ns: int, now_ns: int) -> bool:
        """Return whether a frame that must be finished by `last_ns` should start now.

        Any stream's run tells how fast the session is, so a probe is due only when none of them ran for long.
        """
        time_best_ns = last_ns - frame.captured_at_ns - self.latency_ns
        is_admitted = self.predictor(now_ns).admits(last_ns - now_ns, time_best_ns, now_ns)
        return is_admitted or self.shared.is_probe_due(time_best_ns, now_ns)

    def is_out_of_reach(self) -> bool:
        """Return whether even a fresh frame cannot make it: the stream's budget is below every run ever seen."""
        if self.policy.budget_ns is None:
            return False
        time_ns = self.policy.budget_ns - EGRESS_RESERVE_NS
        return time_ns <= 0 or time_ns < self.shared.fastest_ns


class _Foresight:
    """The predictors of streams and sessions, by model variant.

    A stream that was refused for a while knows nothing of the present; its neighbours on the same model do.
    """

    def __init__(self, policy: PredictorPolicy, lanes: Iterable[_Lane]) -> None:
        self._policy = policy
        self._known: dict[tuple[str, str], ServicePredictor] = {}
        self._selected: dict[str, str] = {}
        self._lanes: list[_Lane] = []
        self.follow(policy, lanes)

    def follow(self, policy: PredictorPolicy, lanes: Iterable[_Lane]) -> None:
        """Serve other streams; what is known of those that stay is kept, unless it was learnt by other rules."""
        self._lanes = list(lanes)
        if policy != self._policy:
            self._policy, self._known = policy, {}
        sessions = {lane.policy.session for lane in self._lanes}
        owners = {f"/{session}" for session in sessions} | {lane.stream for lane in self._lanes}
        self._known = {key: known for key, known in self._known.items() if key[0] in owners}
        self._selected = {session: self._selected.get(session, "") for session in sessions}
        for session, variant in self._selected.items():
            self.select(session, variant)

    def select(self, session: str, variant: str) -> ServicePredictor:
        """Judge a session by another variant's service times from now on; those of the others are kept.

        Returns:
            The predictor of all its streams together.
        """
        self._selected[session] = variant
        shared = self._of(f"/{session}", variant)  # No stream's name holds a slash.
        for lane in self._lanes:
            if lane.policy.session == session:
                lane.own, lane.shared = self._of(lane.stream, variant), shared
        return shared

    def forget(self, session: str) -> None:
        """Drop what is known of a session and its streams: another network serves them now."""
        owners = {f"/{session}"} | {lane.stream for lane in self._lanes if lane.policy.session == session}
        self._known = {key: known for key, known in self._known.items() if key[0] not in owners}

    def _of(self, owner: str, variant: str) -> ServicePredictor:
        if (owner, variant) not in self._known:
            self._known[owner, variant] = ServicePredictor(self._policy)
        return self._known[owner, variant]


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
        self._lanes = {name: _Lane(name, stream) for name, stream in streams.items()}
        self._foresight = _Foresight(self._policy.predictor, self._lanes.values())
        self._running: dict[str, Frame | None] = {}  # By session; None for a run that only keeps it warm.
        self._run_threads = min(self._policy.run_threads, self._policy.threads)

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
        self._lanes = {name: kept.get(name) or _Lane(name, own) for name, own in streams.items()}
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
        lane.latency_ns = now_ns - frame.captured_at_ns
        if lane.offered_ns:
            gap_ns = now_ns - lane.offered_ns
            gap_ns = min(gap_ns, PERIOD_NS_MAX)
            lane.period_ns += (gap_ns - lane.period_ns) // PERIOD_FRAMES if lane.period_ns else gap_ns
        lane.offered_ns = now_ns
        if lane.had_turn:
            lane.had_turn, lane.waits_since_ns = False, now_ns
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

        None also when another session's frame goes first: that session must be asked next. A frame that was returned
        occupies its session until `finish`.
        """
        settled: list[Settled] = []
        candidates: list[_Lane] = []
        for lane in self._lanes.values():
            if not lane.waiting or lane.policy.session in self._running:
                continue
            self._drop_hopeless(lane, now_ns, settled)
            if lane.waiting:
                candidates.append(lane)
        chosen = self._turn_of(candidates, session, now_ns)
        if chosen is None or chosen.policy.session != session:
            return None, settled
        chosen.had_turn, chosen.waits_since_ns = True, now_ns
        frame = self._running[session] = chosen.waiting.popleft()
        return frame, settled

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
        # At most the prediction: a stall of the machine is not what the stream has had.
        service_ns = now_ns - started_ns
        lane.served_ns += min(service_ns, lane.predictor(now_ns).predict_ns(now_ns) or service_ns)
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
        if is_wanted or session in self._running or not self._has_threads(1):
            return False
        self._running[session] = None
        return True

    def release(self, session: str) -> None:
        """Give back what `occupy` took."""
        self._running.pop(session, None)

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

    def _return_from_pause(self, lane: _Lane, now_ns: int) -> None:
        """Give a stream that had nothing to run no more claim than `LEAD_RUNS` over those that had."""
        busy = [
            other for other in self._lanes.values() if other.waiting and other.policy.priority == lane.policy.priority
        ]
        if busy:
            lead_ns = self._lead_ns(lane, now_ns)
            lane.served_ns = max(lane.served_ns, min(other.served_ns for other in busy) - lead_ns)

    def _lead_ns(self, lane: _Lane, now_ns: int) -> int:
        return LEAD_RUNS * lane.predictor(now_ns).predict_ns(now_ns)

    def _drop_hopeless(self, lane: _Lane, now_ns: int, settled: list[Settled]) -> None:
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

    def _is_worth_a_try(self, lane: _Lane, frame: Frame, last_ns: int, now_ns: int) -> bool:
        """Return whether a doubtful frame should start all the same, because its session would stand idle otherwise.

        Until the next frame comes, its session does nothing. A run now is worth its chance; one later is worth the
        chance of a fresh frame, and takes the wait as well: with a wait `w` and a run `s` it is better to start where
        the chance is at least s / (s + w) of a fresh frame's.
        """
        session = lane.policy.session
        own = [other for other in self._lanes.values() if other.policy.session == session]
        if any(other.waiting for other in own if other is not lane):
            return False
        # Who is two periods behind has paused, or is gone.
        expected = [other for other in own if now_ns - other.offered_ns < 2 * other.period_ns]
        next_ns = min((other.offered_ns + other.period_ns for other in expected), default=now_ns + PERIOD_NS_MAX)
        wait_ns = max(0, next_ns - now_ns)
        time_left_ns = last_ns - now_ns
        time_best_ns = last_ns - frame.captured_at_ns - lane.latency_ns
        share = time_left_ns / (time_left_ns + wait_ns)
        return lane.predictor(now_ns).is_likely(time_left_ns, time_best_ns, share)

    def _turn_of(self, candidates: list[_Lane], session: str, now_ns: int) -> _Lane | None:
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

    def _choose(self, candidates: list[_Lane], now_ns: int) -> _Lane:
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

    def _is_starved(self, lane: _Lane, rivals: int, now_ns: int) -> bool:
        service_ns = lane.predictor(now_ns).predict_ns(now_ns)
        turn_ns = int(rivals * service_ns / self._policy.min_share)
        return service_ns > 0 and now_ns - lane.waits_since_ns > turn_ns


def publish_by_ns(frame: Frame) -> int:
    """Return the last moment at which inference may hand the frame's result to egress."""
    return frame.deadline_ns if frame.deadline_ns == NEVER_NS else frame.deadline_ns - EGRESS_RESERVE_NS


def _urgency_ns(lane: _Lane) -> int:
    frame = lane.waiting[0]
    return frame.captured_at_ns + PATIENCE_NS if frame.deadline_ns == NEVER_NS else frame.deadline_ns
