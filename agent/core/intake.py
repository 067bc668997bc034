"""The pure middle of a frame's life on one session: counted, queued, taken, judged."""

from __future__ import annotations

from collections.abc import Mapping

from agent.core.ledger import Ledger, Outcome
from agent.core.rate import RateGate
from agent.core.scheduler import Scheduler, Settled, StreamPolicy
from agent.frame import Capture, Frame


class Intake:
    """Ledgers, rate gates and the scheduler of one session, in the only order in which they make sense.

    Not thread-safe: `loops.inbox` owns the lock. Simulations run this very class in virtual time.

    Args:
        policies: by stream name.
        rates_hz: `max_fps` by stream name, None for no limit.
    """

    def __init__(self, policies: Mapping[str, StreamPolicy], rates_hz: Mapping[str, float | None]) -> None:
        self.policies = dict(policies)
        self.ledgers = {name: Ledger() for name in policies}
        self.failures: dict[str, dict[str, int]] = {name: {} for name in policies}
        self._gates = {name: RateGate(rates_hz[name]) for name in policies}
        self._scheduler = Scheduler(self.policies)

    def open(self, stream: str, capture: Capture) -> Frame | None:
        """Count a captured frame; None when the rate gate left it out."""
        sequence = self.ledgers[stream].open(capture.captured_at_ns)
        if not self._gates[stream].allows(capture.captured_at_ns):
            self.ledgers[stream].settle(sequence, Outcome.SKIPPED)
            return None
        deadline_ns = self.policies[stream].deadline_ns(capture.captured_at_ns)
        return Frame(stream, sequence, capture.captured_at_ns, deadline_ns, capture.pixels)

    def is_full(self, stream: str) -> bool:
        """Return whether an opened frame must wait before `queue`; only every_frame streams ever do."""
        return self._scheduler.is_full(stream)

    def queue(self, frame: Frame) -> None:
        """Let an opened frame wait for the session."""
        self._settle_all(self._scheduler.offer(frame))

    def take(self, now_ns: int) -> Frame | None:
        """Return the frame to run now; frames that will never run are settled on the way."""
        frame, settled = self._scheduler.take(now_ns)
        self._settle_all(settled)
        return frame

    def abort_at_ns(self, frame: Frame) -> int:
        """See `Scheduler.abort_at_ns`."""
        return self._scheduler.abort_at_ns(frame)

    def finish(self, frame: Frame, started_ns: int, now_ns: int, *, aborted: bool = False) -> Outcome:
        """See `Scheduler.finish`; the frame still needs its `settle`."""
        return self._scheduler.finish(frame, started_ns, now_ns, aborted=aborted)

    def settle(self, frame: Frame, outcome: Outcome, *, stage: str | None = None) -> None:
        """Record a frame's outcome; `stage` names where it failed."""
        self.ledgers[frame.stream].settle(frame.sequence, outcome)
        if stage is not None:
            stages = self.failures[frame.stream]
            stages[stage] = stages.get(stage, 0) + 1

    def predicted_ns(self, stream: str, now_ns: int) -> int:
        """See `Scheduler.predicted_ns`."""
        return self._scheduler.predicted_ns(stream, now_ns)

    def drain(self) -> None:
        """Settle what waits as `shutdown`."""
        self._settle_all(self._scheduler.drain())

    def _settle_all(self, settled: list[Settled]) -> None:
        for item in settled:
            self.settle(item.frame, item.outcome)
