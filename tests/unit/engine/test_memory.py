"""The memory budget: limits and readings on made-up trees, the cap on a real process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.engine import memory
from agent.engine.memory import MIB, MemoryGauge, MemoryLimit, cgroup_limit_bytes, memory_limit, trial_bytes
from tests.paths import REPOSITORY
from tests.unit.engine.trees import tree

NO_LIMIT = str(2**63 - 4096)
V2 = {"proc/self/cgroup": "0::/a/b\n"}
V1 = {"proc/self/cgroup": "5:memory:/x\n0::/\n"}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        (V2 | {"sys/fs/cgroup/a/b/memory.max": "max\n"}, None),
        (V2 | {"sys/fs/cgroup/a/b/memory.max": "268435456\n"}, 256 * MIB),
        (V2 | {"sys/fs/cgroup/a/b/memory.max": "268435456", "sys/fs/cgroup/a/memory.max": "134217728"}, 128 * MIB),
        (V2 | {"sys/fs/cgroup/a/b/memory.max": "max", "sys/fs/cgroup/a/b/memory.high": "67108864"}, 64 * MIB),
        (V1 | {"sys/fs/cgroup/memory/x/memory.limit_in_bytes": "134217728"}, 128 * MIB),
        (V1 | {"sys/fs/cgroup/memory/x/memory.limit_in_bytes": NO_LIMIT}, None),
        # In a container the mount starts at our own cgroup.
        (V1 | {"sys/fs/cgroup/memory/memory.limit_in_bytes": "134217728"}, 128 * MIB),
    ],
)
def test_limit_of_the_cgroup(tmp_path: Path, files: dict[str, str], expected: int | None) -> None:
    """v1, v2, the tightest parent, and none."""
    assert cgroup_limit_bytes(tree(tmp_path, files)) == expected


def test_the_least_limit_holds_and_says_where_it_is_from(tmp_path: Path) -> None:
    """The setting, the cgroup, or half of the device; whatever the device has, it is said."""
    root = tree(tmp_path, V2 | {"proc/meminfo": "MemTotal:  1048576 kB\n"})
    assert str(memory_limit(None, root=root)) == "512 MiB (50% of the device's memory)"
    assert str(memory_limit(300, root=root)) == "300 MiB (limits.memory_mb)"
    tree(root, {"sys/fs/cgroup/a/b/memory.max": str(200 * MIB)})
    assert str(memory_limit(300, root=root)) == "200 MiB (the cgroup's memory limit)"
    assert str(memory_limit(100, root=root)) == "100 MiB (limits.memory_mb)"
    assert str(memory_limit(None, root=root)) == "200 MiB (the cgroup's memory limit)"


def test_a_trial_may_take_the_limit_and_more_where_there_is_more(tmp_path: Path) -> None:
    """So that a limit that is too small is answered with figures; half of what is free, 1 GiB at most."""
    limit = MemoryLimit(100 * MIB, "limits.memory_mb")
    for free_mb, expected_mb in ((50, 100), (600, 300), (100_000, 1024)):
        root = tree(tmp_path, {"proc/meminfo": f"MemAvailable: {free_mb * 1024} kB\n"})
        assert trial_bytes(limit, root=root) == expected_mb * MIB


def test_the_gauge_reads_the_nearer_limit(tmp_path: Path) -> None:
    """Resident memory of ours, or the cgroup's use without the file pages that can be taken back."""
    pages = 100 * MIB // os.sysconf("SC_PAGE_SIZE")
    root = tree(tmp_path, V2 | {"proc/self/statm": f"999999 {pages} 1 1 0 1 0\n"})
    reading = MemoryGauge(MemoryLimit(200 * MIB, "limits.memory_mb"), root=root).read()
    assert (reading.resident_bytes, reading.ratio, reading.pressure) == (100 * MIB, 0.5, None)
    cgroup = "sys/fs/cgroup/a/b/memory."
    files = {"max": str(400 * MIB), "current": str(390 * MIB), "stat": f"anon 1\ninactive_file {70 * MIB}\n"}
    tree(root, {cgroup + name: text for name, text in files.items()})
    tree(root, {cgroup + "pressure": "some avg10=12.50 avg60=0.00 avg300=0.00 total=1\nfull avg10=0.00\n"})
    reading = MemoryGauge(MemoryLimit(200 * MIB, "limits.memory_mb"), root=root).read()
    assert (reading.ratio, reading.pressure) == (0.8, 12.5)
    tree(root, {cgroup + "high": str(320 * MIB)})
    assert MemoryGauge(MemoryLimit(200 * MIB, "limits.memory_mb"), root=root).read().ratio == 1.0


def test_the_gauge_reads_version_1(tmp_path: Path) -> None:
    """Other names, the same sum."""
    cgroup = "sys/fs/cgroup/memory/x/memory."
    files = {"limit_in_bytes": "1000", "usage_in_bytes": "900", "stat": "total_inactive_file 100\n"}
    root = tree(tmp_path, V1 | {cgroup + name: text for name, text in files.items()})
    assert MemoryGauge(MemoryLimit(MIB, "limits.memory_mb"), root=root).read().ratio == 0.8


LEASH = """
import resource
import numpy as np
from pathlib import Path
from agent.engine.memory import MIB, MemoryKeeper, MemoryLimit, resident_bytes
from agent.engine.session import OrtEngine

engine = OrtEngine(Path("tests/assets/models/ladder/model.onnx"), threads=1, sha256=None)
picture = {"images": np.full((1, 3, 160, 160), 100, np.uint8)}
before = engine.run(picture, engine.new_abort())
keeper = MemoryKeeper(MemoryLimit(resident_bytes() + 32 * MIB, "limits.memory_mb"))
keeper.hold()
within = np.ones(16 * MIB, np.uint8)
try:
    np.ones(64 * MIB, np.uint8)
except MemoryError:
    print("refused")
after = engine.run(picture, engine.new_abort())
print(all(np.array_equal(one, other) for one, other in zip(before, after)))
keeper.let_go()
keeper.hold()
print(len(np.ones(64 * MIB, np.uint8)) >> 20, resource.getrlimit(resource.RLIMIT_DATA)[0])
"""


def test_the_cap_refuses_what_goes_past_the_limit() -> None:
    """An allocation above it fails where it is made; the running model gives the same as before, to the bit."""
    done = subprocess.run([sys.executable, "-c", LEASH], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert done.stdout.split() == ["refused", "True", "64", "-1"]


GROWN = """
import numpy as np
from agent.engine.memory import LEASH_BYTES_MIN, MIB, Leash, MemoryLimit, resident_bytes

limit_bytes = resident_bytes() + 4 * MIB
leash = Leash(MemoryLimit(limit_bytes, "limits.memory_mb"))
held = []
try:
    for _ in range(100):
        leash.hold()
        held.append(np.ones(MIB, np.uint8))
except MemoryError:
    print("refused")
print((resident_bytes() - limit_bytes) // MIB <= LEASH_BYTES_MIN // MIB)
held.clear()
leash.hold()
print(len(np.ones(6 * MIB, np.uint8)) >> 20)
"""


def test_what_grows_past_the_limit_for_seconds_comes_to_an_end() -> None:
    """The slack is given once, and not anew at each look, until there is room again."""
    done = subprocess.run([sys.executable, "-c", GROWN], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert done.stdout.split() == ["refused", "True", "6"]


STARVED = """
import numpy as np
from agent.engine.memory import MIB, Leash, MemoryLimit
from agent.errors import PermanentError
from agent.models.manifest import InputSpec
from agent.models.preprocess import build_preprocess

spec = InputSpec(name="x", layout="NCHW", dtype="float32", width=2048, height=2048)
preprocess = build_preprocess(spec)
picture = np.zeros((64, 64, 3), np.uint8)
held = preprocess(picture)  # Or its memory would be used again.
leash = Leash(MemoryLimit(1, "limits.memory_mb"))
leash.hold()
try:
    preprocess(picture)
except PermanentError as error:
    print(error)
leash.let_go()
preprocess(picture)
"""


def test_a_frame_fails_where_there_is_no_memory_for_it() -> None:
    """It ends that frame alone."""
    done = subprocess.run([sys.executable, "-c", STARVED], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert done.stdout.startswith("preprocess: no room for 50331648 bytes")


@pytest.mark.parametrize("error", [MemoryError, RuntimeError])
def test_without_room_to_touch_the_governor_lives_on(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    """At the limit no thread can start: what was to be spared for later must not end the agent."""

    def refuse() -> None:
        raise error

    monkeypatch.setattr(memory, "touch_heaps", refuse)
    keeper = memory.MemoryKeeper(memory.MemoryLimit(1 << 30, "limits.memory_mb"))
    keeper.tidy()
    keeper.tidy()
