"""Runs a module of the agent as a child process: a job in JSON on its standard input, a reply on its output."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import agent

REPLY_BYTES_MAX = 65_536
"""Of what a child prints: a few figures or one error."""


def run_child(module: str, job: Mapping[str, Any], limit_s: float) -> tuple[dict[str, Any], int]:
    """Return the child's reply, empty where there is none, and its exit code; negative for the signal that ended it.

    Raises:
        subprocess.TimeoutExpired: it did not end in time, and was killed.
        OSError: no process can be made.
    """
    # The folder of this package first: the working folder, which anyone may have chosen, is not searched (-P).
    environ = {**os.environ, "PYTHONPATH": str(Path(agent.__file__).resolve().parent.parent)}
    command = [sys.executable, "-P", "-m", module]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environ
    ) as child:
        try:
            output, _ = child.communicate(json.dumps(job).encode(), timeout=limit_s)
        except BaseException:
            child.kill()
            raise
    reply: Any = {}
    with contextlib.suppress(ValueError):
        reply = json.loads(output[:REPLY_BYTES_MAX])
    return (reply if isinstance(reply, dict) else {}), child.returncode
