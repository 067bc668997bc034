"""`edgebeat simulate`: the real scheduler over a recorded or made trace, to size a box or a policy without it."""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agent.cli import exit_codes
from agent.cli.arguments import count, count_or_none, deviation, positive, share
from agent.cli.plots import check_plot
from agent.clock import NS_PER_MS, NS_PER_S
from agent.core.bound import jain_index, published_bound
from agent.core.ledger import Outcome
from agent.core.policy import SchedulerPolicy, StreamPolicy
from agent.core.simulation import Arrival, Report, Simulation, World
from agent.core.synthetic import Camera, arrivals_of, machine_speed, overshoot_of
from agent.core.trace import parse
from agent.errors import ConfigError

CAUSES = [str(outcome) for outcome in Outcome]


@dataclass(frozen=True, slots=True)
class _Input:
    policies: Mapping[str, StreamPolicy]
    arrivals: Sequence[Arrival]
    world: World
    scheduling: SchedulerPolicy
    origin: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--trace", type=Path, metavar="FILE", help="recorded with edgebeat run --record-trace FILE")
    what.add_argument("--synthetic", action="store_true", help="made from the arguments below")
    made = parser.add_argument_group("the made trace")
    made.add_argument("--streams", type=count, default=4, metavar="N", help="equal streams (default 4)")
    made.add_argument("--fps", type=positive, default=30.0, help="of each (default 30)")
    made.add_argument("--service-ms", type=positive, default=25.0, metavar="MS", help="of one inference (default 25)")
    made.add_argument("--seconds", type=positive, default=60.0, metavar="S", help="length (default 60)")
    made.add_argument(
        "--noise", type=deviation, default=0.1, help="deviation of the machine's speed, 0 to 1 (default 0.1)"
    )
    made.add_argument("--stalls", type=count_or_none, default=0, metavar="N", help="stalls of up to 5 s (default 0)")
    made.add_argument(
        "--drops", type=count_or_none, default=0, metavar="N", help="drops to a third of the speed (default 0)"
    )
    made.add_argument(
        "--bursts", type=share, metavar="SHARE", help="frames that come at once after another (default 0)"
    )
    made.add_argument("--seed", type=int, default=0, help="of the trouble (default 0)")
    policy = parser.add_argument_group("what if (default: as recorded, or as the agent's own defaults)")
    policy.add_argument("--deadline-ms", type=positive, metavar="MS", help="of every stream that has a deadline")
    policy.add_argument("--max-fps", type=positive, metavar="HZ", help="of every stream")
    policy.add_argument("--threads", type=count, metavar="N", help="inferences of one thread at the same time")
    policy.add_argument("--speed", type=positive, default=1.0, help="of the machine, such as 0.25 for a smaller box")
    policy.add_argument("--stride", type=count, metavar="N", help="of every stream")
    policy.add_argument(
        "--priority", type=_priority, action="append", metavar="STREAM=N", help="0 to 9; s0, s1, ... are made streams"
    )
    policy.add_argument("--min-share", type=share, metavar="SHARE", help="see scheduler.min_share")
    policy.add_argument("--confidence", type=share, metavar="SHARE", help="see scheduler.confidence")
    policy.add_argument("--window-s", type=positive, metavar="S", help="see scheduler.window_s")
    policy.add_argument("--probe-share", type=share, metavar="SHARE", help="see scheduler.probe_share")
    policy.add_argument("--probe-interval-s", type=positive, metavar="S", help="see scheduler.probe_interval_s")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw ages and outcomes over time, .png or .svg")


def _priority(text: str) -> tuple[str, int]:
    stream, _, number = text.rpartition("=")
    if not stream or number not in tuple("0123456789"):
        raise argparse.ArgumentTypeError(f"{text!r} is not STREAM=N with a priority from 0 to 9")
    return stream, int(number)


def run(args: argparse.Namespace) -> int:
    """Simulate, print and draw."""
    check_plot(args.plot)
    given = _what_if(_recorded(args.trace) if args.trace is not None else _made(args), args)
    report = Simulation(given.policies, given.world, given.scheduling).run(given.arrivals)
    figures = _figures(given, report)
    print(json.dumps(figures) if args.json else _table(figures))
    if args.plot is not None:
        from agent.cli.simulate_plot import draw  # matplotlib is no dependency of the agent.

        draw(report, args.plot)
        print(f"plot: {args.plot}", file=sys.stderr)
    return exit_codes.DONE


def _recorded(file: Path) -> _Input:
    try:
        with file.open(encoding="utf-8") as lines:
            recording = parse(lines)
    except OSError as error:
        raise ConfigError(f"--trace {file}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"--trace {file}: {error}") from error
    world = World(overshoot_ns=overshoot_of(random.Random(0)))  # noqa: S311
    origin = f"{file}, {recording.runs} runs"
    if not recording.has_scheduling:
        origin += ", recorded without the scheduler's settings: these are the defaults"
    return _Input(recording.policies, recording.arrivals, world, recording.scheduling, origin)


def _made(args: argparse.Namespace) -> _Input:
    rng = random.Random(args.seed)  # noqa: S311  Simulated trouble is no secret.
    span_ns, work_ns = _ns(args.seconds, NS_PER_S), _ns(args.service_ms, NS_PER_MS)
    cameras = [Camera(f"s{index}", args.fps, burst_share=args.bursts or 0.0) for index in range(args.streams)]
    arrivals = [arrival for camera in cameras for arrival in arrivals_of(camera, work_ns, span_ns, rng)]
    speed = machine_speed(span_ns, rng, noise=args.noise, stalls=args.stalls, drops=args.drops)
    policy = StreamPolicy(250 * NS_PER_MS)
    return _Input(
        policies={camera.name: policy for camera in cameras},
        arrivals=sorted(arrivals, key=lambda arrival: arrival.at_ns),
        world=World(speed=speed, overshoot_ns=overshoot_of(rng)),
        scheduling=SchedulerPolicy(),
        origin=f"{args.streams} streams of {args.fps:g} fps, {args.service_ms:g} ms an inference, seed {args.seed}",
    )


def _what_if(given: _Input, args: argparse.Namespace) -> _Input:
    """Apply the changes that were asked for; everything else stays as it was."""
    priorities = dict(args.priority or ())
    for stream, number in priorities.items():
        if stream not in given.policies:
            known = ", ".join(given.policies)
            raise ConfigError(f"--priority {stream}={number}: there is no stream {stream}, only {known}")

    def changed(name: str, policy: StreamPolicy) -> StreamPolicy:
        has_deadline = policy.budget_ns is not None
        asked = {
            "budget_ns": _ns_or_none(args.deadline_ms, NS_PER_MS) if has_deadline else None,
            "max_hz": args.max_fps,
            "stride": args.stride,
            "priority": priorities.get(name),
        }
        return replace(policy, **_given(asked))

    predictor = {
        "confidence": args.confidence,
        "window_ns": _ns_or_none(args.window_s, NS_PER_S),
        "probe_share": args.probe_share,
        "probe_interval_ns": _ns_or_none(args.probe_interval_s, NS_PER_S),
    }
    scheduler = {
        "threads": args.threads,
        "run_threads": None if args.threads is None else 1,
        "min_share": args.min_share,
        "predictor": replace(given.scheduling.predictor, **_given(predictor)),
    }
    return replace(
        given,
        policies={name: changed(name, policy) for name, policy in given.policies.items()},
        arrivals=[replace(arrival, work_ns=max(1, int(arrival.work_ns / args.speed))) for arrival in given.arrivals],
        scheduling=replace(given.scheduling, **_given(scheduler)),
    )


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _ns(value: float, unit_ns: int) -> int:
    return max(1, int(value * unit_ns))


def _ns_or_none(value: float | None, unit_ns: int) -> int | None:
    return None if value is None else _ns(value, unit_ns)


def _figures(given: _Input, report: Report) -> dict[str, Any]:
    streams: dict[str, Any] = {}
    for name in given.policies:
        ages_ms = sorted(age_ns / 1e6 for age_ns in report.published_ages_ns(name))
        streams[name] = {
            "ledger": report.intake.ledgers[name].snapshot(),
            "age_ms": {key: _quantile(ages_ms, share) for key, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))},
        }
    counts = [stream["ledger"]["published"] for stream in streams.values()]
    seconds = max(1e-9, report.end_ns / NS_PER_S)
    bound = _bound(given)
    in_time = sum(
        report.intake.ledgers[name].count(Outcome.PUBLISHED)
        for name, policy in given.policies.items()
        if policy.budget_ns is not None
    )
    return {
        "trace": given.origin,
        "seconds": round(seconds, 3),
        "streams": streams,
        "published_per_s": round(sum(counts) / seconds, 3),
        "busy": round(report.busy_ns / max(1, report.end_ns), 3),
        "published_possible": bound,
        "goodput": round(in_time / bound, 4) if bound else None,
        "fairness": round(jain_index(counts), 4),
    }


def _bound(given: _Input) -> int:
    """Return the most that could be published; sessions are bounded one by one, as if each had the machine."""
    total = 0
    for session in {policy.session for policy in given.policies.values()}:
        own = {name: policy for name, policy in given.policies.items() if policy.session == session}
        total += published_bound(own, [a for a in given.arrivals if a.stream in own], given.world.speed)
    return total


def _quantile(ordered: Sequence[float], share: float) -> float | None:
    return round(ordered[max(0, min(len(ordered) - 1, round(share * len(ordered)) - 1))], 3) if ordered else None


def _table(figures: Mapping[str, Any]) -> str:
    """Return the figures as people read them: a line a stream, causes that occur as columns."""
    causes = [c for c in CAUSES if any(stream["ledger"][c] for stream in figures["streams"].values())]
    rows = [["stream", "captured", *causes, "age p50", "p99", "max (ms)"]]
    for name, stream in figures["streams"].items():
        ages = ["-" if age is None else f"{age:.1f}" for age in stream["age_ms"].values()]
        rows.append([name, *(str(stream["ledger"][key]) for key in ("captured", *causes)), *ages])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    goodput = "-" if figures["goodput"] is None else f"{figures['goodput']:.3f}"
    return "\n".join(
        [
            f"{figures['trace']}; {figures['seconds']:.1f} s",
            *lines,
            f"published {figures['published_per_s']:.2f} a second; sessions busy {100 * figures['busy']:.0f}%",
            f"goodput {goodput} of the {figures['published_possible']} that a clairvoyant scheduler could publish at "
            f"most; fairness (Jain) {figures['fairness']:.3f}",
        ]
    )
