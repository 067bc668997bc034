"""Live over MQTT: no result older than its deadline, and CPU a frame against the bare loop's."""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks import harness

DEADLINE_MS = 250.0
CPU_RATIO_MAX = 1.10
CPU_RATIO_MAX_IDLE = 1.05
"""At 5 fps and below, where what the agent does beside the frames would show most."""
WARM_UP_RESULTS = 30
"""Seconds of it: imports, load and the first frames of the model are not steady state."""


@dataclass(frozen=True, slots=True)
class Window:
    """One run's steady state."""

    frames: int
    cpu_ms: float
    """CPU time a frame, user and system."""
    ages_ms: list[float]
    """On arrival, by the receiver's clock."""
    stated_ms: list[float]
    """As the results themselves say."""


def main() -> int:
    """Run A B A B ... and print ages and the ratio of the medians."""
    parser = harness.parser("Ages and CPU of the agent, live at 10 fps, against a bare loop.")
    parser.add_argument("--rounds", type=int, default=5, help="of each")
    parser.add_argument("--fps", type=float, default=10.0, help="of the source")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each round, after the warm-up")
    args = parser.parse_args()
    harness.end_with_us()
    windows: dict[str, list[Window]] = {"bare": [], "agent": []}
    with harness.broker() as port:
        for number in range(args.rounds):
            for name in ("bare", "agent") if number % 2 else ("agent", "bare"):
                window = _run(name, port, args.seconds, args.fps)
                harness.note(f"{name:<6} {window.cpu_ms:6.2f} CPU ms a frame, oldest {max(window.ages_ms):.1f} ms")
                windows[name].append(window)
    return _report(windows, args.fps, as_json=args.json)


def _run(name: str, port: int, seconds: float, fps: float) -> Window:
    with harness.subscriber(port) as heard, _loop(name, port, fps) as process:
        heard.wait_for(WARM_UP_RESULTS, process, timeout_s=60)
        before, cpu_before_s = heard.count(), harness.cpu_s(process.pid)
        harness.pause(seconds)
        after, cpu_after_s = heard.count(), harness.cpu_s(process.pid)
        frames = after - before
        # Ages are those of the whole run, the first result included: the promise knows no warm-up.
        results = [result for result in heard.results()[:after] if result.is_fresh]
    return Window(
        frames=frames,
        cpu_ms=(cpu_after_s - cpu_before_s) / frames * 1e3,
        ages_ms=[result.age_ms for result in results],
        stated_ms=[result.body["age_ms"] for result in results],
    )


@contextlib.contextmanager
def _loop(name: str, port: int, fps: float) -> Iterator[subprocess.Popen[str]]:
    if name == "agent":
        with harness.agent(port, model=harness.COCO_SSD, fps=fps, deadline_ms=DEADLINE_MS) as process:
            yield process
    else:
        command = harness.bare_loop("--port", str(port), "--fps", str(fps), "--repeat", model=harness.COCO_SSD)
        with harness.running(command) as process:
            yield process


def _report(windows: dict[str, list[Window]], fps: float, *, as_json: bool) -> int:
    cpu_ms = {name: statistics.median(window.cpu_ms for window in done) for name, done in windows.items()}
    ages_ms = {name: [age for window in done for age in window.ages_ms] for name, done in windows.items()}
    rows = [
        {
            "loop": name,
            "rounds": len(done),
            "results": len(ages_ms[name]),
            "CPU ms a frame": cpu_ms[name],
            "least": min(window.cpu_ms for window in done),
            "most": max(window.cpu_ms for window in done),
            "stated age ms max": max(age for window in done for age in window.stated_ms),
            "age on arrival p50": statistics.median(ages_ms[name]),
            "p99": harness.quantile(ages_ms[name], 0.99),
            "max": max(ages_ms[name]),
        }
        for name, done in windows.items()
    ]
    ratio_max = CPU_RATIO_MAX_IDLE if fps <= 5 else CPU_RATIO_MAX
    oldest, ratio = max(ages_ms["agent"]), cpu_ms["agent"] / cpu_ms["bare"]
    verdicts = [
        harness.Verdict("oldest result on arrival, ms", oldest, f"<= {DEADLINE_MS:g}", oldest <= DEADLINE_MS),
        harness.Verdict("CPU a frame agent/bare", ratio, f"<= {ratio_max:.2f}", ratio <= ratio_max),
    ]
    return harness.conclude("live", rows, verdicts, as_json=as_json)


if __name__ == "__main__":
    sys.exit(main())
