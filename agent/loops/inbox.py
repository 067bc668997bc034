"""The thread-safe shell around one session's scheduler and its streams' ledgers."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.clock import NS_PER_S, Clock
from agent.core.ledger import Ledger, Outcome
from agent.core.rate import RateGate
from agent.core.scheduler import Scheduler, Settled, StreamPolicy
from agent.frame import Capture, Frame
from agent.metrics import Histogram

FORGOTTEN_AFTER_NS = 60 * NS_PER_S
"""A live frame that is a minute old and has no outcome was lost by us: the self-check reports it."""


@dataclass(slots=True)
class StreamBook:
    """Everything that is counted for one stream; guarded by its inbox's lock.

    Attributes:
        age: `Clock` ages of live results when egress handed them to the sink.
        stages: durations by stage (preprocess, run, decode).
    """

    policy: StreamPolicy
    gate: RateGate
    ledger: Ledger = field(default_factory=Ledger)
    failures: dict[str, int] = field(default_factory=dict)
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
        self._scheduler = Scheduler(dict(policies))
        self._books = {name: StreamBook(policy, RateGate(rates_hz[name])) for name, policy in policies.items()}
        self._changed = threading.Condition()
        self._is_stopping = False

    def offer(self, stream: str, capture: Capture) -> None:
        """Count a captured frame and queue it; an every_frame stream waits here for room.

        After `stop` the frame ends as `shutdown`.
        """
        book = self._books[stream]
        with self._changed:
            ledger = book.ledger
            sequence = ledger.open(capture.captured_at_ns)
            book.first_at_ns = book.first_at_ns or capture.captured_at_ns
            book.last_at_ns = capture.captured_at_ns
            if not book.gate.allows(capture.captured_at_ns):
                ledger.settle(sequence, Outcome.SKIPPED)
                return
            while self._scheduler.is_full(stream) and not self._is_stopping:
                self._changed.wait()
            if self._is_stopping:
                ledger.settle(sequence, Outcome.SHUTDOWN)
                return
            deadline_ns = book.policy.deadline_ns(capture.captured_at_ns)
            frame = Frame(stream, sequence, capture.captured_at_ns, deadline_ns, capture.pixels)
            self._settle(self._scheduler.offer(frame))
            self._changed.notify_all()

    def unusable(self, stream: str, captured_at_ns: int) -> None:
        """Count a frame that was captured and could not be decoded by its source."""
        with self._changed:
            book = self._books[stream]
            sequence = book.ledger.open(captured_at_ns)
            book.ledger.settle(sequence, Outcome.FAILED)
            book.failures["capture"] = book.failures.get("capture", 0) + 1

    def take(self) -> Frame | None:
        """Wait for the next frame to run; None when there will be no more."""
        with self._changed:
            while True:
                if self._is_stopping:
                    return None
                frame, settled = self._scheduler.take(self._clock.now_ns())
                self._settle(settled)
                if frame is not None:
                    self._changed.notify_all()  # A waiting every_frame source has room now.
                    return frame
                if not any(book.is_open for book in self._books.values()):
                    return None
                self._changed.wait()

    def abort_at_ns(self, frame: Frame) -> int:
        """See `Scheduler.abort_at_ns`."""
        return self._scheduler.abort_at_ns(frame)

    def judge(self, frame: Frame, started_ns: int, *, aborted: bool = False) -> Outcome:
        """See `Scheduler.finish`; the frame still needs its `settle`."""
        with self._changed:
            return self._scheduler.finish(frame, started_ns, self._clock.now_ns(), aborted=aborted)

    def settle(self, frame: Frame, outcome: Outcome, *, stage: str | None = None) -> None:
        """Record the outcome of a frame that was taken; `stage` names where it failed."""
        with self._changed:
            book = self._books[frame.stream]
            book.ledger.settle(frame.sequence, outcome)
            if stage is not None:
                book.failures[stage] = book.failures.get(stage, 0) + 1

    def record_stages(self, stream: str, durations_ns: Mapping[str, int]) -> None:
        """Add one frame's stage durations."""
        with self._changed:
            stages = self._books[stream].stages
            for stage, duration_ns in durations_ns.items():
                stages.setdefault(stage, Histogram()).record(duration_ns)

    def record_age(self, stream: str, age_ns: int) -> None:
        """Add the age of a live result at its hand-over to the sink."""
        with self._changed:
            self._books[stream].age.record(age_ns)

    def source_lost(self, stream: str) -> None:
        """Count one loss of a stream's source."""
        with self._changed:
            self._books[stream].source_losses += 1

    def end_stream(self, stream: str) -> None:
        """Note that a stream's source has ended; its waiting frames are still served."""
        with self._changed:
            self._books[stream].is_open = False
            self._changed.notify_all()

    def stop(self) -> None:
        """End every wait and settle what waits as `shutdown`."""
        with self._changed:
            self._is_stopping = True
            self._settle(self._scheduler.drain())
            self._changed.notify_all()

    def settle_in_flight(self) -> None:
        """Settle what is still open at the very end, when no thread works on it any more."""
        with self._changed:
            for book in self._books.values():
                book.ledger.settle_all(Outcome.SHUTDOWN)

    def self_check(self) -> dict[str, int]:
        """Return, by stream, frames lost or settled twice by us. Every figure must be 0."""
        with self._changed:
            now_ns = self._clock.now_ns()
            return {
                name: book.ledger.violations
                + (0 if book.policy.budget_ns is None else book.ledger.forgotten(now_ns, FORGOTTEN_AFTER_NS))
                + (not book.ledger.is_exact())
                for name, book in self._books.items()
            }

    def snapshot(self) -> dict[str, dict[str, Any]]:
        """Return the figures of every stream under their public names."""
        with self._changed:
            return {name: self._stream_snapshot(name, book) for name, book in self._books.items()}

    def _stream_snapshot(self, name: str, book: StreamBook) -> dict[str, Any]:
        now_ns = self._clock.now_ns()
        span_ns = (book.last_at_ns or 0) - (book.first_at_ns or 0)
        published = book.ledger.count(Outcome.PUBLISHED)
        # A count over a span: a moving average of gaps swings on bursty RTSP.
        per_s = NS_PER_S / span_ns if span_ns > 0 else 0.0
        return {
            "ledger": book.ledger.snapshot(),
            "failures": dict(book.failures),
            "age_ms": book.age.summary_ms(),
            "stage_ms": {stage: histogram.summary_ms() for stage, histogram in book.stages.items()},
            "captured_fps": round(max(0, book.ledger.captured - 1) * per_s, 2),
            "published_fps": round(max(0, published - 1) * per_s, 2),
            "predicted_ms": round(self._scheduler.predicted_ns(name, now_ns) / 1e6, 3),
            "deadline_ms": None if book.policy.budget_ns is None else book.policy.budget_ns / 1e6,
            "source_losses": book.source_losses,
            "is_open": book.is_open,
        }

    def _settle(self, settled: list[Settled]) -> None:
        for item in settled:
            self._books[item.frame.stream].ledger.settle(item.frame.sequence, item.outcome)
