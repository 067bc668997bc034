"""How many CPUs the agent may use, which of them run the models, and whether that holds."""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.engine.cgroup import cgroup_folders, read_words
from agent.errors import ConfigError

log = logging.getLogger(__name__)


def effective_cpus(asked: int | None, *, allowed: Collection[int] | None = None, root: Path = Path("/")) -> int:
    """Return min(asked, allowed CPUs, floor of the cgroup quota), at least 1.

    ONNX Runtime's own default (0 threads) ignores the cgroup quota and escapes `sched_setaffinity`
    (onnxruntime#10113), so the engine is always given a number.

    Args:
        asked: `limits.threads`, None for as many as allowed.
        allowed: the CPUs that inference may run on; None for the affinity of the process.
        root: where /proc and /sys are, another folder in tests.
    """
    count = len(os.sched_getaffinity(0) if allowed is None else allowed)
    quota = cgroup_quota_cpus(root)
    if quota is not None:
        count = min(count, math.floor(quota))
    return max(1, count if asked is None else min(asked, count))


def cgroup_quota_cpus(root: Path) -> float | None:
    """Return the tightest CPU quota of this process's cgroup and its parents; None without one.

    cgroup v2 keeps `quota period` or `max period` in cpu.max, v1 keeps cpu.cfs_quota_us (-1 for none) and
    cpu.cfs_period_us. Files that are missing or hold something else count as no quota.
    """
    quotas = []
    for folder in cgroup_folders(root, "cpu"):
        quota, period = read_words(folder / "cpu.max", 2)
        if quota is None:
            (quota,) = read_words(folder / "cpu.cfs_quota_us", 1)
            (period,) = read_words(folder / "cpu.cfs_period_us", 1)
        if quota is not None and period is not None and quota > 0 and period > 0:
            quotas.append(quota / period)
    return min(quotas, default=None)


@dataclass(frozen=True, slots=True)
class CorePlan:
    """Which CPUs run the models, and which everything else.

    Attributes:
        asked: `limits.inference_cores`.
        inference: CPU numbers; empty when nothing is pinned.
        others: for capture, egress and the rest: the allowed CPUs that are left, or all where none is.
    """

    asked: str | tuple[int, ...]
    inference: tuple[int, ...] = ()
    others: tuple[int, ...] = ()

    def all_of_them(self) -> tuple[int, ...] | None:
        """Return every CPU that the process may use; None where nothing is pinned and its threads tell."""
        return tuple(sorted({*self.inference, *self.others})) or None

    def place_threads(self, inference: Collection[int]) -> dict[str, Any]:
        """Bring the threads of this process to their CPUs; return what is in force, for health.

        ONNX Runtime's own threads were placed by their sessions: a thread whose CPUs are inference CPUs already is
        left alone. Threads that start later inherit the place of the one that starts them.

        Args:
            inference: native ids of the threads that run models.
        """
        if self.inference:
            for thread in map(int, os.listdir("/proc/self/task")):  # noqa: PTH208  A Path a thread buys nothing.
                try:
                    if thread in inference:
                        os.sched_setaffinity(thread, self.inference)
                    elif not os.sched_getaffinity(thread) <= set(self.inference):
                        os.sched_setaffinity(thread, self.others)
                except ProcessLookupError:
                    continue  # It ended meanwhile.
                except OSError as error:
                    log.warning("limits.inference_cores: thread %d is not placed: %s", thread, error.strerror)
        return self.in_force(inference)

    def in_force(self, inference: Collection[int] = ()) -> dict[str, Any]:
        """Return what was asked for, and the CPUs of these threads and of the calling one."""
        cpus: set[int] = set()
        for thread in inference:
            with contextlib.suppress(ProcessLookupError):
                cpus |= os.sched_getaffinity(thread)
        return {
            "asked": self.asked if isinstance(self.asked, str) else list(self.asked),
            "inference": sorted(cpus),
            "others": sorted(os.sched_getaffinity(0)),
        }


def plan_cores(asked: str | tuple[int, ...], *, root: Path = Path("/")) -> CorePlan:
    """Return where the threads go; `any` pins nothing, `big` finds the fast cores, numbers name them.

    Raises:
        ConfigError: a named CPU is not one that this process may use.
    """
    if asked == "any":
        return CorePlan(asked)
    allowed = sorted(os.sched_getaffinity(0))
    if asked == "big":
        chosen = big_cores(allowed, root)
    else:
        chosen = sorted(set(asked) if isinstance(asked, tuple) else ())
        if absent := [str(cpu) for cpu in chosen if cpu not in allowed]:
            raise ConfigError(
                f"limits.inference_cores: {', '.join(absent)} is not among the CPUs that this process may use: "
                f"{', '.join(map(str, allowed))}"
            )
    left = [cpu for cpu in allowed if cpu not in chosen]
    return CorePlan(asked, tuple(chosen), tuple(left or allowed))


def big_cores(allowed: Iterable[int], root: Path) -> list[int]:
    """Return the fastest of the CPUs; all of them where none is faster or the kernel does not tell.

    `cpu_capacity` (ARM and hybrid x86, 1024 for the largest) is compared first, then the highest clock frequency. A
    core counts as big from 0.9 of the best on: cores of one kind differ by a bin or two.
    """
    for name in ("cpu_capacity", "cpufreq/cpuinfo_max_freq"):
        sizes = {cpu: read_words(root / f"sys/devices/system/cpu/cpu{cpu}" / name, 1)[0] for cpu in allowed}
        known = {cpu: size for cpu, size in sizes.items() if size is not None}
        if len(known) == len(sizes) and known:
            return [cpu for cpu, size in known.items() if size >= 0.9 * max(known.values())]
    return list(allowed)
