"""Made traces."""

from __future__ import annotations

import random

import pytest

from agent.clock import NS_PER_MS, NS_PER_S
from agent.core.synthetic import DROP_SPEED, Spells, machine_speed, noisy_speed, random_scenario

MS = NS_PER_MS


def test_a_stall_wins_over_a_drop() -> None:
    """Where both are, nothing moves."""
    spells = Spells(dropped=[(10, 30)], stalled=[(20, 40)])
    assert [spells.factor(at_ns) for at_ns in (9, 10, 20, 39, 40)] == [1.0, DROP_SPEED, 0.0, 0.0, 1.0]


def test_without_noise_the_speed_is_that_of_the_spells() -> None:
    """Full, a third, none, full: the work done by each edge."""
    spells = Spells(dropped=[(100 * MS, 400 * MS)], stalled=[(700 * MS, 900 * MS)])
    speed = noisy_speed(spells, NS_PER_S, random.Random(1), noise=0.0)
    done_ms = [speed.work_ns(at_ms * MS) / MS for at_ms in (100, 400, 700, 900, 1000)]
    assert done_ms == pytest.approx([100, 200, 500, 500, 600])


def test_a_scenario_tells_its_spells() -> None:
    """Two stalls and a drop are in the speed where the spells say so."""
    scenario = next(s for s in map(random_scenario, range(100)) if s.spells.stalled and s.spells.dropped)
    start_ns, end_ns = scenario.spells.stalled[0]
    assert scenario.world.speed.work_ns(start_ns) == scenario.world.speed.work_ns(end_ns)


def test_the_machine_is_the_same_for_the_same_seed() -> None:
    """A seed that failed can be run again."""
    works = [machine_speed(NS_PER_S, random.Random(7), stalls=1, drops=1).work_ns(NS_PER_S) for _ in range(2)]
    assert works[0] == works[1]
