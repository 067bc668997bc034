"""The most results that any scheduler could have published on a trace: what goodput is measured against."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from agent.clock import NEVER_NS
from agent.core.machine import MachineSpeed
from agent.core.policy import EGRESS_RESERVE_NS, Overflow, StreamPolicy
from agent.core.rate import RateGate, StrideGate
from agent.core.simulation import Arrival

LENGTHS_MAX = 8
LENGTH_GROWTH = 1.05
"""A recorded trace has as many service times as frames: above 8 they are rounded down to powers of 1.05."""


@dataclass(frozen=True, slots=True)
class _Job:
    """A frame on the axis of work done, where the machine's speed is 1 and a stall has no length."""

    release: float
    deadline: float
    work: float


def published_bound(policies: Mapping[str, StreamPolicy], arrivals: Sequence[Arrival], speed: MachineSpeed) -> int:
    """Return an upper bound of the results in time for the live streams of one session.

    The clairvoyant scheduler that it bounds knows every arrival, every stall and every change of speed beforehand,
    and keeps two rules of the streams: `max_fps` and stride leave out the same frames, and a frame starts before it
    is pushed out of its queue. The bound is the lesser of two relaxations, each exact for what it keeps:

    * *in one piece, deadlines relaxed*: frames run without interruption, and deadlines are lengthened until they
      rise with the release times. Then the best order is that of the releases (exchange argument), and a table over
      "least finishing time of k frames among the first j" is exact (the dynamic programme for agreeable release
      times and deadlines, Kise, Ibaraki and Mine, Operations Research 26, 1978).
    * *in pieces, deadlines kept*: frames may be interrupted, and a share of a frame counts as that share. The sets of
      work that fit form a polymatroid, so serving the shortest kind of frame first is optimal (Edmonds, 1970), and
      for frames of up to one length the most work is done by the earliest deadline first.

    Streams without a deadline, every_frame streams and those that publish late results are not counted.
    """
    jobs = sorted(_jobs(policies, arrivals, speed), key=lambda job: (job.release, job.deadline))
    return min(_in_one_piece(jobs), _in_pieces(jobs)) if jobs else 0


def _jobs(policies: Mapping[str, StreamPolicy], arrivals: Sequence[Arrival], speed: MachineSpeed) -> list[_Job]:
    jobs = []
    for name, policy in policies.items():
        if policy.budget_ns is None or policy.overflow is Overflow.BLOCK or policy.late_is_published:
            continue
        stride, rate = StrideGate(policy.stride), RateGate(policy.max_hz)
        own = [arrival for arrival in arrivals if arrival.stream == name]
        asking = [arrival for arrival in own if stride.allows() and rate.allows(arrival.at_ns)]
        pushed_out = [later.at_ns + later.latency_ns for later in asking[policy.queue_frames :]] + [
            NEVER_NS
        ] * policy.queue_frames
        for arrival, out_ns in zip(asking, pushed_out, strict=False):
            if arrival.fails:
                continue
            deadline = speed.work_ns(arrival.at_ns + policy.budget_ns - EGRESS_RESERVE_NS)
            if out_ns != NEVER_NS:
                deadline = min(deadline, speed.work_ns(out_ns) + arrival.work_ns)
            release = speed.work_ns(arrival.at_ns + arrival.latency_ns)
            if release + arrival.work_ns <= deadline:
                jobs.append(_Job(release, deadline, arrival.work_ns))
    return jobs


def _in_one_piece(jobs: Sequence[_Job]) -> int:
    finish = np.full(len(jobs) + 1, math.inf)  # finish[k]: the least time at which k frames can be done.
    finish[0] = 0.0
    deadline, count = 0.0, 0
    for job in jobs:
        deadline = max(deadline, job.deadline)
        ends = np.maximum(finish[: count + 1], job.release) + job.work
        ends[ends > deadline] = math.inf
        np.minimum(finish[1 : count + 2], ends, out=finish[1 : count + 2])
        count += bool(finish[count + 1] < math.inf)
    return count


def _in_pieces(jobs: Sequence[_Job]) -> int:
    total, work_before = 0.0, 0.0
    if len({job.work for job in jobs}) > LENGTHS_MAX:
        # Shortened to one of a few lengths: still a bound, and the time stays linear in the frames.
        jobs = [replace(job, work=LENGTH_GROWTH ** math.floor(math.log(job.work, LENGTH_GROWTH))) for job in jobs]
    for length in sorted({job.work for job in jobs}):
        work_done = _most_work([job for job in jobs if job.work <= length])
        total += (work_done - work_before) / length
        work_before = work_done
    return math.floor(total + 1e-6)


def _most_work(jobs: Sequence[_Job]) -> float:
    """Return the most work that can be done on these frames, earliest deadline first with interruptions."""
    waiting: list[tuple[float, float]] = []
    now = done = 0.0
    for index, job in enumerate(jobs):
        now = max(now, job.release)
        heapq.heappush(waiting, (job.deadline, job.work))
        until = jobs[index + 1].release if index + 1 < len(jobs) else math.inf
        while waiting and now < until:
            deadline, left = heapq.heappop(waiting)
            piece = min(left, deadline - now, until - now)
            if piece <= 0:
                continue
            now += piece
            done += piece
            if left - piece > 0:
                heapq.heappush(waiting, (deadline, left - piece))
    return done


def jain_index(counts: Sequence[int]) -> float:
    """Return how evenly counts are shared: 1 when all are equal, 1/n when one has all.

    Jain, Chiu and Hawe, "A Quantitative Measure of Fairness and Discrimination", DEC TR-301, 1984.
    """
    squares = sum(count * count for count in counts)
    return sum(counts) ** 2 / (len(counts) * squares) if squares else 1.0
