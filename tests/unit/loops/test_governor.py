"""The governor: hangs, steps, and what they do to streams and models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from agent.clock import NS_PER_MS, NS_PER_S
from agent.core.degradation import Ladder, Step, StepKind
from agent.core.scheduler import StreamPolicy
from agent.device.signals import Signals
from agent.frame import Capture, Frame
from agent.loops.abort import AbortTimer
from agent.loops.governor import TICK_NS, GovernorLoop
from agent.loops.inbox import Inbox
from agent.loops.inference import CurrentRun, InferenceLoop
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

    def __init__(self) -> None:
        self.clock = ManualClock()
        policies = {name: StreamPolicy(250 * NS_PER_MS, session="fake") for name in ("door", "yard")}
        self.inbox = Inbox(policies, self.clock)
        self.loop = InferenceLoop(
            model=fake_model(ScriptedEngine(), ScriptedEngine()),
            inbox=self.inbox,
            timer=AbortTimer(self.clock),
            emit=lambda message: None,
            marks_late=frozenset(),
            show=lambda frame, payload: None,
            clock=self.clock,
        )
        self.signals = ScriptedSignals()
        self.events: list[tuple[str, Mapping[str, Any]]] = []
        self.hung: list[tuple[CurrentRun, float]] = []
        self.governor = GovernorLoop(
            loops=[self.loop],
            inbox=self.inbox,
            live_streams=["door", "yard"],
            ladder=Ladder(STEPS),
            signals=self.signals,
            memory_ratio=lambda: None,
            report=lambda event, body: self.events.append((event, body)),
            hung=lambda loop, run, overdue_s: self.hung.append((run, overdue_s)),
            hang_ns=5 * NS_PER_S,
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

    def running(self, due_ns: int) -> CurrentRun:
        """Pretend that the loop runs a frame."""
        frame = Frame("door", 1, 0, due_ns, np.zeros((1, 1, 3), np.uint8))
        return CurrentRun(frame, self.loop.variant, due_ns)


def tick(bench: Bench, count: int) -> None:
    """Let ticks pass with their time."""
    for _ in range(count):
        bench.clock.ns += TICK_NS
        bench.governor.check_hangs()


def test_a_run_that_is_overdue_for_its_limit_is_hung_once() -> None:
    """Not before 5 s after its deadline, and told a single time."""
    bench = Bench()
    bench.loop.current = bench.running(bench.clock.now_ns() + NS_PER_S)
    tick(bench, 11)
    assert bench.hung == []
    tick(bench, 40)
    ((run, overdue_s),) = bench.hung
    assert run is bench.loop.current
    assert overdue_s == 5.0


def test_runs_that_end_are_never_hung() -> None:
    """Each late run starts the count anew."""
    bench = Bench()
    for _ in range(20):
        bench.loop.current = bench.running(bench.clock.now_ns() - 1)
        tick(bench, 3)
    assert bench.hung == []


def test_a_suspended_machine_has_no_hangs() -> None:
    """The clock jumped by hours; the inference had one tick of them."""
    bench = Bench()
    bench.loop.current = bench.running(bench.clock.now_ns() + NS_PER_S)
    bench.clock.ns += 3600 * NS_PER_S
    tick(bench, 3)
    bench.loop.current = None
    tick(bench, 20)
    assert bench.hung == []


def test_a_slow_model_is_given_ten_times_its_warm_up() -> None:
    """A model of 2 s is not hung after 5."""
    bench = Bench()
    slow = fake_model(ScriptedEngine()).variants[0]
    slow_run = CurrentRun(None, type(slow)(**{**_fields(slow), "fastest_ns": 2 * NS_PER_S}), bench.clock.now_ns() - 1)
    bench.loop.current = slow_run
    tick(bench, 39)
    assert bench.hung == []
    tick(bench, 1)
    assert len(bench.hung) == 1


def _fields(variant: Any) -> dict[str, Any]:
    return {name: getattr(variant, name) for name in type(variant).__slots__}


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
    """Old frames and a handful of new ones tell nothing."""
    bench = Bench()
    for _ in range(2):
        _expire(bench, 3)
        bench.read(1)
    assert bench.governor.snapshot()["misses"] == {}
    _expire(bench, 6)
    bench.read(1)
    assert bench.governor.snapshot()["misses"] == {"fake": 1.0}
    bench.read(4)
    assert bench.governor.snapshot()["misses"] == {}


def _expire(bench: Bench, count: int) -> None:
    """Let frames expire in the slot."""
    for _ in range(count):
        bench.inbox.offer("door", Capture(bench.clock.now_ns() - NS_PER_S, PICTURE))
        bench.inbox.end_stream("door")
        bench.inbox.end_stream("yard")
        bench.inbox.take("fake")
