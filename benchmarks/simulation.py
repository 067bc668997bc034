"""The real core over thousands of random scenarios: books, ages, goodput against a clairvoyant bound, fairness."""

from __future__ import annotations

import os
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from agent.clock import NS_PER_S
from agent.core.bound import jain_index, published_bound
from agent.core.ledger import Outcome
from agent.core.policy import SchedulerPolicy
from agent.core.predictor import PredictorPolicy
from agent.core.simulation import Simulation
from agent.core.synthetic import random_scenario
from benchmarks import harness
from benchmarks.foresight import attainable, mean_over_draws

GOODPUT_MIN = 0.95
FAIRNESS_MIN = 0.9
FRAMES_MIN = 20
"""Fairness of streams that published fewer frames each is a matter of one frame."""
DRAWS = 10
"""Of the noise, for the mean of a seed below `GOODPUT_MIN`."""

CLASSES = ((0.0, 0.7), (0.7, 1.3), (1.3, 3.0), (3.0, 99.0))


@dataclass(frozen=True, slots=True)
class Seed:
    """What one scenario gave.

    Attributes:
        seed: of the scenario.
        load: see `Scenario`.
        published: results in time.
        possible: the clairvoyant bound.
        over_deadline: published ages over their deadline.
        is_exact: every frame has one outcome.
        fairness: among equal streams, where each published enough.
        attainable: results of a scheduler that knows all but the noise; for seeds below `GOODPUT_MIN` only.
        mean: published over other draws of the noise; for the same seeds.
        mean_possible: the clairvoyant bound over those draws; for the same seeds.
    """

    seed: int
    load: float
    published: int
    possible: int
    over_deadline: int
    is_exact: bool
    fairness: float | None
    attainable: float | None = None
    mean: float | None = None
    mean_possible: float | None = None

    @property
    def goodput(self) -> float:
        """Published of what was possible."""
        return self.published / self.possible if self.possible else 1.0

    @property
    def skill(self) -> float:
        """What the scheduler publishes, of what one could that does not know the noise to come, in the mean.

        Where one that does could publish less, of that.
        """
        if self.attainable is None or self.mean is None or self.mean_possible is None:
            return self.goodput
        return self.mean / min(self.attainable, self.mean_possible)


def run_seed(task: tuple[int, float, float | None]) -> Seed:
    """Simulate one scenario."""
    seed, seconds, confidence = task
    scenario = random_scenario(seed, int(seconds * NS_PER_S))
    predictor = PredictorPolicy() if confidence is None else PredictorPolicy(confidence=confidence)
    scheduling = SchedulerPolicy(predictor=predictor)
    report = Simulation(scenario.policies, scenario.world, scheduling).run(scenario.arrivals)
    ledgers = report.intake.ledgers
    captured = {name: sum(arrival.stream == name for arrival in scenario.arrivals) for name in scenario.policies}
    exact = all(
        ledgers[name].is_exact() and ledgers[name].in_flight == 0 and ledgers[name].captured == captured[name]
        for name in scenario.policies
    )
    over = sum(
        age_ns > (policy.budget_ns or 0)
        for name, policy in scenario.policies.items()
        for age_ns in report.published_ages_ns(name)
    )
    over += sum(
        not sent.replay and sent.age_ns > (scenario.policies[sent.stream].budget_ns or 0) for sent in report.sent
    )
    counts = [ledgers[name].count(Outcome.PUBLISHED) for name in scenario.policies]
    is_fair_case = scenario.are_equal and len(counts) > 1 and sum(counts) >= FRAMES_MIN * len(counts)
    result = Seed(
        seed=seed,
        load=scenario.load,
        published=sum(counts),
        possible=published_bound(scenario.policies, scenario.arrivals, scenario.world.speed),
        over_deadline=over,
        is_exact=exact and report.outbox.is_exact(),
        fairness=jain_index(counts) if is_fair_case else None,
    )
    if result.goodput >= GOODPUT_MIN:
        return result
    span_ns = int(seconds * NS_PER_S)
    mean, mean_possible = mean_over_draws(scenario, span_ns, DRAWS, seed, scheduling)
    return replace(result, attainable=attainable(scenario, span_ns), mean=mean, mean_possible=mean_possible)


def main() -> int:
    """Run all seeds on all cores and print a row for each class of load."""
    parser = harness.parser("The scheduler over random scenarios in virtual time.")
    parser.add_argument("--seeds", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--seconds", type=float, default=30.0, help="of virtual time a scenario")
    parser.add_argument("--confidence", type=float, help="instead of the default")
    args = parser.parse_args()
    tasks = [(seed, args.seconds, args.confidence) for seed in range(args.first, args.first + args.seeds)]
    done: list[Seed] = []
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for result in pool.map(run_seed, tasks, chunksize=20):
            done.append(result)
            if len(done) % 1000 == 0:
                harness.note(f"{len(done)} of {len(tasks)}")
    return _report(done, as_json=args.json)


def _row(name: str, seeds: list[Seed]) -> dict[str, Any]:
    goodputs = [seed.goodput for seed in seeds]
    fairness = [seed.fairness for seed in seeds if seed.fairness is not None]
    return {
        "load": name,
        "seeds": len(seeds),
        "published": sum(seed.published for seed in seeds),
        "goodput, all": sum(seed.published for seed in seeds) / max(1, sum(seed.possible for seed in seeds)),
        "median": statistics.median(goodputs),
        "p1": harness.quantile(goodputs, 0.01),
        "least": min(goodputs),
        f"seeds >= {GOODPUT_MIN}": sum(goodput >= GOODPUT_MIN for goodput in goodputs) / len(seeds),
        "fairness p1": harness.quantile(fairness, 0.01) if fairness else None,
        "least fair": min(fairness, default=None),
    }


def _report(done: list[Seed], *, as_json: bool) -> int:
    rows = [_row("all", done)]
    for least, most in CLASSES:
        if own := [seed for seed in done if least <= seed.load < most]:
            rows.append(_row(f"{least:g}-{most:g}" if most < 99 else f"{least:g} and more", own))
    over, inexact = sum(seed.over_deadline for seed in done), sum(not seed.is_exact for seed in done)
    fairness = [seed.fairness for seed in done if seed.fairness is not None]
    unfair = [seed for seed in done if seed.fairness is not None and seed.fairness < FAIRNESS_MIN]
    goodput = rows[0]["goodput, all"]
    low = [seed for seed in done if seed.goodput < GOODPUT_MIN]
    unskilled = [seed for seed in low if seed.skill < GOODPUT_MIN]
    verdicts = [
        harness.Verdict("seeds with an inexact book", inexact, "= 0", inexact == 0),
        harness.Verdict("published ages over their deadline", over, "= 0", over == 0),
        harness.Verdict("goodput over all seeds", goodput, f">= {GOODPUT_MIN}", goodput >= GOODPUT_MIN),
        harness.Verdict(
            f"seeds below {GOODPUT_MIN} for another reason than noise", len(unskilled), "= 0", not unskilled
        ),
        harness.Verdict(f"seeds of equal streams with fairness below {FAIRNESS_MIN}", len(unfair), "= 0", not unfair),
    ]
    return harness.conclude(
        "simulation",
        rows,
        verdicts,
        as_json=as_json,
        seeds_of_equal_streams=len(fairness),
        seeds_below=len(low),
        worst=_list(sorted(low, key=lambda seed: seed.goodput)[:5]),
        unskilled=_list(unskilled),
        unfair=", ".join(f"seed {seed.seed}: {seed.fairness:.3f}" for seed in unfair),
    )


def _list(seeds: list[Seed]) -> str:
    return ", ".join(
        f"seed {seed.seed}: {seed.published} of {seed.possible} (mean {seed.mean} of {seed.mean_possible}, "
        f"attainable {seed.attainable:.0f})"
        for seed in seeds
    )


if __name__ == "__main__":
    sys.exit(main())
