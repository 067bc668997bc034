"""What a start sets for the whole process before frames come."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.paths import MODELS, REPOSITORY

BLAS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")

PROGRAM = """
import json
import os
import sys

from agent.engine.process import prepare_process

prepare_process()

import numpy as np

np.ones((64, 64)) @ np.ones((64, 64))
after_numpy = len(os.listdir("/proc/self/task"))

import cv2

cv2.setNumThreads(3)  # As on a device of three CPUs, whatever this one has.
before = cv2.getNumThreads()

from agent.cli.load import read_layers
from agent.clock import SystemClock
from agent.warming import warm_models

settings = read_layers(None, json.loads(sys.argv[1])).load().settings
warm = warm_models(settings, SystemClock())
names = [variant.name for variant in warm.models["tiny"].variants]
environ = {name: os.environ.get(name) for name in json.loads(sys.argv[2])}
print(json.dumps([names, environ, after_numpy, before, cv2.getNumThreads()]))
"""


def test_libraries_start_no_threads_beside_the_budget(tmp_path: Path) -> None:
    """Of BLAS, OpenMP and OpenCV one thread each, whatever the environment says: its own, the caller's."""
    settings = {
        "state": {"dir": str(tmp_path / "state")},
        "models": [{"name": "tiny", "path": str(MODELS / "tiny")}],
        "streams": [{"name": "s", "source": "synthetic:", "model": "tiny"}],
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(settings), json.dumps(BLAS)],
        env={**os.environ, **dict.fromkeys(BLAS, "3")},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    names, environ, after_numpy, before, after = json.loads(done.stdout)
    assert names == ["full"]
    assert environ == dict.fromkeys(BLAS, "1")
    assert after_numpy == 1
    assert (before, after) == (3, 1)
