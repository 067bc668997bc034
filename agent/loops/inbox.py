"""The thread-safe shell around one session's intake, and the figures of its streams."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from agent.clock import NS_PER_S, Clock
from agent.core.intake import Intake
from agent.core.ledger import Ledger, Outcome
from agent.core.scheduler import StreamPolicy
from agent.frame import Capture, Frame, Pixels
from agent.metrics import Histogram

NO_PIXELS: Pixels = np.empty((0, 0, 3), np.uint8)

FORGOTTEN_AFTER_NS = 60 * NS_PER_S
"""A live frame that is a minute old and has no outcome was lost by us: the self-check reports it."""


@dataclass(slots=True)
class StreamFigures:
    """What is measured of one stream beside its ledger; guarded by its inbox's lock.

    Attributes:
        age: ages of live results when egress handed them to the sink.
        stages: durations by stage: preprocess, run, decode, hand_over (inference to sink), abort_overshoot (from the
            deadline to the end of an aborted run).
    """

    age: Histogram = field(default_factory=Histogram)
    stages: dict[str, Histogram] = field(default_factory=dict)
    first_at_ns: int | None = None
    last_at_ns: int | None = None
    source_losses: int = 0
    is_open: bool = True


class Inbox:
    """Hands captured frames to the inference thread; every method may be called by any thread.

    Args:
        policies: by stream name.
        rates_hz: `max_fps` by stream name, None for no limit.
        clock: the agent's.
    """

    def __init__(
        self, policies: Mapping[str, StreamPolicy], rates_hz: Mapping[str, float | None], clock: Clock
    ) -> None:
        self._clock = clock
        self._intake = Intake(policies, rates_hz)
        self._figures = {name: StreamFigures() for name in policies}
        self._changed = threading.Condition()
        self._is_stopping = False

    def offer(self, stream: str, capture: Capture) -> None:
        """Count a captured frame and queue it; an every_frame stream waits here for room.

        After `stop` the frame ends as `shutdown`.
        """
        figures = self._figures[stream]
        with self._changed:
            if figures.first_at_ns is None:
                figures.first_at_ns = capture.captured_at_ns
            figures.last_at_ns = capture.captured_at_ns
            frame = self._intake.open(stream, capture)
            if frame is None:
                return
            while self._intake.is_full(stream) and not self._is_stopping:
                self._changed.wait()
            if self._is_stopping:
                self._intake.settle(frame, Outcome.SHUTDOWN)
                return
            self._intake.queue(frame)
            self._changed.notify_all()

    def unusable(self, stream: str, captured_at_ns: int) -> None:
        """Count a frame that was captured and could not be decoded by its source."""
        with self._changed:
            frame = self._intake.open(stream, Capture(captured_at_ns, NO_PIXELS))
            if frame is not None:
                self._intake.settle(frame, Outcome.FAILED, stage="capture")

    def take(self) -> Frame | None:
        """Wait for the next frame to run; None when there will be no more."""
        with self._changed:
            while not self._is_stopping:
                frame = self._intake.take(self._clock.now_ns())
                if frame is not None:
                    self._changed.notify_all()  # A waiting every_frame source has room now.
                    return frame
                if not any(figures.is_open for figures in self._figures.values()):
                    return None
                self._changed.wait()
            return None

    def abort_at_ns(self, frame: Frame) -> int:
        """See `Scheduler.abort_at_ns`."""
        return self._intake.abort_at_ns(frame)

    def finish(self, frame: Frame, started_ns: int, *, aborted: bool = False) -> Outcome:
        """See `Scheduler.finish`; the frame still needs its `settle`."""
        with self._changed:
            return self._intake.finish(frame, started_ns, self._clock.now_ns(), aborted=aborted)

    def settle(self, frame: Frame, outcome: Outcome, *, stage: str | None = None) -> None:
        """Record the outcome of a frame that was taken; `stage` names where it failed."""
        with self._changed:
            self._intake.settle(frame, outcome, stage=stage)

    def record_stages(self, stream: str, durations_ns: Mapping[str, int]) -> None:
        """Add one frame's stage durations."""
        with self._changed:
            stages = self._figures[stream].stages
            for stage, duration_ns in durations_ns.items():
                stages.setdefault(stage, Histogram()).record(duration_ns)

    def record_sent(self, stream: str, age_ns: int, hand_over_ns: int) -> None:
        """Add the age of a live result when the sink had it, and how long that took after inference."""
        with self._changed:
            self._figures[stream].age.record(age_ns)
        self.record_stages(stream, {"hand_over": hand_over_ns})

    def source_lost(self, stream: str) -> None:
        """Count one loss of a stream's source."""
        with self._changed:
            self._figures[stream].source_losses += 1

    def end_stream(self, stream: str) -> None:
        """Note that a stream's source has ended; its waiting frames are still served."""
        with self._changed:
            self._figures[stream].is_open = False
            self._changed.notify_all()

    def stop(self) -> None:
        """End every wait and settle what waits as `shutdown`."""
        with self._changed:
            self._is_stopping = True
            self._intake.drain()
            self._changed.notify_all()

    def settle_in_flight(self) -> None:
        """Settle what is still open at the very end, when no thread works on it any more."""
        with self._changed:
            for ledger in self._intake.ledgers.values():
                ledger.settle_all(Outcome.SHUTDOWN)

    def self_check(self) -> dict[str, int]:
        """Return, by stream, frames lost or settled twice by us. Every figure must be 0."""
        with self._changed:
            now_ns = self._clock.now_ns()
            return {name: self._violations(name, ledger, now_ns) for name, ledger in self._intake.ledgers.items()}

    def snapshot(self) -> dict[str, dict[str, Any]]:
        """Return the figures of every stream under their public names."""
        with self._changed:
            return {name: self._stream_snapshot(name) for name in self._figures}

    def _violations(self, name: str, ledger: Ledger, now_ns: int) -> int:
        has_deadline = self._intake.policies[name].budget_ns is not None
        forgotten = ledger.forgotten(now_ns, FORGOTTEN_AFTER_NS) if has_deadline else 0
        return ledger.violations + forgotten + (not ledger.is_exact())

    def _stream_snapshot(self, name: str) -> dict[str, Any]:
        figures, ledger, policy = self._figures[name], self._intake.ledgers[name], self._intake.policies[name]
        span_ns = (figures.last_at_ns or 0) - (figures.first_at_ns or 0)
        # A count over a span: a moving average of gaps swings on bursty RTSP.
        per_s = NS_PER_S / span_ns if span_ns > 0 else 0.0
        return {
            "ledger": ledger.snapshot(),
            "failures": dict(self._intake.failures[name]),
            "age_ms": figures.age.summary_ms(),
            "stage_ms": {stage: histogram.summary_ms() for stage, histogram in figures.stages.items()},
            "captured_fps": round(max(0, ledger.captured - 1) * per_s, 2),
            "published_fps": round(max(0, ledger.count(Outcome.PUBLISHED) - 1) * per_s, 2),
            "predicted_ms": round(self._intake.predicted_ns(name, self._clock.now_ns()) / 1e6, 3),
            "deadline_ms": None if policy.budget_ns is None else policy.budget_ns / 1e6,
            "source_losses": figures.source_losses,
            "is_open": figures.is_open,
        }
