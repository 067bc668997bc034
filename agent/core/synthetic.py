"""Made traces: cameras with jitter, bursts and gaps on a machine that stalls and changes its speed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agent.clock import NS_PER_MS, NS_PER_S
from agent.core.machine import MachineSpeed
from agent.core.policy import StreamPolicy
from agent.core.simulation import Arrival, World

OVERSHOOT_MEDIAN_NS = 5_100_000
OVERSHOOT_SIGMA = 0.445
"""An aborted run goes on to its next operator: median 5.1 ms, p95 10.6 ms for a model of 172 ms on one thread; a
lognormal distribution with these figures."""

NOISE = 0.1
"""Standard deviation of the speed, and how far its mean is below the best."""

SPEED_MIN, SPEED_MAX = 0.3, 1.2
"""Where it is cut off."""

NOISE_EVERY_NS = 40 * NS_PER_MS
"""How long one draw of it holds."""

DROP_SPEED = 1 / 3


@dataclass(frozen=True, slots=True)
class Spells:
    """When a machine is slow or stands still; (from, to) times.

    Attributes:
        dropped: the clock frequency is down.
        stalled: nothing moves.
        drop_speed: the speed of the first.
    """

    dropped: Sequence[tuple[int, int]] = ()
    stalled: Sequence[tuple[int, int]] = ()
    drop_speed: float = DROP_SPEED

    def factor(self, at_ns: int) -> float:
        """Return what is left of the speed then."""
        if any(start <= at_ns < end for start, end in self.stalled):
            return 0.0
        return self.drop_speed if any(start <= at_ns < end for start, end in self.dropped) else 1.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """A whole made trace.

    Attributes:
        policies: by stream name.
        arrivals: in order.
        world: the device.
        load: work that arrives, of the work that the machine can do at its best.
        are_equal: whether all streams have the same rate.
        spells: what the device's speed was drawn around.
    """

    policies: dict[str, StreamPolicy]
    arrivals: list[Arrival]
    world: World
    load: float
    are_equal: bool
    spells: Spells


@dataclass(frozen=True, slots=True)
class Camera:
    """One synthetic stream.

    Attributes:
        name: of the stream.
        fps: mean rate.
        jitter: largest deviation of one period, as a share of it.
        burst_share: of the frames, those that come at once after the one before.
        gaps_hz: pauses of 2 s, a second.
        latency_ns: from capture to arrival.
    """

    name: str
    fps: float
    jitter: float = 0.2
    burst_share: float = 0.0
    gaps_hz: float = 0.0
    latency_ns: int = 0


def overshoot_of(rng: random.Random) -> Callable[[], int]:
    """Return a draw of how long an aborted run goes on."""
    return lambda: round(OVERSHOOT_MEDIAN_NS * rng.lognormvariate(0.0, OVERSHOOT_SIGMA))


def arrivals_of(camera: Camera, work_ns: int, span_ns: int, rng: random.Random) -> list[Arrival]:
    """Return the frames of one camera; all of them take the same work, as those of one model do."""
    period_ns = NS_PER_S / camera.fps
    at_ns = rng.uniform(0, period_ns)
    arrivals = []
    while at_ns < span_ns:
        arrivals.append(Arrival(int(at_ns), camera.name, work_ns, latency_ns=camera.latency_ns))
        if rng.random() < camera.burst_share:
            at_ns += 1
        else:
            at_ns += period_ns * rng.uniform(1 - camera.jitter, 1 + camera.jitter)
        if rng.random() < camera.gaps_hz / camera.fps:
            at_ns += 2 * NS_PER_S
    return arrivals


def machine_speed(
    span_ns: int,
    rng: random.Random,
    *,
    noise: float = NOISE,
    stalls: int = 0,
    stall_max_ns: int = 5 * NS_PER_S,
    drops: int = 0,
    drop_speed: float = DROP_SPEED,
) -> MachineSpeed:
    """Return a machine whose speed is noisy, stands still and drops to a third.

    Args:
        span_ns: length of the trace.
        rng: seeded by the caller.
        noise: standard deviation of the speed, which changes each 40 ms.
        stalls: how many times everything stands still, each for 0 to `stall_max_ns`.
        stall_max_ns: the longest stall.
        drops: how many times the clock frequency drops, each for 1 to 8 s.
        drop_speed: the speed then.
    """
    spells = draw_spells(span_ns, rng, stalls=stalls, stall_max_ns=stall_max_ns, drops=drops, drop_speed=drop_speed)
    return noisy_speed(spells, span_ns, rng, noise=noise)


def draw_spells(
    span_ns: int,
    rng: random.Random,
    *,
    stalls: int,
    drops: int,
    stall_max_ns: int = 5 * NS_PER_S,
    drop_speed: float = DROP_SPEED,
) -> Spells:
    """Return when the machine is slow or stands still; see `machine_speed`."""
    dropped = [_interval(rng, span_ns, NS_PER_S, 8 * NS_PER_S) for _ in range(drops)]
    return Spells(dropped, [_interval(rng, span_ns, 0, stall_max_ns) for _ in range(stalls)], drop_speed)


def noisy_speed(spells: Spells, span_ns: int, rng: random.Random, *, noise: float = NOISE) -> MachineSpeed:
    """Draw the noise around some spells."""
    edges = {time_ns for interval in (*spells.dropped, *spells.stalled) for time_ns in interval}
    edges.update(range(NOISE_EVERY_NS, span_ns, NOISE_EVERY_NS))
    changes = [
        (at_ns, min(SPEED_MAX, max(SPEED_MIN, rng.gauss(1 - noise, noise))) * spells.factor(at_ns))
        for at_ns in sorted(edges)
    ]
    return MachineSpeed([*changes, (max([span_ns, *edges]) + 1, 1.0)])


def _interval(rng: random.Random, span_ns: int, shortest_ns: int, longest_ns: int) -> tuple[int, int]:
    start_ns = rng.randrange(span_ns)
    return start_ns, start_ns + rng.randrange(shortest_ns, longest_ns)


def random_scenario(seed: int, span_ns: int = 30 * NS_PER_S) -> Scenario:
    """Draw streams, load and trouble: 1 to 8 streams on one model, 0.2 to 10 times what the machine can do.

    Loads are spread evenly on a logarithmic scale. Half of the scenarios have equal streams. Service times are at
    most 0.8 of the deadline at full speed: beyond, noise alone decides what is in time.
    """
    rng = random.Random(seed)  # noqa: S311  Simulated trouble is no secret.
    count = rng.randint(1, 8)
    load = 0.2 * 50 ** rng.random()
    budget_ns = rng.choice([100, 150, 250, 500, 1000]) * NS_PER_MS
    are_equal = rng.random() < 0.5
    rates = [rng.uniform(4, 40)] * count if are_equal else [rng.uniform(4, 40) for _ in range(count)]
    work_ns = min(int(load * NS_PER_S / sum(rates)), int(budget_ns * rng.uniform(0.3, 0.8)))
    burst_share = rng.choice([0.0, 0.02])
    latency_ns = rng.choice([0, 2, 10]) * NS_PER_MS
    cameras = [
        Camera(f"s{index}", fps, burst_share=burst_share, latency_ns=latency_ns) for index, fps in enumerate(rates)
    ]
    arrivals = [arrival for camera in cameras for arrival in arrivals_of(camera, work_ns, span_ns, rng)]
    spells = draw_spells(span_ns, rng, stalls=rng.choice([0, 0, 1, 2]), drops=rng.choice([0, 0, 1]))
    return Scenario(
        policies={camera.name: StreamPolicy(budget_ns) for camera in cameras},
        arrivals=sorted(arrivals, key=lambda arrival: arrival.at_ns),
        world=World(speed=noisy_speed(spells, span_ns, rng), overshoot_ns=overshoot_of(rng)),
        load=work_ns * sum(rates) / NS_PER_S,
        are_equal=are_equal,
        spells=spells,
    )
