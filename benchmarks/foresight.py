"""What a scheduler could publish that knows everything about a made scenario but the noise to come.

The clairvoyant bound knows the noise as well: where a run takes about as long as its frame has, it starts just those
runs that will be in time. No scheduler can, as the speed of the next 40 ms is drawn when they begin. This reference
tells what is left to a scheduler that knows every arrival, stall and drop beforehand, and the law of the noise.
"""

from __future__ import annotations

import math
import random
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from agent.clock import NS_PER_MS
from agent.core.bound import published_bound
from agent.core.ledger import Outcome
from agent.core.policy import EGRESS_RESERVE_NS, SchedulerPolicy
from agent.core.simulation import Simulation
from agent.core.synthetic import NOISE, NOISE_EVERY_NS, OVERSHOOT_MEDIAN_NS, SPEED_MAX, Scenario, noisy_speed

Floats = npt.NDArray[np.float64]

SLOT_MS = NOISE_EVERY_NS // NS_PER_MS
OVERSHOOT_MS = round(OVERSHOOT_MEDIAN_NS / NS_PER_MS)
SIGMAS_MAX = 5.0
_SIGMAS = np.linspace(-SIGMAS_MAX, SIGMAS_MAX, 2001)
_NORMAL = np.array([NormalDist().cdf(float(sigmas)) for sigmas in _SIGMAS])


def attainable(scenario: Scenario, span_ns: int) -> float:
    """Return the most results that can be expected of one noise, by a scheduler that knows its law alone.

    A dynamic programme backwards over a grid of 1 ms (Bellman): at each moment the idle session either waits or runs
    the freshest frame, which has the best chance. A run's work until any moment is a sum over the slots of the
    noise, so its end is taken as normally distributed with the exact mean and variance. Errs on the high side where
    it errs on purpose: one frame may run twice, which matters only where two runs fit one deadline. On the grid, and
    in the normal law, it is an estimate, not a proven bound.

    All streams must have one budget, latency and work, as those of `random_scenario` have.
    """
    first, policy = scenario.arrivals[0], next(iter(scenario.policies.values()))
    work = first.work_ns / NS_PER_MS
    budget_ms = ((policy.budget_ns or 0) - EGRESS_RESERVE_NS) / NS_PER_MS
    length = math.ceil(span_ns / NS_PER_MS + budget_ms) + OVERSHOOT_MS + 2
    factor = np.array([scenario.spells.factor(ms * NS_PER_MS) for ms in range(length)])
    done = np.concatenate([[0.0], np.cumsum(factor)])  # Work by then, at a speed of 1.
    captured = _freshest(scenario, length)
    best = np.zeros(length + 1)
    for now in range(length - 1, -1, -1):
        best[now] = best[now + 1]
        left = captured[now] + budget_ms - now
        if left <= 0:
            continue
        until = now + math.ceil(left) + OVERSHOOT_MS  # An aborted run has ended by then.
        if until > length or SPEED_MAX * (done[until] - done[now]) < work:
            continue
        ends = np.arange(now + 1, until + 1)
        by = _chance_by(ends, now, done, work)
        in_time = float(np.interp(left, ends - now, by))
        if in_time > 0:
            went_on = float(np.diff(by, prepend=0.0) @ best[ends]) + (1 - by[-1]) * best[until]
            best[now] = max(best[now], in_time + went_on)
    return float(best[0])


def mean_over_draws(
    scenario: Scenario, span_ns: int, draws: int, seed: int, scheduling: SchedulerPolicy | None = None
) -> tuple[float, float]:
    """Return what the scheduler publishes of the same arrivals and spells, and what was possible at most.

    Both are means over so many other draws of the noise; the latter of the clairvoyant bound of each draw.
    """
    rng = random.Random(seed)
    published = possible = 0
    for _ in range(draws):
        world = replace(scenario.world, speed=noisy_speed(scenario.spells, span_ns, rng))
        ledgers = Simulation(scenario.policies, world, scheduling).run(scenario.arrivals).intake.ledgers
        published += sum(ledger.count(Outcome.PUBLISHED) for ledger in ledgers.values())
        possible += published_bound(scenario.policies, scenario.arrivals, world.speed)
    return published / draws, possible / draws


def _freshest(scenario: Scenario, length: int) -> Floats:
    """Return the capture of the freshest frame that has arrived by each ms; minus infinity before the first."""
    captured = np.full(length, -math.inf)
    for arrival in scenario.arrivals:
        ms = round((arrival.at_ns + arrival.latency_ns) / NS_PER_MS)
        if ms < length:
            captured[ms] = max(captured[ms], arrival.at_ns / NS_PER_MS)
    return np.maximum.accumulate(captured)


def _chance_by(ends: npt.NDArray[np.int64], now: int, done: Floats, work: float) -> Floats:
    """Return the chance that a run which starts now has ended by each of some later ms, ends included."""
    mean = (1 - NOISE) * (done[ends] - done[now])
    slot_end = now - now % SLOT_MS + SLOT_MS
    last_begin = np.maximum(slot_end, ends - ends % SLOT_MS)
    in_first = done[np.minimum(ends, slot_end)] - done[now]
    in_last = done[ends] - done[np.minimum(last_begin, ends)]
    between = np.maximum(0, last_begin - slot_end) // SLOT_MS
    each = SLOT_MS * (done[ends] - done[now]) / (ends - now)
    variance = NOISE**2 * (in_first**2 + in_last**2 + between * each**2)
    sigmas = (mean - work) / np.sqrt(np.maximum(variance, 1e-9))
    chance = np.interp(sigmas, _SIGMAS, _NORMAL)
    chance[sigmas < -SIGMAS_MAX] = 0.0
    return np.maximum.accumulate(chance)
