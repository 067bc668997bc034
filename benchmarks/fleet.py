"""A staged roll-out over fifty devices on one broker, one of the second share poisoned: it must stop there."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.real_agents import CLIP, RealAgents
from benchmarks.stand_ins import POISON_FPS, PREFIX, StandIns

PROBATION_S = 5.0
SHARES = "5,15,50"
REAL_PROBATION_S = 10.0
REAL_SETTLE_S = 5.0
POISONED = frozenset({"box-007"})


def main() -> int:
    """Roll out what is good, then what one device cannot bear; print times and messages."""
    parser = harness.parser("A staged roll-out over stand-ins on one broker.")
    parser.add_argument("--devices", type=int, default=50)
    parser.add_argument("--real", action="store_true", help="real agents in the place of stand-ins")
    args = parser.parse_args()
    harness.end_with_us()
    if args.real:
        return _real(args.devices, as_json=args.json)
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


def _real(devices: int, *, as_json: bool) -> int:
    """The same with agents; what one of them cannot bear is a source that cannot be read there."""
    with (
        harness.broker() as port,
        tempfile.TemporaryDirectory() as name,
        RealAgents(devices, port, Path(name), probation_s=REAL_PROBATION_S, poisoned=POISONED) as fleet,
    ):
        harness.pause(REAL_SETTLE_S)
        shares = f"5,15,{devices}"
        rows = []
        arguments = ("--rollback-all", "--timeout", "60")
        for title, change in (("good", "streams.door.max_fps=1.5"), ("poisoned, all brought back", f"source={CLIP}")):
            before, cpu_s = fleet.messages.copy(), fleet.cpu_s
            row = roll_out(port, change if "max_fps" in change else f"streams.door.{change}", shares, *arguments)
            came = fleet.messages - before
            rows.append((title, row, came.total(), came.total() - came["results"], fleet.cpu_s - cpu_s))
            harness.note(f"{title}: {row['seconds']} s, {row['failed']}")
            harness.pause(REAL_PROBATION_S + REAL_SETTLE_S)
        values = [fleet.values(f"box-{number:03d}") for number in range(devices)]
        memory_mb = fleet.memory_mb
    good, bad = rows[0][1], rows[1][1]
    changed = sum((value["source"], value["max_fps"]) != ("synthetic:", 1.5) for value in values)
    done, untouched = _count(good, "done"), _count(bad, "waiting")
    verdicts = [
        harness.Verdict("good: devices done", done, f"= {devices}", done == devices),
        harness.Verdict("poisoned: stopped at share", bad["share"], "= 2", bad["share"] == 2),
        harness.Verdict("poisoned: devices never asked", untouched, f"= {devices - 15}", untouched == devices - 15),
        harness.Verdict("poisoned: devices left changed", changed, "= 0", changed == 0),
    ]
    table = [
        {
            "roll-out": title,
            "s": row["seconds"],
            "shares": row["share"],
            "sent": row["sent"],
            "heard": row["heard"],
            "messages": messages,
            "without results": others,
            "CPU s": round(cpu_s, 1),
        }
        for title, row, messages, others, cpu_s in rows
    ]
    figures = {"memory_mb": round(memory_mb), "failed": bad["failed"]}
    return harness.conclude("fleet", table, verdicts, as_json=as_json, **figures)


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
