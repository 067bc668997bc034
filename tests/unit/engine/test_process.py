"""What is set for the whole process."""

from __future__ import annotations

import subprocess
import sys

import pytest

from agent.engine import process
from agent.engine.process import HEAP_BYTES, LOADING_THRESHOLD_BYTES, SERVING_THRESHOLD_BYTES, Thrift
from tests.paths import MODELS, REPOSITORY

REFUSALS = ("Cannot allocate memory", "Operation not permitted")
PROGRAM = """
import mmap
import sys
from pathlib import Path

from agent.engine.process import MEMORY_LOCK, loading, prepare_process

prepare_process()

from agent.engine.session import OrtEngine

import numpy as np


def locked():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmLck")).split()[1]) >> 10


def load():
    with loading():
        return mmap.mmap(-1, 32 << 20)


def load_again():
    engine = OrtEngine(Path(sys.argv[2]), threads=1, sha256=None)
    weights = mmap.mmap(-1, 32 << 20)
    engine.release()
    images = np.zeros((1, 32, 32, 3), np.uint8)
    engine.run({engine.inputs[0].name: images}, engine.new_abort())
    return weights


asked = sys.argv[1]
if asked != "nothing":
    MEMORY_LOCK.ask()
    before = locked()
    weights = {"load": load, "load_again": load_again}[asked]()
    print(MEMORY_LOCK.refusal, before > 0, locked() - before >= 32)
else:
    load()
    print(MEMORY_LOCK.refusal, locked())
"""


IN_A_FRESH_ARENA = """
import resource

from agent.engine.process import touch_pools


def mapped_pages():
    return int(open("/proc/self/statm").read().split()[0])


held, count, before = [None] * 10_000, 0, mapped_pages()
while mapped_pages() - before < 200:  # Python's allocator maps 256 at a time, once it has none left.
    held[count] = bytes(400)
    count += 1
touch_pools()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for at in range(count, count + 400):
    held[at] = bytes(400)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
"""Prints how many pages 170 kB of new objects were the first to need."""


END_OF_THE_SECOND_HEAP = """
import threading

from agent.engine.process import THRIFT, prepare_process, touch_heaps, trim_heap

prepare_process()
THRIFT.set(False)


def second_heap_kib():
    is_it = False
    for line in open("/proc/self/smaps"):
        words = line.split()
        if not words[0].endswith(":"):
            is_it = len(words) == 5 and int(words[0].split("-")[0], 16) % (64 << 20) == 0
        elif is_it and words[0] == "Rss:":
            return int(words[1])


done = threading.Event()
users = [threading.Thread(target=lambda: (bytes(5000), done.wait())) for _ in range(6)]
for user in users:
    user.start()
before = second_heap_kib()
touch_heaps()
trim_heap()
print(second_heap_kib() - before)
done.set()
"""
"""Prints what that has more of afterwards; glibc keeps it at a multiple of 64 MiB (HEAP_MAX_SIZE)."""


def told(asked: str) -> str:
    """Return what the program printed."""
    command = [sys.executable, "-c", PROGRAM, asked, str(MODELS / "tiny" / "model.onnx")]
    return subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=True).stdout.strip()


@pytest.mark.parametrize("way", ["load", "load_again"])
def test_what_is_loaded_later_is_locked_as_well_or_the_reason_is_said(way: str) -> None:
    """Models that are swapped in, and variants that come back; where it is refused, the system's own words."""
    assert told(way) in ("None True True", *(f"{refusal} False False" for refusal in REFUSALS))


def test_nothing_is_locked_unasked() -> None:
    """It takes memory from everything else."""
    assert told("nothing") == "not asked for 0"


def test_new_objects_find_memory_in_their_pools() -> None:
    """Page by page with each new maximum of a moment, an agent would grow for hours. Untouched it is 44 pages."""
    command = [sys.executable, "-c", IN_A_FRESH_ARENA]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert int(done.stdout) <= 4


def test_the_end_of_a_heap_that_is_never_trimmed_is_there() -> None:
    """Only that of the first is; that of the second grew for hours, by what a packet of video needs."""
    command = [sys.executable, "-c", END_OF_THE_SECOND_HEAP]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert int(done.stdout) >= HEAP_BYTES >> 11


def test_no_plugin_of_pydantic_is_looked_for() -> None:
    """Neither a module for looking is imported nor a plugin run, and models are built as ever."""
    code = (
        "import sys; from agent.engine.process import prepare_process; prepare_process()\n"
        "from pydantic import BaseModel\n"
        "class One(BaseModel):\n    x: int\n"
        "print(One.model_validate({'x': '1'}).x, 'importlib.metadata' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert done.stdout.split() == ["1", "False"]


def test_a_load_leaves_in_force_what_the_governor_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    """A change of models, also one that is refused, once ended its first step in silence."""
    thresholds: list[int] = []
    monkeypatch.setattr(process, "_set_thresholds", thresholds.append)
    thrift = Thrift()
    thrift.set(False)
    assert thresholds[-1] == SERVING_THRESHOLD_BYTES
    with thrift.loading():
        assert thresholds[-1] == LOADING_THRESHOLD_BYTES
        thrift.set(True)
        with pytest.raises(RuntimeError), thrift.loading():
            raise RuntimeError
    assert thresholds[-1] == LOADING_THRESHOLD_BYTES
    thrift.set(False)
    assert thresholds[-1] == SERVING_THRESHOLD_BYTES


def test_of_two_loads_the_first_that_ends_leaves_the_other_in_force(monkeypatch: pytest.MonkeyPatch) -> None:
    """A release is warmed beside a change of settings."""
    thresholds: list[int] = []
    monkeypatch.setattr(process, "_set_thresholds", thresholds.append)
    thrift = Thrift()
    thrift.set(False)
    with thrift.loading():
        with thrift.loading():
            pass
        assert thresholds[-1] == LOADING_THRESHOLD_BYTES
    assert thresholds[-1] == SERVING_THRESHOLD_BYTES
