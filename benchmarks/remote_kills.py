"""SIGKILL at random moments while settings change: each start is on a valid document, with its own values."""

from __future__ import annotations

import random
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks import harness, kills
from benchmarks.operator_client import OperatorClient
from benchmarks.remote import agent

OWN_FPS = None
"""The device's own `max_fps`; that of a valid document is 100 and its version's last two digits."""


def kill_often(folder: Path, port: int, kills: int, draw: random.Random) -> Counter[str]:
    """Kill an agent so many times while documents come, and look at what each run started on.

    Returns:
        `starts`, of them `remote` (on a document) and `own`; `wrong`: neither, or values of another version.
    """
    counts = Counter(starts=0, remote=0, own=0, wrong=0, asked=0)
    version, boots = 0, set[str]()
    with OperatorClient(port, "bench") as operator:
        for _ in range(kills + 1):
            with agent(port, folder, probation_s=2.0, fps=20.0) as process:
                report = operator.wait_for("settings/reported", lambda body: body["boot"] not in boots)[2]
                boots.add(report["boot"])
                counts.update(_judged(report))
                if counts["starts"] > kills:
                    break
                # About half of the kills come while a document is taken, the others while one is watched or proven.
                for _ in range(draw.randint(1, 3)):
                    version += 1
                    operator.ask(version, _values(version, draw))
                    counts["asked"] += 1
                    harness.pause(draw.choice([draw.uniform(0.0, 0.03), draw.uniform(0.0, 2.5)]))
                process.send_signal(signal.SIGKILL)
                process.wait()
    return counts


def _values(version: int, draw: random.Random) -> dict[str, Any]:
    """Return values that are valid in four of five cases; the others are refused at different places."""
    fps = 100.0 + version % 100
    bad: list[dict[str, Any]] = [
        {"streams": {"bench": {"max_fps": -fps}}},
        {"streams": {"bench": {"max_fps": fps, "source": "no/such.mp4"}}},
        {"streams": {"other": {"max_fps": fps}}},
    ]
    good = {"streams": {"bench": {"max_fps": fps}}}
    return draw.choice(bad) if draw.random() < 0.2 else good


def _judged(report: dict[str, Any]) -> Counter[str]:
    version, fps = report["version"], report["values"]["streams"]["bench"]["max_fps"]
    if version == 0:
        is_right = fps == OWN_FPS
        return Counter(starts=1, own=1, wrong=not is_right)
    is_right = fps == 100.0 + version % 100 and report["accepted"] == {"streams": {"bench": {"max_fps": fps}}}
    return Counter(starts=1, remote=1, wrong=not is_right)


if __name__ == "__main__":
    sys.exit(kills.main("remote_kills", "SIGKILL at random moments while settings change.", kill_often))
