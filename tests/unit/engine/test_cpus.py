"""The CPU budget, on made-up /proc and /sys trees."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.engine.cpus import big_cores, cgroup_quota_cpus, effective_cpus, plan_cores
from agent.errors import ConfigError
from tests.paths import REPOSITORY
from tests.unit.engine.trees import tree


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}, None),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "150000 100000\n"}, 1.5),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/cpu.max": "400000 100000",
                "sys/fs/cgroup/a/cpu.max": "50000 100000",
            },
            0.5,
        ),
        ({"proc/self/cgroup": "0::/outer\n", "sys/fs/cgroup/cpu.max": "200000 100000"}, 2.0),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/x\n3:memory:/y\n",
                "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "300000",
                "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000",
            },
            3.0,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu:/x\n",
                "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000",
            },
            None,
        ),
        ({"proc/self/cgroup": "nonsense", "sys/fs/cgroup/cpu.max": "x"}, None),
    ],
)
def test_cgroup_quota(tmp_path: Path, files: dict[str, str], expected: float | None) -> None:
    """v1, v2, the tightest parent, none, and nonsense."""
    assert cgroup_quota_cpus(tree(tmp_path, files)) == expected


def test_effective_cpus_is_the_least_and_at_least_one(tmp_path: Path) -> None:
    """min(asked, affinity, floor of the quota), never 0."""
    affinity = len(os.sched_getaffinity(0))
    assert effective_cpus(None, root=tmp_path) == affinity
    assert effective_cpus(1, root=tmp_path) == 1
    assert effective_cpus(1000, root=tmp_path) == affinity
    small = tree(tmp_path, {"proc/self/cgroup": "0::/a", "sys/fs/cgroup/a/cpu.max": "50000 100000"})
    assert effective_cpus(None, root=small) == 1
    assert effective_cpus(None, allowed=[3], root=tmp_path) == 1


CPU = "sys/devices/system/cpu/cpu"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, [0, 1, 2, 3]),
        ({f"{CPU}{cpu}/cpu_capacity": size for cpu, size in enumerate(("446", "446", "1024", "1024"))}, [2, 3]),
        # Capacity wins over frequency: a small core may run at a higher clock.
        (
            {f"{CPU}{cpu}/cpu_capacity": size for cpu, size in enumerate(("1024", "1024", "446", "446"))}
            | {f"{CPU}{cpu}/cpufreq/cpuinfo_max_freq": hz for cpu, hz in enumerate(("1", "1", "9", "9"))},
            [0, 1],
        ),
        (
            {f"{CPU}{cpu}/cpufreq/cpuinfo_max_freq": hz for cpu, hz in enumerate(("18", "18", "24", "23"))},
            [2, 3],
        ),
        # One that does not tell cannot be compared.
        ({f"{CPU}{cpu}/cpu_capacity": "446" for cpu in range(3)}, [0, 1, 2, 3]),
    ],
)
def test_big_cores(tmp_path: Path, files: dict[str, str], expected: list[int]) -> None:
    """By capacity, else by the highest clock frequency, else all."""
    assert big_cores(range(4), tree(tmp_path, files)) == expected


def test_cores_that_the_process_may_not_use_are_refused() -> None:
    """With those that it may."""
    with pytest.raises(ConfigError, match=r"limits.inference_cores: 4095 is not among .* 0"):
        plan_cores((4095,))
    assert plan_cores("any").inference == ()


PROGRAM = """
import os, threading
from pathlib import Path
import numpy as np
from agent.engine.cpus import plan_cores
from agent.engine.session import OrtEngine, SessionSetup

def threads():
    return set(os.listdir("/proc/self/task"))

allowed = sorted(os.sched_getaffinity(0))
plan = plan_cores((allowed[-1],))
before = threads()
engine = OrtEngine(Path("tests/assets/models/tiny/model.onnx"), threads=2, sha256=None,
                   setup=SessionSetup(cores=plan.inference))
pool = [int(thread) for thread in threads() - before]
ended = threading.Event()
inferring, other = (threading.Thread(target=ended.wait) for _ in range(2))
inferring.start(), other.start()
shown = plan.place_threads([inferring.native_id])
print([sorted(os.sched_getaffinity(thread)) for thread in (*pool, inferring.native_id)] == [[allowed[-1]]] * 2)
print(sorted(os.sched_getaffinity(other.native_id)) == list(plan.others) == shown["others"])
print(shown["inference"] == [allowed[-1]], shown["asked"] == [allowed[-1]])
ended.set()
"""


def test_inference_and_the_rest_run_where_they_were_placed() -> None:
    """ONNX Runtime's own thread, the thread that runs the model, and another one, as the kernel sees them."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert done.stdout.split() == ["True"] * 4
