"""How many CPUs the agent may use."""

from __future__ import annotations

import math
import os
from functools import cache
from pathlib import Path


def effective_cpus(asked: int | None, *, root: Path = Path("/")) -> int:
    """Return min(asked, affinity, floor of the cgroup quota), at least 1.

    ONNX Runtime's own default (0 threads) ignores the cgroup quota and escapes `sched_setaffinity`
    (onnxruntime#10113), so the engine is always given a number.

    Args:
        asked: `limits.threads`, None for as many as allowed.
        root: where /proc and /sys are, another folder in tests.
    """
    allowed = len(os.sched_getaffinity(0))
    quota = cgroup_quota_cpus(root)
    if quota is not None:
        allowed = min(allowed, math.floor(quota))
    return max(1, allowed if asked is None else min(asked, allowed))


@cache
def allowed_cpus() -> int:
    """Return what the process was allowed when it was first asked: reading it took 13 ms on a busy device."""
    return effective_cpus(None)


def cgroup_quota_cpus(root: Path) -> float | None:
    """Return the tightest CPU quota of this process's cgroup and its parents; None without one.

    cgroup v2 keeps `quota period` or `max period` in cpu.max, v1 keeps cpu.cfs_quota_us (-1 for none) and
    cpu.cfs_period_us. Files that are missing or hold something else count as no quota.
    """
    quotas = []
    for folder in _cgroup_folders(root):
        quota, period = _read_words(folder / "cpu.max", 2)
        if quota is None:
            (quota,) = _read_words(folder / "cpu.cfs_quota_us", 1)
            (period,) = _read_words(folder / "cpu.cfs_period_us", 1)
        if quota is not None and period is not None and quota > 0 and period > 0:
            quotas.append(quota / period)
    return min(quotas, default=None)


def _cgroup_folders(root: Path) -> list[Path]:
    """Return the folders of this process's CPU cgroup, from its own up to the mount, for v1 and v2."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []
    folders = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        mounts = ["sys/fs/cgroup/cpu", "sys/fs/cgroup/cpu,cpuacct"] if controllers else ["sys/fs/cgroup"]
        for mount in mounts:
            folder = root / mount / path.lstrip("/")
            # In a container the path may name the host's tree while the mount starts at ours.
            folders += [folder, *(parent for parent in folder.parents if parent.is_relative_to(root / mount))]
    return list(dict.fromkeys(folders))


def _read_words(file: Path, count: int) -> list[int | None]:
    """Return the first integers of a file; None for each that is absent or not a number ("max")."""
    try:
        words = file.read_text(encoding="ascii", errors="replace").split()[:count]
    except OSError:
        words = []
    numbers = [int(word) if word.lstrip("-").isdigit() else None for word in words]
    return numbers + [None] * (count - len(numbers))
