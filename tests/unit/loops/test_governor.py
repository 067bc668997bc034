"""The governor: readings, steps, and what they do to streams and models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.clock import NS_PER_MS, NS_PER_S
from agent.core.degradation import Ladder, Step, StepKind
from agent.core.policy import StreamPolicy
from agent.device.signals import DeviceSignals, Signals
from agent.engine.memory import MemoryReading
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


class ScriptedMemory:
    """Memory that is as full as it is told to be."""

    def __init__(self) -> None:
        self.ratio = 0.5

    def read(self) -> MemoryReading:
        return MemoryReading(0, self.ratio, None)


class Giving:
    """Remembers what it is told to give back."""

    def __init__(self) -> None:
        self.looks = 0
        self.is_frugal = False
        self.given_back = 0
        self.tidied = 0
        self.has_let_go = False

    def hold(self) -> None:
        self.looks += 1

    def let_go(self) -> None:
        self.has_let_go = True

    def set_frugal(self, is_frugal: bool) -> None:
        self.is_frugal = is_frugal

    def give_back(self) -> None:
        self.given_back += 1

    def tidy(self) -> None:
        self.tidied += 1


class Bench:
    """A governor over one real, idle inference loop."""

    def __init__(self, steps: tuple[Step, ...] = STEPS, device: DeviceSignals | None = None) -> None:
        self.clock = ManualClock()
        policies = {name: StreamPolicy(250 * NS_PER_MS, session="fake") for name in ("door", "yard")}
        self.inbox = Inbox(policies, self.clock)
        self.engines = (ScriptedEngine(), ScriptedEngine())
        self.loop = InferenceLoop(
            model=fake_model(*self.engines),
            inbox=self.inbox,
            timer=AbortTimer(self.clock),
            emit=lambda message: None,
            show=lambda frame, payload: None,
            clock=self.clock,
        )
        self.signals = ScriptedSignals()
        self.memory = ScriptedMemory()
        self.giving = Giving()
        self.events: list[tuple[str, Mapping[str, Any]]] = []
        self.governor = GovernorLoop(
            loops=lambda: [self.loop],
            inbox=self.inbox,
            live_streams=["door", "yard"],
            ladder=Ladder(steps),
            signals=device or self.signals,
            memory=self.memory,
            giving=self.giving,
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
    for (_, down), (_, up) in zip(bench.events[:3], reversed(bench.events[3:]), strict=True):
        assert (up["step"], up["cause"]) == (down["step"], down["cause"])
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


MEMORY_STEPS = (
    Step(StepKind.TRIM, "", 0, "unused memory given back"),
    Step(StepKind.UNLOAD, "", 0, "variants unloaded"),
    *STEPS,
)


def test_short_of_memory_it_gives_back_then_unloads_then_lightens_then_pauses() -> None:
    """In the order of what it costs; strides do not help and are left out."""
    bench = Bench(MEMORY_STEPS)
    full, small = bench.engines
    bench.memory.ratio = 0.97
    bench.read(5)
    assert bench.giving.is_frugal
    assert (full.shrunk, bench.giving.given_back) == (1, 1)
    assert full.is_loaded
    assert small.is_loaded
    bench.read(4)
    assert full.is_loaded
    assert not small.is_loaded
    bench.read(4)
    assert bench.loop._wanted_variant == 1
    assert not full.is_loaded
    bench.read(4)
    assert [(body["step"], body["cause"]) for event, body in bench.events if event == "degraded"] == [
        ("unused memory given back", "memory"),
        ("variants unloaded", "memory"),
        ("fake: small", "memory"),
        ("yard paused", "memory"),
    ]
    assert bench.giving.looks == 17


def test_memory_that_is_there_again_is_used_again() -> None:
    """Below 0.9 of the bound, and not before: at the bound itself it would swing."""
    bench = Bench(MEMORY_STEPS)
    bench.memory.ratio = 0.97
    bench.read(5)
    bench.memory.ratio = 0.9
    bench.read(60)
    assert bench.giving.is_frugal
    bench.memory.ratio = 0.8
    bench.read(60)
    assert not bench.giving.is_frugal
    assert [event for event, _ in bench.events] == ["degraded", "restored"]


def test_heat_takes_no_memory_steps() -> None:
    """They would cost CPU time, which is what there is too little of."""
    bench = Bench(MEMORY_STEPS)
    bench.signals.now = Signals(temperature_c=90.0, temperature_limit_c=80.0)
    bench.read(30)
    assert [body["step"] for _, body in bench.events] == ["stride 2", "fake: small", "yard paused"]
    assert bench.loop.model.variants[0].engine.is_loaded


def test_free_heap_goes_back_every_minute() -> None:
    """Whatever the ladder says: an agent that runs for months would hold all of it. Frames keep their buffers."""
    bench = Bench()
    bench.read(59)
    assert bench.giving.tidied == 0
    bench.read(1)
    assert bench.giving.tidied == 1
    bench.read(120)
    assert bench.giving.tidied == 3
    assert bench.giving.given_back == 0


def test_the_cap_ends_with_the_governor() -> None:
    """It would outlive execve, and what is left to do is to put messages in safety."""
    bench = Bench()
    bench.governor.stop()
    assert bench.giving.has_let_go


def _expire(bench: Bench, count: int) -> None:
    """Let frames expire in the slot."""
    for _ in range(count):
        bench.inbox.offer("door", Capture(bench.clock.now_ns() - NS_PER_S, PICTURE))
        bench.inbox.take("fake", 0)


@pytest.mark.parametrize(
    ("cause", "file", "bad", "good"),
    [
        ("temperature", "sys/class/thermal/thermal_zone0/temp", "90000", "40000"),
        ("frequency", "sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq", "600000", "1500000"),
        ("cpu", "proc/pressure/cpu", "some avg10=95.00 avg60=0 avg300=0 total=1", "some avg10=10.00 total=2"),
        ("memory", "proc/pressure/memory", "some avg10=30.00 avg60=0 avg300=0 total=1", "some avg10=1.00 total=2"),
    ],
)
def test_each_file_of_the_kernel_is_a_cause_and_its_end(
    tmp_path: Path, cause: str, file: str, bad: str, good: str
) -> None:
    """From a made /sys and /proc to the events, with the agent's own reader; all other files are missing."""
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).with_name("cpuinfo_max_freq").write_text("1500000")
    (tmp_path / file).write_text(bad)
    bench = Bench((Step(StepKind.STREAM, "yard", 0, "yard paused"),), DeviceSignals(root=tmp_path))
    bench.read(5)
    assert bench.capture("yard")["skipped"] == 1
    (tmp_path / file).write_text(good)
    bench.read(60)
    assert bench.capture("yard")["skipped"] == 1
    assert [(event, body["step"], body["cause"]) for event, body in bench.events] == [
        ("degraded", "yard paused", cause),
        ("restored", "yard paused", cause),
    ]
