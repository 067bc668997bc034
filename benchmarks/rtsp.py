"""An RTSP camera that freezes, closes and comes back: how soon results are back, and that none is stale.

The camera's pictures hold the time at which they were made (benchmarks/rtsp_server.py), the model publishes its
picture in 8 x 8 cells, so that a receiver reads each result's true age, whatever the agent says.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent.clock import SystemClock
from agent.engine.process import prepare_process
from benchmarks import harness

CELLS_MODEL = harness.ROOT / "tests/assets/models/letterbox"
SERVER = harness.ROOT / "benchmarks/rtsp_server.py"
DEADLINE_MS = 250.0
BACK_S_MAX = 3.0
STALE_MS = 150.0
"""On top of the deadline: making, encoding and sending a picture, and a period of the codec's own."""
GROWTH_MB_MAX = 10.0


def main() -> int:
    """Freeze, close, return with another size; then open and close 200 times."""
    parser = harness.parser("RTSP: freezes, losses, and what 200 reconnects leave behind.")
    parser.add_argument("--reconnects", type=int, default=200)
    parser.add_argument("--fps", type=int, default=15)
    parser.add_argument("--system-python", default="/usr/bin/python3", help="one with GStreamer's bindings")
    args = parser.parse_args()
    harness.end_with_us()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    rows, verdicts = _outages(args.system_python, port, args.fps)
    verdicts.append(_reconnects(args.system_python, port, args.fps, args.reconnects))
    return harness.conclude("rtsp", rows, verdicts, as_json=args.json)


@contextmanager
def _camera(python: str, port: int, side: int, fps: int) -> Iterator[subprocess.Popen[str]]:
    command = [python, SERVER, str(port), str(side), str(fps)]
    with harness.running(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        if not process.stdout.readline():
            raise SystemExit(f"{python} {SERVER} does not start: it lists the packages that it needs")
        yield process


def _outages(python: str, rtsp_port: int, fps: int) -> tuple[list[dict[str, Any]], list[harness.Verdict]]:
    rows: list[dict[str, Any]] = []
    with harness.broker() as port, harness.subscriber(port) as heard, tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "agent.toml"
        config.write_text(_settings(port, rtsp_port), encoding="utf-8")
        command = [sys.executable, "-m", "agent", "run", "--config", config]
        with harness.running(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as agent:
            with _camera(python, rtsp_port, 512, fps) as camera:
                heard.wait_for(30, agent, 60)
                rows.append(_row("steady", heard, 0, 0.0))
                before = heard.count()
                camera.send_signal(signal.SIGSTOP)
                harness.pause(10)
                camera.send_signal(signal.SIGCONT)
                rows.append(_return("frozen 10 s", heard, agent, before))
                before = heard.count()
                agent.send_signal(signal.SIGSTOP)
                harness.pause(3)
                agent.send_signal(signal.SIGCONT)
                rows.append(_return("agent stopped 3 s", heard, agent, before))
                before = heard.count()
            harness.pause(5)
            with _camera(python, rtsp_port, 768, fps):
                rows.append(_return("closed 5 s, other size", heard, agent, before))
            summary = harness.summary_of(agent)
    figures = summary["streams"][harness.STREAM]
    harness.note(json.dumps({"ledger": figures["ledger"], "source_losses": figures["source_losses"]}))
    back_s = max(row["back_s"] for row in rows)
    oldest_ms = max(row["oldest_ms"] for row in rows)
    limit_ms = DEADLINE_MS + STALE_MS
    return rows, [
        harness.Verdict(
            "results back after the stream's return, s", back_s, f"<= {BACK_S_MAX}", back_s <= BACK_S_MAX
        ),
        harness.Verdict("oldest live result, true ms", oldest_ms, f"<= {limit_ms:g}", oldest_ms <= limit_ms),
    ]


def _return(name: str, heard: harness.Subscriber, agent: subprocess.Popen[str], before: int) -> dict[str, Any]:
    """Wait until results are back, and some seconds more."""
    returned_ns = time.clock_gettime_ns(time.CLOCK_REALTIME)
    while not (fresh := [r for r in heard.results()[before:] if r.is_fresh and r.at_ns > returned_ns]):
        if agent.poll() is not None or time.clock_gettime_ns(time.CLOCK_REALTIME) - returned_ns > 60e9:
            raise SystemExit(f"{name}: no result came back within 60 s")
        harness.pause(0.02)
    harness.pause(5)
    return _row(name, heard, before, (fresh[0].at_ns - returned_ns) / 1e9)


def _row(name: str, heard: harness.Subscriber, before: int, back_s: float) -> dict[str, Any]:
    ages_ms = [_true_age_ms(result) for result in heard.results()[before:] if result.is_fresh]
    stated_ms = [float(r.body["age_ms"]) for r in heard.results()[before:] if r.is_fresh]
    return {
        "phase": name,
        "back_s": back_s,
        "results": len(ages_ms),
        "median_ms": harness.quantile(ages_ms, 0.5),
        "oldest_ms": max(ages_ms),
        "stated_median_ms": harness.quantile(stated_ms, 0.5),
        "stated_oldest_ms": max(stated_ms),
    }


def _true_age_ms(result: harness.Received) -> float:
    """Read the picture's own time out of a result: red's mean of each cell, normalised, is above 0 for white."""
    (blocks,) = result.body["values"]
    cells = blocks["values"][:64]
    made_ms = sum(int(value > 0) << bit for bit, value in enumerate(cells))
    return result.at_ns / 1e6 - made_ms


def _settings(port: int, rtsp_port: int) -> str:
    return f"""\
[device]
id = "bench"
[mqtt]
url = "mqtt://127.0.0.1:{port}"
[[models]]
name = "cells"
path = {json.dumps(str(CELLS_MODEL))}
[[streams]]
name = "{harness.STREAM}"
source = "rtsp://127.0.0.1:{rtsp_port}/camera"
model = "cells"
deadline_ms = {DEADLINE_MS}
"""


def _reconnects(python: str, rtsp_port: int, fps: int, count: int) -> harness.Verdict:
    """Open, read and close again and again in this process; the first 20 times settle its caches."""
    prepare_process()
    from agent.sources.guarded import GuardedSource
    from agent.sources.network import NetworkSource

    source = GuardedSource(lambda: NetworkSource(f"rtsp://127.0.0.1:{rtsp_port}/camera", SystemClock()), "bench")
    pid = os.getpid()
    settled_mb = 0.0
    with _camera(python, rtsp_port, 512, fps):
        for number in range(count):
            source.open()
            for _ in range(3):
                source.read()
            source.close()
            if number in (20, count // 2, count - 1):
                grown_mb = harness.memory_mb(pid)["Anonymous"]
                settled_mb = settled_mb or grown_mb
                threads = len(list(Path(f"/proc/{pid}/task").iterdir()))
                files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
                harness.note(f"{number + 1} reconnects: {grown_mb:.1f} MiB, {threads} threads, {files} files")
    growth_mb = grown_mb - settled_mb
    name = f"growth over {count} reconnects, MiB"
    return harness.Verdict(name, growth_mb, f"<= {GROWTH_MB_MAX:g}", growth_mb <= GROWTH_MB_MAX)


if __name__ == "__main__":
    raise SystemExit(main())
