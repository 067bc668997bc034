"""The pure middle of a frame's life: counted, queued, taken, judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from agent.core.ledger import Ledger, Outcome
from agent.core.policy import SchedulerPolicy, StreamPolicy
from agent.core.rate import RateGate, StrideGate
from agent.core.scheduler import Ending, Scheduler, Settled
from agent.frame import Capture, Frame


class Intake:
    """Ledgers, gates and the scheduler of all streams, in the only order in which they make sense.

    Not thread-safe: `loops.inbox` owns the lock. Simulations run this very class in virtual time.

    Args:
        policies: by stream name.
        scheduling: what holds for all of them.
        note: told the stream, the capture time and the outcome of each frame; for simulations.
    """

    def __init__(
        self,
        policies: Mapping[str, StreamPolicy],
        scheduling: SchedulerPolicy | None = None,
        note: Callable[[str, int, Outcome], None] | None = None,
    ) -> None:
        self._note = note
        self.policies = dict(policies)
        self.ledgers = {name: Ledger() for name in policies}
        self.failures: dict[str, dict[str, int]] = {name: {} for name in policies}
        self.future_stamps = dict.fromkeys(policies, 0)
        """Frames that their source stamped later than now, by stream; each was taken as captured now."""
        self._rates = {name: RateGate(policy.max_hz) for name, policy in policies.items()}
        self._strides = {name: StrideGate(policy.stride) for name, policy in policies.items()}
        self.scheduler = Scheduler(self.policies, scheduling)

    def reconfigure(self, policies: Mapping[str, StreamPolicy], scheduling: SchedulerPolicy) -> None:
        """Go on by other policies; what waits in a stream that is gone, or that changed its session, is settled.

        The books of streams that are gone stay: every frame that was ever captured has its outcome there.
        """
        for name, policy in policies.items():
            before = self.policies.get(name)
            if name not in self.ledgers:
                self.ledgers[name], self.failures[name], self.future_stamps[name] = Ledger(), {}, 0
            if before is None or before.max_hz != policy.max_hz:
                self._rates[name] = RateGate(policy.max_hz)
            if before is None:
                self._strides[name] = StrideGate(policy.stride)
            self._strides[name].stride = policy.stride
        self._settle_all(self.scheduler.reconfigure(policies, scheduling))
        self.policies = dict(policies)

    def open(self, stream: str, capture: Capture, now_ns: int) -> Frame | None:
        """Count a captured frame; None when a gate left it out.

        A stamp from the future would stretch the deadline, so it becomes the present. One from the past is believed:
        the frame is as old as its source says.
        """
        captured_at_ns = capture.captured_at_ns
        if captured_at_ns > now_ns:
            self.future_stamps[stream] += 1
            captured_at_ns = now_ns
        sequence = self.ledgers[stream].open(captured_at_ns)
        if capture.is_still or not (self._strides[stream].allows() and self._rates[stream].allows(captured_at_ns)):
            self._settle(stream, sequence, captured_at_ns, Outcome.SKIPPED)
            return None
        deadline_ns = self.policies[stream].deadline_ns(captured_at_ns)
        return Frame(stream, sequence, captured_at_ns, deadline_ns, capture.pixels, capture.follows)

    def is_full(self, stream: str) -> bool:
        """Return whether an opened frame must wait before `queue`; only every_frame streams ever do."""
        return self.scheduler.is_full(stream)

    def queue(self, frame: Frame, now_ns: int) -> None:
        """Let an opened frame wait for its session."""
        if pushed_out := self.scheduler.offer(frame, now_ns):
            self._settle_all(pushed_out)

    def take(self, now_ns: int, session: str = "") -> Frame | None:
        """Return the frame that the session runs now; frames that will never run are settled on the way."""
        frame, settled = self.scheduler.take(now_ns, session)
        if settled:
            self._settle_all(settled)
        return frame

    def finish(self, frame: Frame, started_ns: int, now_ns: int, ending: Ending = Ending.DONE) -> Outcome:
        """See `Scheduler.finish`; the frame still needs its `settle`."""
        return self.scheduler.finish(frame, started_ns, now_ns, ending)

    def settle(self, frame: Frame, outcome: Outcome, *, stage: str | None = None) -> None:
        """Record a frame's outcome; `stage` names where it failed."""
        self._settle(frame.stream, frame.sequence, frame.captured_at_ns, outcome)
        if stage is not None:
            stages = self.failures[frame.stream]
            stages[stage] = stages.get(stage, 0) + 1

    def throttle(self, stream: str, *, factor: int, is_paused: bool) -> None:
        """Let only every `factor`-th of the frames pass that the stream's own stride lets pass, or none."""
        gate = self._strides[stream]
        gate.factor, gate.is_paused = 1 if self.policies[stream].is_stateful else factor, is_paused

    def drain(self) -> None:
        """Settle what waits as `shutdown`."""
        self._settle_all(self.scheduler.drain())

    def _settle(self, stream: str, sequence: int, captured_at_ns: int, outcome: Outcome) -> None:
        self.ledgers[stream].settle(sequence, outcome)
        if self._note is not None:
            self._note(stream, captured_at_ns, outcome)

    def _settle_all(self, settled: list[Settled]) -> None:
        for item in settled:
            self.settle(item.frame, item.outcome)
