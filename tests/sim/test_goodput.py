"""How much of what was possible is published, and how evenly; `scripts/bench_simulation` runs 10,000 seeds."""

from __future__ import annotations

import random

import pytest

from agent.clock import NS_PER_MS, NS_PER_S
from agent.core.bound import jain_index, published_bound
from agent.core.ledger import Outcome
from agent.core.machine import MachineSpeed
from agent.core.policy import StreamPolicy
from agent.core.simulation import Arrival, Simulation, World
from agent.core.synthetic import Camera, arrivals_of, random_scenario

SEEDS = 60


@pytest.mark.parametrize("block", range(6))
def test_goodput_and_fairness_over_random_scenarios(block: int) -> None:
    """Ten scenarios together: exact books, no age over its deadline, 0.95 of the bound, 0.9 of fairness each."""
    published = possible = 0
    for seed in range(block * 10, block * 10 + 10):
        scenario = random_scenario(seed, span_ns=15 * NS_PER_S)
        report = Simulation(scenario.policies, scenario.world).run(scenario.arrivals)
        counts = []
        for name, policy in scenario.policies.items():
            ledger = report.intake.ledgers[name]
            assert ledger.is_exact()
            assert ledger.in_flight == 0
            assert max(report.published_ages_ns(name), default=0) <= (policy.budget_ns or 0)
            counts.append(ledger.count(Outcome.PUBLISHED))
        if scenario.are_equal and sum(counts) > 20 * len(counts):
            assert jain_index(counts) >= 0.9, f"seed {seed}: {counts}"
        bound = published_bound(scenario.policies, scenario.arrivals, scenario.world.speed)
        assert sum(counts) <= bound, f"seed {seed}: {counts} is more than the bound of {bound}"
        published += sum(counts)
        possible += bound
    assert published >= 0.95 * possible


def test_four_cameras_in_threefold_overload() -> None:
    """The machine benchmark in virtual time: 4 x 30 fps against 25 ms, everything that fits is published, evenly."""
    rng = random.Random(1)
    cameras = [Camera(f"c{index}", 30) for index in range(4)]
    arrivals = [arrival for camera in cameras for arrival in arrivals_of(camera, 25 * NS_PER_MS, 60 * NS_PER_S, rng)]
    policies = {camera.name: StreamPolicy(250 * NS_PER_MS) for camera in cameras}
    report = Simulation(policies, World()).run(sorted(arrivals, key=lambda arrival: arrival.at_ns))
    counts = [report.intake.ledgers[name].count(Outcome.PUBLISHED) for name in policies]
    assert sum(counts) >= 0.99 * 60 / 0.025
    assert jain_index(counts) > 0.999


def test_a_thousand_frames_a_second_and_none() -> None:
    """A source that floods takes its share and no more; one that never delivers has an empty book."""
    flood = [Arrival(index * NS_PER_MS, "flood", 20 * NS_PER_MS) for index in range(10_000)]
    calm = [Arrival(index * 100 * NS_PER_MS, "calm", 20 * NS_PER_MS) for index in range(100)]
    policies = dict.fromkeys(("flood", "calm", "silent"), StreamPolicy(250 * NS_PER_MS))
    report = Simulation(policies, World()).run(sorted([*flood, *calm], key=lambda arrival: arrival.at_ns))
    ledgers = report.intake.ledgers
    assert ledgers["calm"].count(Outcome.PUBLISHED) == 100
    assert ledgers["flood"].count(Outcome.PUBLISHED) >= 390
    assert ledgers["silent"].snapshot()["captured"] == 0
    assert all(ledger.is_exact() for ledger in ledgers.values())


def test_a_threefold_drop_of_the_clock_frequency_costs_two_seconds_at_most_and_so_does_its_end() -> None:
    """30 fps against 60 ms: 16 a second, 5 while a run takes 180 of the 250 ms; both are reached within 2 s."""
    drop_ns, back_ns = 10 * NS_PER_S, 20 * NS_PER_S
    world = World(speed=MachineSpeed([(drop_ns, 1 / 3), (back_ns, 1.0)]))
    arrivals = [Arrival(int(index * NS_PER_S / 30), "s", 60 * NS_PER_MS) for index in range(30 * 30)]
    report = Simulation({"s": StreamPolicy(250 * NS_PER_MS)}, world).run(arrivals)
    published = [end.at_ns for end in report.ends if end.outcome is Outcome.PUBLISHED]

    def rate_hz(begin_ns: int, end_ns: int) -> float:
        return sum(begin_ns <= at_ns < end_ns for at_ns in published) / ((end_ns - begin_ns) / NS_PER_S)

    assert rate_hz(0, drop_ns) >= 0.95 / 0.06
    assert rate_hz(drop_ns + 2 * NS_PER_S, back_ns) >= 0.95 / 0.18
    assert rate_hz(back_ns + 2 * NS_PER_S, 30 * NS_PER_S) >= 0.95 / 0.06
