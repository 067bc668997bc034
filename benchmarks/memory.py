"""Resident memory of the agent, live over MQTT, against a bare loop with the same imports, model and frames."""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks import harness

AGENT = "agent"
BARE = "bare"
BARE_COMPILED = "bare, compiled"
"""With the agent's compiled form of the network, run as the agent runs it: what is between the two is the agent."""
FRAMES = 300
FPS = 30.0
EXTRA_MB_MAX = 15.0
SAMPLES = 9


def main() -> int:
    """Run A B A B ... and print the difference of the medians."""
    parser = harness.parser("Resident memory of the agent against a bare process.")
    parser.add_argument("--rounds", type=int, default=3, help="of each")
    args = parser.parse_args()
    harness.end_with_us()
    # The agent first: it makes the compiled form.
    rounds: dict[str, list[dict[str, float]]] = {AGENT: [], BARE: [], BARE_COMPILED: []}
    with harness.broker() as port, tempfile.TemporaryDirectory() as state:
        for _ in range(args.rounds):
            for name, done in rounds.items():
                done.append(_run(name, port, state))
                harness.note(f"{name:<14} " + "  ".join(f"{key} {value:.1f} MiB" for key, value in done[-1].items()))
    rows = [
        {
            "process": name,
            "rounds": len(done),
            **{f"{key} MiB": statistics.median(one[key] for one in done) for key in done[0]},
        }
        for name, done in rounds.items()
    ]
    agent_mb, *others_mb = (float(row["Rss MiB"]) for row in rows)  # type: ignore[arg-type]
    verdicts = [
        harness.Verdict(
            f"resident memory {AGENT} - {name}, MiB",
            agent_mb - mb,
            f"<= {EXTRA_MB_MAX:g}",
            agent_mb - mb <= EXTRA_MB_MAX,
        )
        for name, mb in zip((BARE, BARE_COMPILED), others_mb, strict=True)
    ]
    return harness.conclude("memory", rows, verdicts, as_json=args.json)


def _run(name: str, port: int, state: str) -> dict[str, float]:
    """Return the medians of some samples after 300 frames; Pss depends on what else maps the same libraries."""
    with harness.subscriber(port) as heard, _loop(name, port, state) as process:
        heard.wait_for(FRAMES, process, timeout_s=120)
        samples = []
        for _ in range(SAMPLES):
            samples.append(harness.memory_mb(process.pid))
            # Not a multiple of the frame interval: it must not sample the same moment of every frame.
            harness.pause(0.217)
    return {key: statistics.median(sample[key] for sample in samples) for key in samples[0]}


@contextlib.contextmanager
def _loop(name: str, port: int, state: str) -> Iterator[subprocess.Popen[str]]:
    if name == AGENT:
        # With a state folder, as the service has one: spool, and the network in its compiled form.
        more = f'[state]\ndir = "{state}"\n'
        with harness.agent(port, model=harness.COCO_SSD, fps=FPS, more=more) as process:
            yield process
    else:
        arguments = ["--port", str(port), "--fps", str(FPS), "--repeat", "--like-agent"]
        if name == BARE_COMPILED:
            arguments += ["--compiled", str(next(Path(state).rglob("network.onnx")))]
        command = harness.bare_loop(*arguments, model=harness.COCO_SSD)
        with harness.running(command, env=harness.service_environ()) as process:
            yield process


if __name__ == "__main__":
    sys.exit(main())
