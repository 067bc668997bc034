"""From exec to ready, and creating a session from the cache, against what cannot be left out and a start by hand."""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import harness

READY_RATIO_MAX = 1.3
CREATE_MS_MAX = 15.0
CREATIONS = 21
CREATING_PROCESSES_MAX = 30
UNDISTURBED = 1.2
"""Times the shortest that a fixed loop took, right before and after: neighbours on the same cores double it for
seconds at a time, and with it whatever is measured in milliseconds."""
UNDISTURBED_MIN = 30
"""Creations at full speed from the cache, until which it goes on."""
AGENT = "agent, from the cache"
IMPORTS_CREATE_RUN = "its imports, create from the cache, one warm run"
HAND_WRITTEN = "hand-written: packages, create from the .onnx, one warm run"

BARE = """
import ctypes, os, sys
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import cv2, numpy, onnxruntime, paho.mqtt.client
from pydantic import BaseModel, Field, field_validator, model_validator
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = len(os.sched_getaffinity(0))
options.inter_op_num_threads = 1
options.add_session_config_entry("session.intra_op.allow_spinning", "0")
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
session.run(None, {"images": numpy.zeros((1, 300, 300, 3), numpy.uint8)})
print("ready:", file=sys.stderr, flush=True)
"""
"""Imports of the packages that the agent imports, session create and one warm run, as in a hand-written loop."""

NEEDED = """
import sys
from agent.engine.process import prepare_process
prepare_process()
import gc
gc.disable()
import agent.__main__, agent.cli.run, agent.sources.video_file, agent.sinks.mqtt
gc.freeze()
gc.enable()
import numpy, onnxruntime
from agent.engine.session import SessionSetup, session_options
options = session_options(SessionSetup(threads=int(sys.argv[2])), 1)
options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
session.run(None, {"images": numpy.zeros((1, 300, 300, 3), numpy.uint8)})
print("ready:", file=sys.stderr, flush=True)
"""
"""What the agent cannot start without, one after the other: its imports, a session from the cache, one warm run."""

CREATE = """
import json, sys, time
from pathlib import Path
from agent.engine.process import prepare_process, prepare_serving
prepare_process()
from agent.settings import Settings
from agent.provision import Provision

settings = Settings.model_validate(
    {"state": {"dir": sys.argv[2]}, "models": [{"name": "model", "path": sys.argv[1]}]}
)
provision = Provision(settings)
provision.survey(settings.models[0])
provision.fit()
from agent.engine.session import OrtEngine
recipe = provision.recipe("model")
(prepared,) = recipe.prepared.values()
assert prepared.compiled is not None
compiled = prepared.compiled if sys.argv[4] == "cache" else None
sha256 = recipe.described[1].model.sha256
file = Path(sys.argv[1], "model.onnx")

def yardstick():
    begun = time.perf_counter()
    sum(range(30_000))
    return time.perf_counter() - begun

rounds = []
for number in range(int(sys.argv[3])):
    if number == 1:
        prepare_serving()
    before, begun = yardstick(), time.perf_counter()
    engine = OrtEngine(file, sha256=sha256, setup=prepared.setup, compiled=compiled)
    took = time.perf_counter() - begun
    rounds.append((took * 1e3, max(before, yardstick())))
    del engine
print(json.dumps(rounds))
"""
"""Creations of a session in one process, made as the agent makes it: the first as at its start, the others as when
a frame needs a network that was released. From the .onnx its digest is taken too; the cache has verified its own."""


@dataclass(frozen=True, slots=True)
class Start:
    """One start: seconds on the clock, and of CPU in all threads, which a busy machine stretches less."""

    wall_s: float
    cpu_s: float


def main() -> int:
    """Start each in turn and print the ratio of the medians."""
    parser = harness.parser("Cold start of the agent against a hand-written one.")
    parser.add_argument("--rounds", type=int, default=9, help="of each")
    args = parser.parse_args()
    harness.end_with_us()
    network = harness.COCO_SSD / "model.onnx"
    with tempfile.TemporaryDirectory() as state, tempfile.NamedTemporaryFile("w", suffix=".toml") as config:
        config.write(
            f'[device]\nid = "bench"\n[mqtt]\nurl = "mqtt://127.0.0.1:9"\n[state]\ndir = "{state}"\n'
            f'[spool]\nmax_mb = 0\n[[models]]\nname = "model"\npath = "{harness.COCO_SSD}"\n'
            f'[[streams]]\nname = "bench"\nsource = "{harness.CLIP}"\nmodel = "model"\nrepeat = true\n'
        )
        config.flush()
        agent = [sys.executable, "-m", "agent", "run", "--config", config.name]
        bare = [sys.executable, "-c", BARE, str(network)]
        first = _until_ready(agent)
        compiled = next(Path(state).rglob("network.onnx"))
        needed = [sys.executable, "-c", NEEDED, str(compiled), str(len(os.sched_getaffinity(0)))]
        commands = {HAND_WRITTEN: bare, IMPORTS_CREATE_RUN: needed, AGENT: agent}
        took: dict[str, list[Start]] = {name: [] for name in commands}
        for _ in range(args.rounds):
            for name, command in commands.items():
                took[name].append(_until_ready(command))
        created = _create(state)
    rows: list[dict[str, Any]] = [_row(name, values) for name, values in took.items()]
    rows += [_row("agent, first start: compiled and measured", [first]), *created]
    ratio = _median_s(took[AGENT]) / _median_s(took[IMPORTS_CREATE_RUN])
    by_hand = _median_s(took[AGENT]) / _median_s(took[HAND_WRITTEN])
    create_ms = created[-1]["median ms"]
    verdicts = [
        harness.Verdict(
            "ready, agent / its imports, create and one warm run",
            ratio,
            f"<= {READY_RATIO_MAX:g}",
            ratio <= READY_RATIO_MAX,
        ),
        harness.Verdict(
            "ready, agent / hand-written", by_hand, f"<= {READY_RATIO_MAX:g}", by_hand <= READY_RATIO_MAX
        ),
        harness.Verdict(
            "create from the cache at full speed, ms", create_ms, f"<= {CREATE_MS_MAX:g}", create_ms <= CREATE_MS_MAX
        ),
    ]
    return harness.conclude("start", rows, verdicts, as_json=args.json)


def _row(name: str, starts: Sequence[Start]) -> dict[str, Any]:
    return {
        "what": name,
        "median ms": _median_s(starts) * 1e3,
        "least ms": min(start.wall_s for start in starts) * 1e3,
        "CPU ms": statistics.median(start.cpu_s for start in starts) * 1e3,
    }


def _median_s(starts: Sequence[Start]) -> float:
    return statistics.median(start.wall_s for start in starts)


def _until_ready(command: Sequence[str]) -> Start:
    """Return what it takes from exec until it says that it is ready."""
    # An installed package has its bytecode; without it Python would compile the agent at each start.
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    begun_s = time.perf_counter()
    with harness.running(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "ready:" in line:
                return Start(time.perf_counter() - begun_s, harness.cpu_s(process.pid))
    raise RuntimeError(f"{command} ended with {process.returncode} and was never ready")


def _create(state: str) -> list[dict[str, Any]]:
    """Time creations from the .onnx and from the cache, in processes of their own that take turns.

    In one process each creation from the cache would find the heap and the CPU's caches as the .onnx, with several
    times the work, left them.
    """
    rows = []
    rounds: dict[str, list[list[tuple[float, float]]]] = {"onnx": [], "cache": []}
    while len(rounds["cache"]) < CREATING_PROCESSES_MAX and len(_undisturbed(rounds, "cache")) < UNDISTURBED_MIN:
        for way, done in rounds.items():
            command = [sys.executable, "-c", CREATE, str(harness.COCO_SSD), state, str(CREATIONS), way]
            output = subprocess.run(command, cwd=harness.ROOT, capture_output=True, text=True, check=True).stdout
            done.append(json.loads(output))
    for way, done in rounds.items():
        every = [took for one in done for took, _ in one[1:]]
        undisturbed = _undisturbed(rounds, way)
        for what, values in (
            ("the first of each process, at its start", [one[0][0] for one in done]),
            ("while serving", every),
            (f"{len(undisturbed)} of those {len(every)}, the machine at full speed", undisturbed),
        ):
            median, least = (statistics.median(values), min(values)) if values else (math.nan, math.nan)
            rows.append({"what": f"session, {way}: {what}", "median ms": median, "least ms": least, "CPU ms": None})
    return rows


def _undisturbed(rounds: dict[str, list[list[tuple[float, float]]]], way: str) -> list[float]:
    """Return the creations beside which the fixed loop took little more than it ever did."""
    fastest = min((yard for done in rounds.values() for one in done for _, yard in one), default=0.0)
    return [took for one in rounds[way] for took, yard in one[1:] if yard <= fastest * UNDISTURBED]


if __name__ == "__main__":
    sys.exit(main())
