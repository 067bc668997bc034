"""A staged roll-out over fifty devices on one broker, one of the second share poisoned: it must stop there."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.stand_ins import POISON_FPS, PREFIX, StandIns

PROBATION_S = 5.0
SHARES = "5,15,50"
POISONED = frozenset({"box-007"})


def main() -> int:
    """Roll out what is good, then what one device cannot bear; print times and messages."""
    parser = harness.parser("A staged roll-out over stand-ins on one broker.")
    parser.add_argument("--devices", type=int, default=50)
    args = parser.parse_args()
    harness.end_with_us()
    with (
        harness.broker() as port,
        tempfile.TemporaryDirectory() as name,
        StandIns(args.devices, port, Path(name), probation_s=PROBATION_S, poisoned=POISONED) as fleet,
    ):
        good = roll_out(port, "streams.door.max_fps=12", SHARES)
        harness.note("the good one is done")
        bad = roll_out(port, f"streams.door.max_fps={POISON_FPS}", SHARES, "--rollback-all")
        changed = [device.name for device in fleet.devices.values() if device.max_fps != 12.0]
        sent = sum(device.sent for device in fleet.devices.values())
    rows = [
        {"roll-out": name, "s": row["seconds"], "shares": row["share"], "sent": row["sent"], "heard": row["heard"]}
        for name, row in (("good", good), ("poisoned, all brought back", bad))
    ]
    done, untouched, later = _count(good, "done"), _count(bad, "waiting"), args.devices - 15
    verdicts = [
        harness.Verdict("good: devices done", done, f"= {args.devices}", done == args.devices),
        harness.Verdict("poisoned: stopped at share", bad["share"], "= 2", bad["share"] == 2),
        harness.Verdict("poisoned: devices never asked", untouched, f"= {later}", untouched == later),
        harness.Verdict("poisoned: devices left changed", len(changed), "= 0", not changed),
    ]
    return harness.conclude("fleet", rows, verdicts, as_json=args.json, device_messages=sent, failed=bad["failed"])


def roll_out(port: int, change: str, shares: str, *arguments: str) -> Any:
    """Run the command and return what it prints."""
    command = [sys.executable, "-m", "agent", "settings", "set", "--mqtt", f"mqtt://127.0.0.1:{port}", "--json"]
    command += ["--fleet", f"{PREFIX}/+", "--shares", shares, *arguments, change]
    done = subprocess.run(command, capture_output=True, text=True, cwd=harness.ROOT, timeout=300, check=False)
    if not done.stdout:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout)


def _count(row: Any, step: str) -> int:
    return list(row["devices"].values()).count(step)


if __name__ == "__main__":
    sys.exit(main())
