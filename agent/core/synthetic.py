"""Made traces: cameras with jitter, bursts and gaps on a machine that stalls and changes its speed."""

from __future__ import annotations

import random
from dataclasses import dataclass

from agent.clock import NS_PER_MS, NS_PER_S
from agent.core.machine import MachineSpeed
from agent.core.simulation import Arrival

OVERSHOOT_MEAN_NS = 4_400_000
"""An aborted run goes on to its next operator: median 5.1 ms, p95 10.6 ms for a model of 172 ms on one thread."""

_NOISE_EVERY_NS = 40 * NS_PER_MS


@dataclass(frozen=True, slots=True)
class Camera:
    """One synthetic stream.

    Attributes:
        name: of the stream.
        fps: mean rate.
        jitter: largest deviation of one period, as a share of it.
        burst_share: of the frames, those that come at once after the one before.
        gaps_hz: pauses of 2 s, a second.
    """

    name: str
    fps: float
    jitter: float = 0.2
    burst_share: float = 0.0
    gaps_hz: float = 0.0


def arrivals_of(camera: Camera, work_ns: int, span_ns: int, rng: random.Random) -> list[Arrival]:
    """Return the frames of one camera; all of them take the same work, as those of one model do."""
    period_ns = NS_PER_S / camera.fps
    at_ns = rng.uniform(0, period_ns)
    arrivals = []
    while at_ns < span_ns:
        arrivals.append(Arrival(int(at_ns), camera.name, work_ns))
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
    noise: float = 0.1,
    stalls: int = 0,
    stall_max_ns: int = 5 * NS_PER_S,
    drops: int = 0,
    drop_speed: float = 1 / 3,
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
    dropped = [_interval(rng, span_ns, NS_PER_S, 8 * NS_PER_S) for _ in range(drops)]
    stalled = [_interval(rng, span_ns, 0, stall_max_ns) for _ in range(stalls)]
    edges = {time_ns for interval in (*dropped, *stalled) for time_ns in interval}
    edges.update(range(_NOISE_EVERY_NS, span_ns, _NOISE_EVERY_NS))
    changes = []
    for from_ns in sorted(edges):
        speed = min(1.2, max(0.3, rng.gauss(1 - noise, noise)))
        if any(start <= from_ns < end for start, end in dropped):
            speed *= drop_speed
        if any(start <= from_ns < end for start, end in stalled):
            speed = 0.0
        changes.append((from_ns, speed))
    return MachineSpeed([*changes, (max([span_ns, *edges]) + 1, 1.0)])


def _interval(rng: random.Random, span_ns: int, shortest_ns: int, longest_ns: int) -> tuple[int, int]:
    start_ns = rng.randrange(span_ns)
    return start_ns, start_ns + rng.randrange(shortest_ns, longest_ns)
