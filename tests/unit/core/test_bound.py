"""The bound of what any scheduler could publish, against trying everything."""

from __future__ import annotations

import itertools
import random

import pytest

from agent.clock import NS_PER_MS, NS_PER_S
from agent.core.bound import published_bound
from agent.core.machine import MachineSpeed
from agent.core.policy import EGRESS_RESERVE_NS, Overflow, StreamPolicy
from agent.core.simulation import Arrival

MS = NS_PER_MS


def best_by_trying(policies: dict[str, StreamPolicy], arrivals: list[Arrival], speed: MachineSpeed) -> int:
    """Return the most frames that any order of running them publishes; exponential, independent of the bound."""
    ordered = sorted(arrivals, key=lambda arrival: arrival.at_ns)
    starts_before = {}
    for index, arrival in enumerate(ordered):
        later = [other.at_ns for other in ordered[index + 1 :] if other.stream == arrival.stream]
        queue_frames = policies[arrival.stream].queue_frames
        starts_before[index] = later[queue_frames - 1] if len(later) >= queue_frames else 10**18
    best = 0
    for size in range(1, len(ordered) + 1):
        for order in itertools.permutations(range(len(ordered)), size):
            now_ns = 0
            for index in order:
                arrival = ordered[index]
                start_ns = max(now_ns, arrival.at_ns)
                now_ns = speed.end_ns(start_ns, arrival.work_ns)
                last_ns = arrival.at_ns + (policies[arrival.stream].budget_ns or 0) - EGRESS_RESERVE_NS
                if start_ns > starts_before[index] or now_ns > last_ns:
                    break
            else:
                best = size
                break
        if best < size:
            return best
    return best


@pytest.mark.parametrize("seed", range(60))
def test_no_order_publishes_more_than_the_bound(seed: int) -> None:
    """Six frames of two streams, unequal work and budgets, a machine that stalls: never below, hardly above."""
    rng = random.Random(seed)
    policies = {
        name: StreamPolicy(rng.choice([60, 100, 200]) * MS, queue, Overflow.DROP_OLDEST)
        for name, queue in (("a", 1), ("b", rng.choice([1, 2])))
    }
    arrivals = [Arrival(rng.randrange(300) * MS, rng.choice("ab"), rng.choice([20, 30, 50]) * MS) for _ in range(6)]
    arrivals.sort(key=lambda arrival: arrival.at_ns)
    speed = MachineSpeed([(rng.randrange(200) * MS, 0.0), (250 * MS, rng.choice([0.4, 1.0]))])
    best, bound = best_by_trying(policies, arrivals, speed), published_bound(policies, arrivals, speed)
    assert best <= bound <= best + 2


def test_equal_deadlines_make_it_exact() -> None:
    """One live stream at 30 fps on a model of 100 ms: one frame in 100 ms, to the last."""
    arrivals = [Arrival(index * NS_PER_S // 30, "s", 100 * MS) for index in range(300)]
    assert published_bound({"s": StreamPolicy(250 * MS)}, arrivals, MachineSpeed()) in (100, 101)


def test_what_cannot_finish_in_time_counts_nothing() -> None:
    """A model slower than the deadline, streams without one and those that publish late results."""
    arrivals = [Arrival(0, "s", 300 * MS)]
    for policy in (
        StreamPolicy(250 * MS),
        StreamPolicy(None, 4, Overflow.BLOCK),
        StreamPolicy(900 * MS, late_is_published=True),
    ):
        assert published_bound({"s": policy}, arrivals, MachineSpeed()) == 0


def test_gates_leave_out_the_same_frames() -> None:
    """max_fps and stride bind the clairvoyant scheduler too."""
    arrivals = [Arrival(index * 100 * MS, "s", MS) for index in range(100)]
    assert published_bound({"s": StreamPolicy(250 * MS, stride=4)}, arrivals, MachineSpeed()) == 25
    assert published_bound({"s": StreamPolicy(250 * MS, max_hz=5)}, arrivals, MachineSpeed()) == 50
