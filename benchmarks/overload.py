"""Three times more frames than the model can take: ages and rate of the agent and of the two loops users write."""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from benchmarks import harness

FPS = 30.0
DEADLINE_MS = 250.0
SHARE_MIN = 0.9
STAGES = ("preprocess", "run", "decode")
SETTLE_S = 2.0
"""After the first result, before the window: loops start on an idle machine."""

LOOPS = {
    "agent": "agent",
    "naive: read, infer, publish": "one thread",
    "naive: reader thread, newest frame": "reader thread",
}


@dataclass(frozen=True, slots=True)
class Window:
    """One run. Ages are those on arrival, since the camera gave the frame."""

    seconds: float
    ages_ms: list[float]
    since_grab_ms: list[float]
    """The age that the loop itself would state: since `read()` returned. Equal for the agent."""
    points: list[tuple[float, float]]
    """(seconds, age in ms) for the regression."""
    replays: int
    """Results that were delivered marked as too old; they count in nothing else here."""
    summary: dict[str, Any] = field(default_factory=dict)

    @property
    def published_hz(self) -> float:
        """Results a second."""
        return len(self.ages_ms) / self.seconds

    @property
    def in_time_hz(self) -> float:
        """Results a second that arrived before their deadline."""
        return sum(age_ms <= DEADLINE_MS for age_ms in self.ages_ms) / self.seconds


def main() -> int:
    """Run all three in turn, and print ages, growth and rate."""
    parser = harness.parser("A 30 fps camera on a model of about 100 ms.")
    parser.add_argument("--rounds", type=int, default=2, help="of each")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each round")
    args = parser.parse_args()
    harness.end_with_us()
    windows: dict[str, list[Window]] = {name: [] for name in LOOPS}
    with harness.broker() as port:
        for number in range(args.rounds):
            for name in list(LOOPS) if number % 2 == 0 else reversed(LOOPS):
                window = _run(name, port, args.seconds)
                rates = f"{window.published_hz:5.2f}/s, in time {window.in_time_hz:5.2f}/s"
                harness.note(f"{name:<36} {rates}, oldest {max(window.ages_ms):8.1f} ms")
                windows[name].append(window)
    return _report(windows, as_json=args.json)


def _run(name: str, port: int, seconds: float) -> Window:
    with harness.subscriber(port) as heard, _loop(name, port) as process:
        heard.wait_for(1, process, timeout_s=60)
        harness.pause(SETTLE_S)
        before = heard.count()
        harness.pause(seconds)
        heard_results = heard.results()[before:]
        summary = harness.summary_of(process) if name == "agent" else {}
    results = [result for result in heard_results if result.is_fresh]
    first_ns = results[0].at_ns
    return Window(
        seconds=seconds,
        ages_ms=[result.age_ms for result in results],
        since_grab_ms=[result.body.get("age_since_grab_ms", result.body["age_ms"]) for result in results],
        points=[((result.at_ns - first_ns) / 1e9, result.age_ms) for result in results],
        replays=len(heard_results) - len(results),
        summary=summary,
    )


@contextlib.contextmanager
def _loop(name: str, port: int) -> Iterator[subprocess.Popen[str]]:
    if name == "agent":
        with harness.agent(port, model=harness.SLOW100, fps=FPS, deadline_ms=DEADLINE_MS) as process:
            yield process
    else:
        reader = ["--reader"] if LOOPS[name] == "reader thread" else []
        command = harness.bare_loop(
            *("--port", str(port), "--fps", str(FPS), "--repeat", *reader), model=harness.SLOW100
        )
        with harness.running(command) as process:
            yield process


def _report(windows: dict[str, list[Window]], *, as_json: bool) -> int:
    rows: list[dict[str, Any]] = []
    for name, done in windows.items():
        ages_ms = [age for window in done for age in window.ages_ms]
        rows.append(
            {
                "loop": name,
                "rounds": len(done),
                "results/s": statistics.median(window.published_hz for window in done),
                "in time/s": statistics.median(window.in_time_hz for window in done),
                "age ms p50": statistics.median(ages_ms),
                "p99": harness.quantile(ages_ms, 0.99),
                "max": max(ages_ms),
                "growth ms/min": statistics.median(harness.slope_per_minute(window.points) for window in done),
                "p99 since grab": harness.quantile([age for window in done for age in window.since_grab_ms], 0.99),
            }
        )
    agent = windows["agent"]
    streams = [window.summary["streams"][harness.STREAM] for window in agent]
    services_ms = [sum(stream["stage_ms"][stage]["p50"] for stage in STAGES) for stream in streams]
    # Within each round: another round may have had less of the machine.
    share = statistics.median(
        window.published_hz * service_ms / 1e3 for window, service_ms in zip(agent, services_ms, strict=True)
    )
    ledgers = [stream["ledger"] for stream in streams]
    exact = all(
        ledger["captured"] == sum(count for key, count in ledger.items() if key != "captured") for ledger in ledgers
    )
    delivered = all(window.summary["delivery"]["is_exact"] for window in agent)
    verdicts = [
        harness.Verdict("agent: age p99, ms", rows[0]["p99"], f"< {DEADLINE_MS:g}", rows[0]["p99"] < DEADLINE_MS),
        harness.Verdict("agent: share of the possible rate", share, f">= {SHARE_MIN}", share >= SHARE_MIN),
        harness.Verdict("agent: ledgers exact", float(exact and delivered), "= 1", exact and delivered),
    ]
    causes = {key: count for key, count in ledgers[-1].items() if count}
    return harness.conclude(
        "overload",
        rows,
        verdicts,
        as_json=as_json,
        service_ms_p50=statistics.median(services_ms),
        possible_hz=1e3 / statistics.median(services_ms),
        in_time_against_reader_thread=rows[0]["in time/s"] / rows[2]["in time/s"],
        agent_stated_age_ms_max=max(age for window in agent for age in window.since_grab_ms),
        agent_replays=sum(window.replays for window in agent),
        last_ledger=causes,
    )


if __name__ == "__main__":
    sys.exit(main())
