"""The whole agent while others are killed: the broker for some seconds, then the agent itself in mid-replay."""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.listener import Heard, read

MODEL = harness.ROOT / "tests/assets/models/tiny"
LOST_AT_A_KILL_S_MAX = 1.0
"""Of results, when the agent is killed; of events none."""
BROKERS_OWN_MS = 250.0
"""What the broker had acknowledged so shortly before its death may be gone with it: no agent can tell."""


LISTENER_BACK_MS = 2000.0
DIP_MAX = 1.5
"""The greatest of a thousand gaps varies by so much on a machine that others share."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long each part takes, in seconds.

    Attributes:
        fps: results a second that are asked for.
        before_s: with everything well.
        outage_s: the broker is dead.
        replay_s: from the broker's return to the agent's death.
        after_s: of the second run.
    """

    fps: int = 100
    before_s: float = 10.0
    outage_s: float = 10.0
    replay_s: float = 2.0
    after_s: float = 15.0


def outage(plan: Plan = Plan(), within: Path = harness.ROOT) -> tuple[dict[str, Any], list[harness.Verdict]]:
    """Kill the broker, start it again, kill the agent while it replays, start it again, and compare what arrived."""
    with tempfile.TemporaryDirectory(dir=within) as name:
        folder = Path(name)
        file = folder / "heard"
        with _listening(folder, file) as broker:
            with _agent(folder, broker.port, plan):
                _wait(lambda: len(read(file)) > plan.fps, "the first results")
                harness.pause(plan.before_s)
                broker.kill()
                killed_ms = time.time_ns() / 1e6  # noqa: TID251  Compared with stamps of wall time.
                harness.pause(plan.outage_s)
                broker.start()
                back_ms = time.time_ns() / 1e6  # noqa: TID251
                harness.pause(plan.replay_s)
            # `_agent` ends with SIGKILL.
            log = (folder / "log").read_text(encoding="utf-8")
            warnings = log.count(" WARNING ") + log.count(" ERROR ")
            dead_ms = time.time_ns() / 1e6  # noqa: TID251
            with _agent(folder, broker.port, plan) as second:
                first_boot = read(file)[0].boot
                _wait(lambda: any(one.boot != first_boot for one in read(file)), "the second run")
                harness.pause(plan.after_s)
                second.send_signal(signal.SIGTERM)
                output, _ = second.communicate(timeout=harness.END_TIMEOUT_S)
            summary = json.loads(output.splitlines()[-1])
            harness.pause(1.0)
        heard = read(file)
    return judge(heard, summary, plan, killed_ms=killed_ms, back_ms=back_ms, dead_ms=dead_ms, warnings=warnings)


def judge(
    heard: list[Heard],
    summary: dict[str, Any],
    plan: Plan,
    *,
    killed_ms: float,
    back_ms: float,
    dead_ms: float,
    warnings: int,
) -> tuple[dict[str, Any], list[harness.Verdict]]:
    """Return figures and verdicts of what arrived.

    Args:
        heard: everything.
        summary: of the second run.
        plan: what was done.
        killed_ms: wall time of the broker's death.
        back_ms: of its return.
        dead_ms: of the agent's death.
        warnings: lines of the first run's log that took a number: those are of QoS 0 and not kept.
    """
    first = [one for one in heard if one.boot == heard[0].boot]
    kept = {one.seq: one for one in first if one.kind in ("results", "events")}
    others = {one.seq for one in first} - set(kept)
    missing = sorted(set(range(1, max(kept) + 1)) - set(kept) - others)
    at_the_kill = [seq for seq in missing if _is_near(seq, kept, killed_ms)]
    contents: dict[tuple[str, int], str] = {}
    contradictions = sum(contents.setdefault((one.boot, one.seq), one.body) != one.body for one in heard)
    duplicates = len(heard) - len(contents)
    captured = sorted(one.captured_ms for one in kept.values() if one.kind == "results")
    gaps = {
        "before": _gap(captured, captured[0] + 1000, killed_ms),
        "outage": _gap(captured, killed_ms, back_ms),
        "replay": _gap(captured, back_ms, dead_ms - 1000),
    }
    # For a second after the broker's return it holds what comes for the listener, which is not back yet either.
    away = (killed_ms, back_ms + LISTENER_BACK_MS)
    fresh = [
        one.age_ms
        for one in heard
        if one.kind == "results" and not one.is_replay and not away[0] <= one.arrived_ms <= away[1]
    ]
    lost_s = max(0.0, dead_ms - captured[-1]) / 1e3
    dropped = summary["delivery"]["dropped"]
    figures = {
        "results of the first run": len(captured),
        "captured in the outage": sum(killed_ms < at < back_ms for at in captured),
        "replays": sum(one.is_replay for one in heard),
        "duplicates": duplicates,
        "missing at the broker's death": len(at_the_kill),
        "missing otherwise, log lines of QoS 0": f"{len(missing) - len(at_the_kill)}, {warnings}",
        "gap between frames, ms": {name: round(value, 1) for name, value in gaps.items()},
        "fresh on arrival, ms p50, p99, max": [round(harness.quantile(fresh, q), 1) for q in (0.5, 0.99, 1.0)],
        "dropped by the second run": {cause: count for cause, count in dropped.items() if count},
    }
    missed = max(0, len(missing) - len(at_the_kill) - warnings)
    periods = gaps["outage"] / (1000 / plan.fps)
    dip = gaps["outage"] / gaps["before"]
    return figures, [
        harness.Verdict("missing up to the last one seen", missed, "== 0", missed == 0),
        harness.Verdict("ids with two contents", contradictions, "== 0", contradictions == 0),
        harness.Verdict(
            "results lost at the agent's death, s",
            lost_s,
            f"<= {LOST_AT_A_KILL_S_MAX}",
            lost_s <= LOST_AT_A_KILL_S_MAX,
        ),
        harness.Verdict("greatest gap between frames in the outage, periods", periods, "< 2", periods < 2),
        harness.Verdict("the same, of the greatest before it", dip, f"<= {DIP_MAX}", dip <= DIP_MAX),
        harness.Verdict("age of a fresh result on arrival, max ms", max(fresh), "<= 250", max(fresh) <= 250),
    ]


def _is_near(seq: int, kept: dict[int, Heard], at_ms: float) -> bool:
    """Return whether a message that is missing was made when the broker died, by its neighbours."""
    before = max((known for known in kept if known < seq), default=None)
    after = min((known for known in kept if known > seq), default=None)
    neighbours = [kept[known].captured_ms for known in (before, after) if known is not None]
    return min(abs(captured_ms - at_ms) for captured_ms in neighbours) <= BROKERS_OWN_MS


def _gap(captured: list[float], from_ms: float, to_ms: float) -> float:
    within = [at for at in captured if from_ms <= at <= to_ms]
    return max((late - early for early, late in itertools.pairwise(within)), default=float("inf"))


class _Broker:
    """mosquitto that keeps sessions on disk, and may be killed and started again on its port."""

    def __init__(self, folder: Path, port: int) -> None:
        self.port = port
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        config = self._folder / "mosquitto.conf"
        config.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\nuser root\n"
            f"persistence true\npersistence_location {self._folder}/\nautosave_on_changes true\nautosave_interval 1\n"
            "max_queued_messages 0\nmax_inflight_messages 0\n"
        )
        self._process = subprocess.Popen(
            [harness.mosquitto(), "-c", str(config)], stderr=subprocess.DEVNULL, text=True
        )
        harness.wait_until_listening(self._process, self.port)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextlib.contextmanager
def _listening(folder: Path, file: Path) -> Iterator[_Broker]:
    broker = _Broker(folder, harness.free_port())
    file.touch()
    try:
        broker.start()
        command = [sys.executable, "-m", "benchmarks.listener", str(broker.port), str(file)]
        with harness.running(command, stdout=subprocess.PIPE) as listener:
            assert listener.stdout is not None
            listener.stdout.readline()
            yield broker
    finally:
        broker.kill()


@contextlib.contextmanager
def _agent(folder: Path, port: int, plan: Plan) -> Iterator[subprocess.Popen[str]]:
    """Run the agent; it is killed at the end of the block, unless it has ended by then."""
    config = folder / "agent.toml"
    config.write_text(
        f"""\
[device]
id = "bench"
[mqtt]
url = "mqtt://127.0.0.1:{port}"
reconnect_max_s = 1
[health]
period_s = 3600
[state]
dir = {json.dumps(str(folder / "state"))}
[[models]]
name = "model"
path = {json.dumps(str(MODEL))}
[[streams]]
name = "{harness.STREAM}"
source = {json.dumps(str(harness.CLIP))}
model = "model"
mode = "live"
repeat = true
fps = {plan.fps}
deadline_ms = 250
"""
    )
    command: list[str | Path] = [sys.executable, "-m", "agent", "run", "--config", config]
    with (
        (folder / "log").open("wb") as log,
        harness.running(command, stdout=subprocess.PIPE, stderr=log) as process,
    ):
        yield process
        if process.poll() is None:
            process.kill()
            process.wait()


def _wait(is_true: Any, what: str) -> None:
    for _ in range(600):
        if is_true():
            return
        harness.pause(0.1)
    raise RuntimeError(f"{what} did not come")
