"""Which frame runs next on a session, and which will not run at all."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from agent.clock import NEVER_NS, NS_PER_MS, NS_PER_S
from agent.core.ledger import Outcome
from agent.core.predictor import ServicePredictor
from agent.frame import Frame

EGRESS_RESERVE_NS = 2 * NS_PER_MS
"""Kept free before every deadline for the hand-over from inference to the socket.

The hand-over is one append, one thread switch and one JSON encoding; health shows it as stage `hand_over`.
"""

PATIENCE_NS = NS_PER_S
"""A frame without a deadline is served as if it had this one, so that live streams cannot starve it."""


class Overflow(Enum):
    """What a full queue does with one more frame."""

    SUPERSEDE = "supersede"
    """The newest frame wins; the one it replaces is `superseded` (the one-frame slot of live mode)."""
    DROP_OLDEST = "drop_oldest"
    """The oldest frame is dropped as `queue_full` (live mode with a queue, for models that need order)."""
    BLOCK = "block"
    """The source waits (every_frame mode)."""


@dataclass(frozen=True, slots=True)
class StreamPolicy:
    """How the scheduler treats one stream.

    Attributes:
        budget_ns: a frame's deadline is its capture plus this; None for no deadline.
        queue_frames: the most frames that wait, at least 1.
        overflow: what happens to one more.
        late_is_published: `on_late = "mark"`: nothing is refused or aborted for its age.
    """

    budget_ns: int | None
    queue_frames: int = 1
    overflow: Overflow = Overflow.SUPERSEDE
    late_is_published: bool = False

    def deadline_ns(self, captured_at_ns: int) -> int:
        """Return the absolute deadline of a frame captured then."""
        return NEVER_NS if self.budget_ns is None else captured_at_ns + self.budget_ns


@dataclass(frozen=True, slots=True)
class Settled:
    """A frame whose life ended inside the scheduler."""

    frame: Frame
    outcome: Outcome


class _Lane:
    """One stream's waiting frames and what is known of its service time."""

    def __init__(self, policy: StreamPolicy) -> None:
        self.policy = policy
        self.waiting: deque[Frame] = deque()
        self.predictor = ServicePredictor()


class Scheduler:
    """Admission and earliest deadline first over the streams of one session.

    Not thread-safe: `loops.inbox` owns the lock.
    """

    def __init__(self, policies: Mapping[str, StreamPolicy]) -> None:
        self._lanes = {name: _Lane(policy) for name, policy in policies.items()}

    def is_full(self, stream: str) -> bool:
        """Return whether the source must wait before it offers one more frame of a BLOCK stream."""
        lane = self._lanes[stream]
        return lane.policy.overflow is Overflow.BLOCK and len(lane.waiting) >= lane.policy.queue_frames

    def offer(self, frame: Frame) -> list[Settled]:
        """Add a frame; return what it pushed out."""
        lane = self._lanes[frame.stream]
        dropped: list[Settled] = []
        if len(lane.waiting) >= lane.policy.queue_frames:
            if lane.policy.overflow is Overflow.BLOCK:
                raise AssertionError(f"{frame.stream}: offered to a full queue; ask is_full first")
            superseding = lane.policy.overflow is Overflow.SUPERSEDE
            outcome = Outcome.SUPERSEDED if superseding else Outcome.QUEUE_FULL
            dropped.append(Settled(lane.waiting.popleft(), outcome))
        lane.waiting.append(frame)
        return dropped

    def take(self, now_ns: int) -> tuple[Frame | None, list[Settled]]:
        """Return the frame to run now, if any, and those that will never run."""
        settled: list[Settled] = []
        while True:
            lane = self._most_urgent()
            if lane is None:
                return None, settled
            frame = lane.waiting.popleft()
            last_start_ns = publish_by_ns(frame)
            if lane.policy.late_is_published:
                return frame, settled
            if now_ns >= last_start_ns:
                settled.append(Settled(frame, Outcome.EXPIRED))
            elif not lane.predictor.admits(last_start_ns, now_ns):
                settled.append(Settled(frame, Outcome.UNREACHABLE))
            else:
                return frame, settled

    def finish(self, frame: Frame, started_ns: int, now_ns: int, *, aborted: bool = False) -> Outcome:
        """Learn from a run that ended now and return what becomes of its frame.

        The clock alone decides: an inference that ignored its abort and returned a result is late all the
        same (one giant operator is not interrupted, see ORT's RunOptions.terminate).
        """
        self._lanes[frame.stream].predictor.observe(now_ns - started_ns, now_ns, aborted=aborted)
        if aborted:
            return Outcome.ABORTED
        return Outcome.PUBLISHED if now_ns <= publish_by_ns(frame) else Outcome.LATE

    def abort_at_ns(self, frame: Frame) -> int:
        """Return when a running inference of this frame has lost its purpose."""
        policy = self._lanes[frame.stream].policy
        return NEVER_NS if policy.late_is_published else publish_by_ns(frame)

    def predicted_ns(self, stream: str, now_ns: int) -> int:
        """Return the service time that admission expects of the stream now; 0 when unknown."""
        return self._lanes[stream].predictor.predict_ns(now_ns)

    def drain(self) -> list[Settled]:
        """Empty every queue at shutdown."""
        settled = [Settled(frame, Outcome.SHUTDOWN) for lane in self._lanes.values() for frame in lane.waiting]
        for lane in self._lanes.values():
            lane.waiting.clear()
        return settled

    def _most_urgent(self) -> _Lane | None:
        waiting: Iterable[_Lane] = (lane for lane in self._lanes.values() if lane.waiting)
        return min(waiting, key=lambda lane: _urgency_ns(lane.waiting[0]), default=None)


def publish_by_ns(frame: Frame) -> int:
    """Return the last moment at which inference may hand the frame's result to egress."""
    return frame.deadline_ns if frame.deadline_ns == NEVER_NS else frame.deadline_ns - EGRESS_RESERVE_NS


def _urgency_ns(frame: Frame) -> int:
    return frame.captured_at_ns + PATIENCE_NS if frame.deadline_ns == NEVER_NS else frame.deadline_ns
