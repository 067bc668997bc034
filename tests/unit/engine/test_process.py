"""What is set for the whole process."""

from __future__ import annotations

import subprocess
import sys

from tests.paths import REPOSITORY

PROGRAM = """
from agent.engine.process import lock_memory
refusal = lock_memory()
locked = next(line for line in open("/proc/self/status") if line.startswith("VmLck")).split()[1]
print(refusal, int(locked) > 0)
"""


def test_memory_is_locked_or_the_reason_is_said() -> None:
    """Never silently: what was asked for holds, or the system's own words tell why not."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert done.stdout.strip() in ("None True", "Cannot allocate memory False", "Operation not permitted False")
