"""What the scheduler knows of each stream: its waiting frames, what it has had, and how long its runs take."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from agent.clock import NS_PER_S
from agent.core.policy import EGRESS_RESERVE_NS, StreamPolicy
from agent.core.predictor import PredictorPolicy, ServicePredictor
from agent.frame import Frame

PERIOD_FRAMES = 8
"""A stream's period is an average that forgets as fast as one over so many frames."""
PERIOD_NS_MAX = NS_PER_S
"""What a pause counts as, and the wait for a frame of which nobody knows when it comes."""


class Lane:
    """One stream's waiting frames and what it has had.

    Attributes:
        served_ns: inference time that it has had; lifted when it comes back from a pause, so that nobody saves up a
            claim.
        waits_since_ns: when it had its last turn, or began to wait after it. Frames that expire meanwhile do not
            change it: their stream still waits.
        session_had_ns: what all streams of its session had had then.
        had_turn: its last frame was run, and none has come since.
        latency_ns: from the capture of its newest frame to its arrival here.
        is_behind: its newest frame pushed out one that had waited: it cannot have every frame.
        offered_ns: when its newest frame came here; 0 before the first.
        period_ns: between two of them, of late.
        awaited_until_ns: until when its session waits, or waited, for its next frame; 0 where it did not since its
            last turn.
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
        self.session_had_ns = 0
        self.had_turn = True
        self.latency_ns = 0
        self.is_behind = False
        self.offered_ns = 0
        self.period_ns = 0
        self.awaited_until_ns = 0

    def note_arrival(self, frame: Frame, now_ns: int) -> None:
        """Learn from a frame that comes how old frames are then, and how often they come."""
        self.latency_ns = now_ns - frame.captured_at_ns
        if self.offered_ns:
            gap_ns = min(now_ns - self.offered_ns, PERIOD_NS_MAX)
            self.period_ns += (gap_ns - self.period_ns) // PERIOD_FRAMES if self.period_ns else gap_ns
        self.offered_ns = now_ns

    @property
    def is_regular(self) -> bool:
        """Whether its period tells when its next frame comes."""
        return 0 < self.period_ns < PERIOD_NS_MAX

    def is_expected(self, now_ns: int) -> bool:
        """Return whether a frame is on its way: a stream that is two periods behind has paused, or is gone."""
        return now_ns - self.offered_ns < 2 * self.period_ns

    def next_ns(self, now_ns: int) -> int:
        """Return when its next frame comes, by its period; the present at the earliest."""
        return max(now_ns, self.offered_ns + self.period_ns)

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


class Foresight:
    """The predictors of streams and sessions, by model variant.

    A stream that was refused for a while knows nothing of the present; its neighbours on the same model do.
    """

    def __init__(self, policy: PredictorPolicy, lanes: Iterable[Lane]) -> None:
        self._policy = policy
        self._known: dict[tuple[str, str], ServicePredictor] = {}
        self._selected: dict[str, str] = {}
        self._lanes: list[Lane] = []
        self.follow(policy, lanes)

    def follow(self, policy: PredictorPolicy, lanes: Iterable[Lane]) -> None:
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
