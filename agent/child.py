"""Runs a module of the agent as a child process: a job in JSON on its standard input, a reply on its output."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
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
    with _start(module) as child:
        try:
            output, _ = child.communicate(json.dumps(job).encode(), timeout=limit_s)
        except BaseException:
            child.kill()
            raise
    reply: Any = {}
    with contextlib.suppress(ValueError):
        reply = json.loads(output[:REPLY_BYTES_MAX])
    return (reply if isinstance(reply, dict) else {}), child.returncode


def stream_child(
    module: str, job: Mapping[str, Any], limit_s: float, hear: Callable[[dict[str, Any]], None]
) -> tuple[dict[str, Any], int]:
    """Do as `run_child` with a child that prints one object a line: each but the last goes to `hear`.

    Raises:
        subprocess.TimeoutExpired: it did not end in time, and was killed.
        OSError: no process can be made.
    """
    reply: dict[str, Any] = {}
    is_over = threading.Event()
    with _start(module) as child:
        assert child.stdin is not None
        assert child.stdout is not None

        def end() -> None:
            is_over.set()
            child.kill()

        timer = threading.Timer(limit_s, end)
        timer.daemon = True
        timer.start()
        try:
            with contextlib.suppress(BrokenPipeError):
                child.stdin.write(json.dumps(job).encode())
                child.stdin.close()
            while line := child.stdout.readline(REPLY_BYTES_MAX):
                if reply:
                    hear(reply)
                with contextlib.suppress(ValueError):
                    given = json.loads(line)
                    reply = given if isinstance(given, dict) else {}
        except BaseException:
            child.kill()
            raise
        finally:
            timer.cancel()
    if is_over.is_set():
        raise subprocess.TimeoutExpired(module, limit_s)
    return reply, child.returncode


def _start(module: str) -> subprocess.Popen[bytes]:
    # The folder of this package first: the working folder, which anyone may have chosen, is not searched (-P).
    environ = {**os.environ, "PYTHONPATH": str(Path(agent.__file__).resolve().parent.parent)}
    command = [sys.executable, "-P", "-m", module]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environ
    )
