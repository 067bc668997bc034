"""Throughput of `edgebeat run --output stdout` against the bare loop, frame by frame over the whole clip."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import harness

RATIO_MIN = 0.95


@dataclass(frozen=True, slots=True)
class Round:
    """One run over the clip, measured from the first result to the last: start-up is not in it."""

    frames: int
    fps: float
    cpu_ms: float
    """CPU time a frame, user and system."""
    detections: int


def main() -> int:
    """Run A B A B ... and print the ratio of the medians."""
    parser = harness.parser("Throughput and CPU of the agent against a bare loop.")
    parser.add_argument("--rounds", type=int, default=11, help="of each; at least 7 for a figure to quote")
    args = parser.parse_args()
    harness.end_with_us()
    commands: dict[str, list[str | Path]] = {
        "bare": harness.bare_loop(model=harness.COCO_SSD),
        "agent": [
            *(sys.executable, "-m", "agent", "run", "--output", "stdout"),
            *("--model", harness.COCO_SSD, "--source", harness.CLIP),
        ],
    }
    rounds: dict[str, list[Round]] = {name: [] for name in commands}
    for number in range(args.rounds + 1):
        # Each goes first every other time, so that a drift of the machine hits both.
        for name in list(commands) if number % 2 else reversed(commands):
            done = _run(commands[name])
            harness.note(f"{name:<6} {done.fps:6.1f} fps  {done.cpu_ms:6.2f} CPU ms a frame")
            if number:  # The first of each fills the page cache.
                rounds[name].append(done)
    return _report(rounds, as_json=args.json)


def _run(command: Sequence[str | Path]) -> Round:
    """Run a program that writes a JSON result a line, and read it."""
    stamps, cpu_s, lines = [], [], []
    with harness.running(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        for line in process.stdout:
            stamps.append(time.perf_counter())
            # A child that has ended stays readable until it is waited for: its figures are then its last.
            cpu_s.append(harness.cpu_s(process.pid))
            lines.append(line)
    if process.returncode:
        raise RuntimeError(f"{command} ended with {process.returncode}")
    results: list[dict[str, Any]] = [json.loads(line) for line in lines]
    # The agent's last line is its summary.
    last = sum("detections" in result for result in results) - 1
    return Round(
        frames=last + 1,
        fps=last / (stamps[last] - stamps[0]),
        cpu_ms=(cpu_s[last] - cpu_s[0]) / last * 1e3,
        detections=sum(len(result.get("detections", ())) for result in results),
    )


def _report(rounds: dict[str, list[Round]], *, as_json: bool) -> int:
    seen = {name: {(one.frames, one.detections) for one in done} for name, done in rounds.items()}
    if seen["agent"] != seen["bare"]:
        raise SystemExit(f"the two did not do the same work: (frames, detections) {seen}")
    fps = {name: statistics.median(one.fps for one in done) for name, done in rounds.items()}
    rows = [
        {
            "loop": name,
            "rounds": len(done),
            "fps median": fps[name],
            "fps min": min(one.fps for one in done),
            "fps max": max(one.fps for one in done),
            "CPU ms a frame": statistics.median(one.cpu_ms for one in done),
        }
        for name, done in rounds.items()
    ]
    ratio = fps["agent"] / fps["bare"]
    verdict = harness.Verdict("throughput agent/bare", ratio, f">= {RATIO_MIN}", ratio >= RATIO_MIN)
    return harness.conclude("overhead", rows, [verdict], as_json=as_json)


if __name__ == "__main__":
    sys.exit(main())
