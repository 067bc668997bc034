"""Settings from afar: from publish to the first result under them, and how soon bad ones are taken back."""

from __future__ import annotations

import contextlib
import json
import random
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.operator_client import OperatorClient

EFFECT_P99_MS_MAX = 100.0
PROBATION_S = 10.0
FPS = 60.0
"""A frame each 17 ms: what is measured is the change, not the wait for a frame."""
TINY = harness.ROOT / "tests/assets/models/tiny"


def main() -> int:
    """Measure and print."""
    parser = harness.parser("Live settings over MQTT: time to their effect, and to the way back.")
    parser.add_argument("--changes", type=int, default=300)
    args = parser.parse_args()
    harness.end_with_us()
    rows: list[dict[str, Any]] = []
    with (
        harness.broker() as port,
        tempfile.TemporaryDirectory() as folder,
        agent(port, Path(folder)),
        OperatorClient(port, "bench") as operator,
    ):
        operator.wait_for("results/bench", lambda _: True)
        effects, reports = _live_changes(operator, args.changes)
        harness.note("live changes done")
        late = _taken_back(operator, args.changes + 10, {"deadline_ms": 0.5})
        gone = _taken_back(operator, args.changes + 20, {"source": "http://127.0.0.1:9/none.mjpg"})
    for name, values in (("first result, ms", effects), ("report, ms", reports)):
        rows.append(
            {
                "from publish to": name,
                "p50": statistics.median(values),
                "p99": harness.quantile(values, 0.99),
                "max": max(values),
            }
        )
    p99_ms = harness.quantile(effects, 0.99)
    verdicts = [
        harness.Verdict("effect p99, ms", p99_ms, f"< {EFFECT_P99_MS_MAX:g}", p99_ms < EFFECT_P99_MS_MAX),
        harness.Verdict("late: taken back, s", late[0], f"<= {PROBATION_S:g}", late[0] <= PROBATION_S),
        harness.Verdict("source gone: taken back, s", gone[0], f"<= {PROBATION_S:g}", gone[0] <= PROBATION_S),
    ]
    return harness.conclude(
        "remote", rows, verdicts, as_json=args.json, changes=args.changes, late=str(late[1]), gone=str(gone[1])
    )


@contextlib.contextmanager
def agent(
    port: int, folder: Path, probation_s: float = PROBATION_S, fps: float = FPS, more: str = ""
) -> Iterator[Any]:
    """Run an agent with a state folder."""
    text = f"""
[device]
id = "bench"
[mqtt]
url = "mqtt://127.0.0.1:{port}"
reconnect_max_s = 1
[state]
dir = {json.dumps(str(folder / "state"))}
[remote]
probation_s = {probation_s}
[[models]]
name = "model"
path = {json.dumps(str(TINY))}
[[streams]]
name = "bench"
source = {json.dumps(str(harness.CLIP))}
model = "model"
repeat = true
fps = {fps}
{more}"""
    config = folder / "agent.toml"
    config.write_text(text)
    command: list[str | Path] = [sys.executable, "-m", "agent", "run", "--config", config]
    with (folder / "log").open("a") as log, harness.running(command, stdout=log, stderr=log) as process:
        yield process


def _live_changes(operator: OperatorClient, changes: int) -> tuple[list[float], list[float]]:
    """Change the deadline again and again; return ms to the first result under it, and to the report."""
    effects, reports = [], []
    draw = random.Random(1)
    for version in range(1, changes + 1):
        deadline_ms, since = 300.0 + version, operator.count()
        at_ns = operator.ask(version, {"streams": {"bench": {"deadline_ms": deadline_ms}}})
        result = operator.wait_for("results/bench", lambda body, d=deadline_ms: body["deadline_ms"] == d, since=since)  # type: ignore[misc]
        report = operator.wait_for("settings/reported", lambda body, v=version: body["version"] == v, since=since)  # type: ignore[misc]
        effects.append((result[0] - at_ns) / 1e6)
        reports.append((report[0] - at_ns) / 1e6)
        harness.pause(draw.uniform(0.05, 0.15))
    return effects, reports


def _taken_back(operator: OperatorClient, version: int, fields: dict[str, Any]) -> tuple[float, Any]:
    """Ask for what is bad and return the seconds to the report of the way back, with what it says."""
    operator.wait_for("settings/reported", lambda body: body["proven"], since=0)
    harness.pause(PROBATION_S + 5)
    since = operator.count()
    at_ns = operator.ask(version, {"streams": {"bench": fields}})
    report = operator.wait_for("settings/reported", lambda body: body["state"] == "rolled_back", since=since)
    return (report[0] - at_ns) / 1e9, report[2]["rolled_back"]


if __name__ == "__main__":
    sys.exit(main())
