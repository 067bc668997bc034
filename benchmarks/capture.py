"""What capture costs: four cameras decoded at 30 fps, and what leaving out still frames saves on one."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks import harness

FPS = 30
CAMERAS = 4
STILL_FPS = 10
STILL_S = 30
SETTLE_S = 6.0
"""For the start: imports, loading and the warm-up of the model."""


def main() -> int:
    """Print CPU shares of one core."""
    parser = harness.parser("CPU of capture alone, and the saving of the gate for still frames.")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=3, help="of the gate, with and without")
    args = parser.parse_args()
    harness.end_with_us()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        # One frame in a thousand reaches the model: what is left is decoding, stamping and counting.
        alone = 'mode = "live"\nrepeat = true\nstride = 1000\n' + f"fps = {FPS}\n"
        rows.append(
            _measure("capture alone, 4 x 640x480 at 30 fps", folder, [(harness.CLIP, alone)] * CAMERAS, args.seconds)
        )
        clip = _still_clip(Path(folder) / "still.avi")
        shares: dict[str, list[float]] = {"": [], "changed_share_min = 0.005": []}
        for _ in range(args.rounds):
            for gate, seen in shares.items():
                row = _measure(gate or "every frame", folder, [(clip, f"repeat = true\n{gate}\n")], args.seconds)
                seen.append(row["cpu_share"])
                rows.append(row)
    saved = 1 - sum(shares["changed_share_min = 0.005"]) / sum(shares[""])
    verdict = harness.Verdict("saved by the gate, share of CPU", saved, "> 0.5", saved > 0.5)
    return harness.conclude("capture", rows, [verdict], as_json=args.json)


def _measure(name: str, folder: str, streams: list[tuple[Path, str]], seconds: float) -> dict[str, Any]:
    config = Path(folder) / "agent.toml"
    sections = [f'[[models]]\nname = "m"\npath = {json.dumps(str(harness.SLOW25))}\n[spool]\nmax_mb = 0\n']
    sections += [
        f'[[streams]]\nname = "s{number}"\nsource = {json.dumps(str(source))}\nmodel = "m"\n{more}'
        for number, (source, more) in enumerate(streams)
    ]
    config.write_text("".join(sections), encoding="utf-8")
    command = [sys.executable, "-m", "agent", "run", "--config", config, "--output", "stdout"]
    with harness.running(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as agent:
        harness.pause(SETTLE_S)
        before_s = harness.cpu_s(agent.pid)
        harness.pause(seconds)
        used_s = harness.cpu_s(agent.pid) - before_s
        streams_of = harness.summary_of(agent)["streams"].values()
    ledgers = [stream["ledger"] for stream in streams_of]
    return {
        "run": name,
        "cpu_share": used_s / seconds,
        "captured": sum(ledger["captured"] for ledger in ledgers),
        "skipped": sum(ledger["skipped"] for ledger in ledgers),
        "published": sum(ledger["published"] for ledger in ledgers),
    }


def _still_clip(file: Path) -> Path:
    """Write 30 s of a yard with a sensor's noise; something crosses it in the last fifth."""
    rng = np.random.default_rng(0)
    scene = cv2.resize(rng.integers(0, 200, (12, 16, 3), np.uint8), (640, 480), interpolation=cv2.INTER_CUBIC)
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"MJPG"), STILL_FPS, (640, 480))
    for number in range(STILL_FPS * STILL_S):
        frame = np.clip(scene + rng.normal(0, 3, scene.shape), 0, 255).astype(np.uint8)
        moving = number - STILL_FPS * STILL_S * 4 // 5
        if moving >= 0:
            frame[200:280, moving * 10 : moving * 10 + 40] = 30
        writer.write(frame)
    writer.release()
    return file


if __name__ == "__main__":
    raise SystemExit(main())
