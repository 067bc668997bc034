"""A release that is tried as a whole in a child process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.qualification import qualify
from agent.settings import Settings
from tests.paths import CLIP, MODELS, REPOSITORY


def settings(state: Path, **limits: int) -> Settings:
    """Return settings with the one model that is tried."""
    return Settings.model_validate(
        {
            "models": [{"name": "seen", "path": MODELS / "tiny"}],
            "streams": [{"name": "door", "source": str(CLIP), "model": "seen"}],
            "state": {"dir": state},
            "limits": limits,
        }
    )


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU has nothing to divide")
@pytest.mark.parametrize(("sessions", "threads"), [(1, 2), (2, 1)])
def test_the_cpus_are_divided_as_on_the_device(tmp_path: Path, sessions: int, threads: int) -> None:
    """Beside another model it has half of them, and is timed with that."""
    assert qualify(settings(tmp_path, threads=2), deadline_ms=None, sessions=sessions)["threads"] == threads


def test_the_running_agents_cache_and_costs_are_left_alone(tmp_path: Path) -> None:
    """Two processes that write one file lose what the other one wrote."""
    figures = qualify(settings(tmp_path), deadline_ms=None, sessions=1)
    assert figures["memory_mb"] > 0
    assert list(tmp_path.iterdir()) == []


def test_opencv_has_no_threads_of_its_own_in_the_child(tmp_path: Path) -> None:
    """They would come on top of those of an inference."""
    code = (
        "import sys, cv2\nfrom pathlib import Path\n"
        "from agent.qualification import _figures\nfrom tests.unit.test_qualification import settings\n"
        "_figures(settings(Path(sys.argv[1])), 1)\nprint(cv2.getNumThreads())"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert done.stdout.strip() == "1"
