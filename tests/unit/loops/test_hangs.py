"""Hangs are counted in ticks of the watching thread."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from agent.clock import NS_PER_MS, NS_PER_S
from agent.core.policy import StreamPolicy
from agent.frame import Frame
from agent.loops.abort import AbortTimer
from agent.loops.hangs import TICK_NS, HangLoop
from agent.loops.inbox import Inbox
from agent.loops.inference import CurrentRun, InferenceLoop
from tests.fakes import ManualClock, ScriptedEngine, fake_model


class Watch:
    """A hang loop over one inference loop that only pretends to run."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.loop = InferenceLoop(
            model=fake_model(ScriptedEngine()),
            inbox=Inbox({"door": StreamPolicy(NS_PER_S, session="fake")}, self.clock),
            timer=AbortTimer(self.clock),
            emit=lambda message: None,
            show=lambda frame, payload: None,
            clock=self.clock,
        )
        self.hung: list[tuple[CurrentRun, float]] = []
        self.hangs = HangLoop(
            loops=lambda: [self.loop],
            hung=lambda loop, run, overdue_s: self.hung.append((run, overdue_s)),
            hang_ns=5 * NS_PER_S,
            clock=self.clock,
        )

    def running(self, due_ns: int) -> CurrentRun:
        """Pretend that the loop runs a frame."""
        frame = Frame("door", 1, 0, due_ns, np.zeros((1, 1, 3), np.uint8))
        return CurrentRun(frame, self.loop.variant, due_ns)


def tick(bench: Watch, count: int) -> None:
    """Let ticks pass with their time."""
    for _ in range(count):
        bench.clock.ns += TICK_NS
        bench.hangs.look()


def test_a_run_that_is_overdue_for_its_limit_is_hung_once() -> None:
    """Not before 5 s after its deadline, and told a single time."""
    bench = Watch()
    bench.loop.current = bench.running(bench.clock.now_ns() + NS_PER_S)
    tick(bench, 11)
    assert bench.hung == []
    tick(bench, 40)
    ((run, overdue_s),) = bench.hung
    assert run is bench.loop.current
    assert overdue_s == 5.0


@pytest.mark.parametrize("due_in_ms", [0, 1, 250, 499, 500, 501, 1000])
@pytest.mark.parametrize(("fastest_ms", "limit_s"), [(1, 5.0), (2000, 20.0)])
def test_the_bound_of_a_restart_begins_with_a_hang_that_is_seen_half_a_second_late_at_most(
    due_in_ms: int, fastest_ms: int, limit_s: float
) -> None:
    """Wherever the deadline lies between two looks; what the event says is at most half a second from the truth."""
    bench = Watch()
    due_ns = bench.clock.now_ns() + due_in_ms * NS_PER_MS
    variant = replace(bench.loop.variant, fastest_ns=fastest_ms * NS_PER_MS)
    bench.loop.current = CurrentRun(None, variant, due_ns)
    while not bench.hung:
        tick(bench, 1)
    true_overdue_s = (bench.clock.now_ns() - due_ns) / NS_PER_S
    ((_, overdue_s),) = bench.hung
    assert overdue_s == limit_s
    assert abs(true_overdue_s - limit_s) <= TICK_NS / NS_PER_S


def test_runs_that_end_are_never_hung() -> None:
    """Each late run starts the count anew."""
    bench = Watch()
    for _ in range(20):
        bench.loop.current = bench.running(bench.clock.now_ns() - 1)
        tick(bench, 3)
    assert bench.hung == []


def test_a_suspended_machine_has_no_hangs() -> None:
    """The clock jumped by hours; the inference had one tick of them."""
    bench = Watch()
    bench.loop.current = bench.running(bench.clock.now_ns() + NS_PER_S)
    bench.clock.ns += 3600 * NS_PER_S
    tick(bench, 3)
    bench.loop.current = None
    tick(bench, 20)
    assert bench.hung == []


def test_a_slow_model_is_given_ten_times_its_warm_up() -> None:
    """A model of 2 s is not hung after 5."""
    bench = Watch()
    slow = replace(bench.loop.variant, fastest_ns=2 * NS_PER_S)
    bench.loop.current = CurrentRun(None, slow, bench.clock.now_ns() - 1)
    tick(bench, 39)
    assert bench.hung == []
    tick(bench, 1)
    assert len(bench.hung) == 1
