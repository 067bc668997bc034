"""How streams and sessions are treated."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from agent.clock import NEVER_NS, NS_PER_MS
from agent.core.predictor import PredictorPolicy
from agent.frame import Frame
from agent.settings.steps import StepsSettings

EGRESS_RESERVE_NS = 2 * NS_PER_MS
"""Kept free before every deadline for the hand-over from inference to the socket.

The hand-over is one append, one thread switch and one JSON encoding; health shows it as stage `hand_over`.
"""


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


def publish_by_ns(frame: Frame) -> int:
    """Return the last moment at which inference may hand the frame's result to egress."""
    return frame.deadline_ns if frame.deadline_ns == NEVER_NS else frame.deadline_ns - EGRESS_RESERVE_NS
