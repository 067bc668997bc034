"""A stream's figures: of late and since the start, in virtual time."""

from __future__ import annotations

import threading

import pytest

from agent.clock import NS_PER_MS, NS_PER_S
from agent.core.ledger import Outcome
from agent.core.policy import StreamPolicy
from agent.frame import Capture
from agent.loops import stream_figures
from agent.loops.inbox import NO_PIXELS, Inbox, Nothing
from agent.metrics import Histogram
from tests.fakes import ManualClock


class Bench:
    """One stream whose frames are published at once."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.inbox = Inbox({"door": StreamPolicy(budget_ns=NS_PER_S)}, self.clock)

    def run(self, seconds: float, fps: float, age_ms: int, *, health_s: float = 10.0) -> None:
        """Let frames come for a while, and somebody look at the figures in between."""
        end_ns = self.clock.ns + int(seconds * NS_PER_S)
        look_ns = self.clock.ns
        while self.clock.ns < end_ns:
            self.clock.ns += int(NS_PER_S / fps)
            self.inbox.offer("door", Capture(self.clock.ns, NO_PIXELS))
            frame = self.inbox.take()
            assert not isinstance(frame, Nothing)
            self.inbox.settle(frame, self.inbox.finish(frame, self.clock.ns))
            self.inbox.record_sent("door", age_ms * NS_PER_MS, NS_PER_MS)
            if self.clock.ns >= look_ns:
                look_ns += int(health_s * NS_PER_S)
                self.inbox.snapshot(recent=True)


def test_a_stream_that_slows_down_shows_it_within_two_minutes() -> None:
    """After hours at another rate and age; the summary still tells of all."""
    bench = Bench()
    bench.run(3600, fps=10, age_ms=20)
    bench.run(125, fps=5, age_ms=80)
    of_late, whole = bench.inbox.snapshot(recent=True)["door"], bench.inbox.snapshot()["door"]
    assert of_late["captured_fps"] == of_late["published_fps"] == pytest.approx(5, rel=0.02)
    assert of_late["age_ms"]["p50"] == pytest.approx(80, rel=0.02)
    assert whole["captured_fps"] == pytest.approx(9.83, rel=0.02)
    assert whole["age_ms"]["p50"] == pytest.approx(20, rel=0.02)
    assert whole["ledger"]["published"] == whole["ledger"]["captured"] == of_late["ledger"]["captured"]


def test_a_stream_that_stopped_has_no_rate_any_more() -> None:
    """Somebody looks each ten seconds, and nothing comes."""
    bench = Bench()
    bench.run(300, fps=10, age_ms=20)
    for _ in range(13):
        bench.clock.ns += 10 * NS_PER_S
        figures = bench.inbox.snapshot(recent=True)["door"]
    assert figures["captured_fps"] == 0
    assert figures["age_ms"]["p50"] is None


def test_a_young_stream_tells_of_its_first_minute() -> None:
    """Intervals, not frames, over the span."""
    bench = Bench()
    bench.run(20, fps=10, age_ms=20)
    assert bench.inbox.snapshot(recent=True)["door"]["captured_fps"] == pytest.approx(10, rel=0.01)
    assert bench.inbox.snapshot()["door"]["captured_fps"] == pytest.approx(10, rel=0.001)


def test_quantiles_are_computed_without_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take a millisecond a stream; frames would wait for that, with 2 ms left until their deadline."""
    bench = Bench()
    bench.run(130, fps=10, age_ms=20)
    was_free: list[bool] = []
    compute = Histogram.quantiles_ns

    def look(self: Histogram, quantiles: list[float]) -> list[int]:
        was_free.append(bench.inbox._lock.acquire(blocking=False))
        bench.inbox._lock.release()
        return compute(self, quantiles)

    monkeypatch.setattr(Histogram, "quantiles_ns", look)
    bench.inbox.snapshot(recent=True)
    assert was_free
    assert all(was_free)


def test_figures_are_taken_while_frames_come() -> None:
    """By several threads at once: none loses a record, none sees half of one."""
    bench = Bench()
    done = threading.Event()
    seen: list[int] = []

    def look() -> None:
        while not done.is_set():
            figures = bench.inbox.snapshot(recent=True)["door"]
            seen.append(figures["ledger"]["captured"] - sum(figures["ledger"][str(outcome)] for outcome in Outcome))

    lookers = [threading.Thread(target=look) for _ in range(2)]
    for thread in lookers:
        thread.start()
    bench.run(2 * stream_figures.RECENT_NS / NS_PER_S, fps=20, age_ms=20)
    done.set()
    for thread in lookers:
        thread.join()
    assert set(seen) <= {0, 1}  # In flight.
    assert (
        bench.inbox.snapshot()["door"]["ledger"]["published"] == bench.inbox.snapshot()["door"]["ledger"]["captured"]
    )


def test_no_stage_is_lost_when_steps_come_and_go() -> None:
    """Stages are kept together for a while; frames with steps have one more, and each look has them all."""
    figures = stream_figures.StreamFigures()
    lengths = [4] * 40 + [5] * 3 + [4] * (stream_figures.TOGETHER + 1)
    for length in lengths:
        figures.record_stages([stage * 1_000_000 for stage in range(length)])
    stages = figures.durations(recent=True).stages
    counts = {name: sum(part.count for part in parts) for name, parts in stages.items()}
    assert counts == {"preprocess": len(lengths), "run": len(lengths), "decode": len(lengths), "steps": 3}
    assert {part.max_ns for parts in stages.values() for part in parts} == {1_000_000}
