"""The governor: readings, steps, and what they do to streams and models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.clock import NS_PER_MS, NS_PER_S
from agent.core.degradation import Ladder, Step, StepKind
from agent.core.scheduler import StreamPolicy
from agent.device.signals import Signals
from agent.frame import Capture
from agent.loops.abort import AbortTimer
from agent.loops.governor import GovernorLoop
from agent.loops.inbox import Inbox
from agent.loops.inference import InferenceLoop
from tests.fakes import PICTURE, ManualClock, ScriptedEngine, fake_model

STEPS = (
    Step(StepKind.STRIDE, "", 2, "stride 2"),
    Step(StepKind.VARIANT, "fake", 1, "fake: small"),
    Step(StepKind.STREAM, "yard", 0, "yard paused"),
)


class ScriptedSignals:
    """A device that says what it is told to."""

    def __init__(self) -> None:
        self.now = Signals()

    def read(self) -> Signals:
        return self.now


class Bench:
    """A governor over one real, idle inference loop."""

    def __init__(self, steps: tuple[Step, ...] = STEPS) -> None:
        self.clock = ManualClock()
        policies = {name: StreamPolicy(250 * NS_PER_MS, session="fake") for name in ("door", "yard")}
        self.inbox = Inbox(policies, self.clock)
        self.loop = InferenceLoop(
            model=fake_model(ScriptedEngine(), ScriptedEngine()),
            inbox=self.inbox,
            timer=AbortTimer(self.clock),
            emit=lambda message: None,
            show=lambda frame, payload: None,
            clock=self.clock,
        )
        self.signals = ScriptedSignals()
        self.events: list[tuple[str, Mapping[str, Any]]] = []
        self.governor = GovernorLoop(
            loops=lambda: [self.loop],
            inbox=self.inbox,
            live_streams=["door", "yard"],
            ladder=Ladder(steps),
            signals=self.signals,
            memory_ratio=lambda: None,
            report=lambda event, body: self.events.append((event, body)),
            clock=self.clock,
        )

    def read(self, seconds: int) -> None:
        """Let the governor look once a second."""
        for _ in range(seconds):
            self.clock.ns += NS_PER_S
            self.governor.read_device()

    def capture(self, stream: str) -> dict[str, int]:
        """Offer a frame and return the stream's ledger."""
        self.inbox.offer(stream, Capture(self.clock.now_ns(), PICTURE))
        ledger: dict[str, int] = self.inbox.snapshot()[stream]["ledger"]
        return ledger


def test_heat_thins_out_frames_then_changes_the_variant_then_pauses() -> None:
    """Each step is done, said once with its cause, and in force until it is taken back."""
    bench = Bench()
    bench.signals.now = Signals(temperature_c=90.0, temperature_limit_c=80.0)
    bench.read(5)
    assert bench.capture("door")["skipped"] == 1
    assert bench.capture("door")["in_flight"] == 1
    bench.read(12)
    assert [body["step"] for event, body in bench.events] == ["stride 2", "fake: small", "yard paused"]
    assert bench.events[0] == (
        "degraded",
        {"step": "stride 2", "cause": "temperature", "value": 10.0, "limit": 0.0, "level": 1, "levels": 3},
    )
    assert [bench.capture("yard")["skipped"] for _ in range(4)] == [1, 2, 3, 4]
    snapshot = bench.governor.snapshot()
    assert (snapshot["level"], snapshot["temperature_c"]) == (3, 90.0)
    bench.signals.now = Signals(temperature_c=30.0, temperature_limit_c=80.0)
    bench.read(100)
    assert [event for event, _ in bench.events[3:]] == ["restored"] * 3
    assert bench.capture("yard")["skipped"] == 4


def test_misses_are_counted_over_the_last_seconds() -> None:
    """Three seconds where enough frames end, up to thirty where few do; old ones tell nothing."""
    bench = Bench(steps=())
    bench.read(3)
    _expire(bench, 4)
    bench.read(1)
    assert bench.governor.snapshot()["misses"] == {}
    _expire(bench, 1)
    bench.read(1)
    assert bench.governor.snapshot()["misses"] == {"fake": 1.0}
    bench.read(20)
    assert bench.governor.snapshot()["misses"] == {"fake": 1.0}
    bench.read(20)
    assert bench.governor.snapshot()["misses"] == {}


def test_what_was_missed_before_a_step_says_nothing_after_it() -> None:
    """The count begins anew with each change."""
    bench = Bench()
    for _ in range(7):
        _expire(bench, 3)
        bench.read(1)
    assert [event for event, _ in bench.events] == ["degraded"]
    assert bench.loop._wanted_variant == 1
    bench.read(1)
    assert bench.governor.snapshot()["misses"] == {}


def _expire(bench: Bench, count: int) -> None:
    """Let frames expire in the slot."""
    for _ in range(count):
        bench.inbox.offer("door", Capture(bench.clock.now_ns() - NS_PER_S, PICTURE))
        bench.inbox.take("fake", 0)
