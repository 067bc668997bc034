"""What the agent costs a device that has little to do: CPU and wake-ups at 1 fps by thread, its start and stop."""

from __future__ import annotations

import json
import os
import signal
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import harness

OVERHEAD_MAX = 0.01
"""Of one core, beyond the model's own thread."""


def main() -> int:
    """Measure start, idle and stop a few times and print the medians."""
    parser = harness.parser("Idle cost, start and stop of the agent under a service manager.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60, help="of each round")
    args = parser.parse_args()
    harness.end_with_us()
    rounds = []
    with harness.broker() as port, tempfile.TemporaryDirectory() as folder:
        for number in range(args.rounds):
            rounds.append(_round(port, Path(folder) / f"notify{number}", args.seconds))
            harness.note("  ".join(f"{key} {value:.4g}" for key, value in rounds[-1].items()))
    medians = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
    overhead = medians["others, of a core"]
    verdict = harness.Verdict(
        "CPU beyond the model's thread, of a core", overhead, f"<= {OVERHEAD_MAX:g}", overhead <= OVERHEAD_MAX
    )
    return harness.conclude("service", [dict(medians)], [verdict], as_json=args.json)


def _round(port: int, address: Path, seconds: float) -> dict[str, float]:
    """Return one round's figures; we are the service manager."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        manager.settimeout(120)
        os.environ["NOTIFY_SOCKET"], os.environ["WATCHDOG_USEC"] = str(address), "30000000"
        # On a busy machine the agent would do less, and this measures what it costs to do all.
        os.environ["EDGEBEAT_DEGRADATION__CPU_PRESSURE_MAX"] = "100"
        begun = time.perf_counter()
        with harness.agent(port, model=harness.COCO_SSD, fps=1, deadline_ms=2000, threads=1) as process:
            while b"READY=1" not in manager.recv(4096):
                pass
            ready_s = time.perf_counter() - begun
            harness.pause(5)
            before, began_at = _threads(process.pid), time.perf_counter()
            harness.pause(seconds)
            after, span_s = _threads(process.pid), time.perf_counter() - began_at
            asked = time.perf_counter()
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=30)
            stop_s = time.perf_counter() - asked
    summary = json.loads(output.splitlines()[-1])
    figures = {"start to READY, s": ready_s, "stop, s": stop_s, "published": 0.0}
    figures["published"] = summary["streams"][harness.STREAM]["ledger"]["published"]
    cpu = {name: (after[name][0] - before.get(name, (0, 0))[0]) / 1e9 / span_s for name in after}
    wakes = {name: (after[name][1] - before.get(name, (0, 0))[1]) / span_s for name in after}
    model = sum(share for name, share in cpu.items() if name.startswith("infer-"))
    decoding = sum(share for name, share in cpu.items() if name.startswith("capture-"))
    figures |= {"model's thread, of a core": model, "capture and decoding, of a core": decoding}
    figures["others, of a core"] = sum(cpu.values()) - model - decoding
    figures["wake-ups a second, all threads"] = sum(wakes.values())
    loud = sorted(wakes, key=wakes.__getitem__, reverse=True)[:6]
    harness.note("wake-ups: " + ", ".join(f"{name} {wakes[name]:.2f}" for name in loud))
    return figures


def _threads(pid: int) -> dict[str, tuple[int, int]]:
    """Return (CPU time in ns, voluntary waits) by thread name; threads of one name are added up."""
    figures: dict[str, tuple[int, int]] = {}
    for folder in Path(f"/proc/{pid}/task").iterdir():
        name = (folder / "comm").read_text().strip()
        cpu_ns = int((folder / "schedstat").read_text().split()[0])
        waits = int((folder / "status").read_text().split("voluntary_ctxt_switches:")[1].split()[0])
        known = figures.get(name, (0, 0))
        figures[name] = (known[0] + cpu_ns, known[1] + waits)
    return figures


if __name__ == "__main__":
    sys.exit(main())
