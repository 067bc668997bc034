"""A recorded trace: what arrived and how long it took, one JSON object a line.

The first line describes the streams and the scheduler's policy; then `{"a": captured_at_ns, "o": arrived_at_ns, "s":
stream}` for each frame and `{"r": started_ns, "s": stream, "f": captured_at_ns, "d": duration_ns, "e": ending}` for
each run. Times are those of the device's clock.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from agent.core.policy import Overflow, SchedulerPolicy, StreamPolicy
from agent.core.predictor import PredictorPolicy
from agent.core.scheduler import Ending
from agent.core.simulation import Arrival

VERSION = 2

THREADS_ONLY = 1
"""The version before: of the scheduler's policy it told the threads alone."""


@dataclass(frozen=True, slots=True)
class Recording:
    """A trace, ready to be simulated.

    Attributes:
        policies: by stream name.
        scheduling: what the device scheduled by.
        has_scheduling: all of that was recorded; else it is the threads, and defaults for the rest.
        arrivals: in order; times begin at 0.
        runs: how many of them were run on the device, to whatever end.
    """

    policies: dict[str, StreamPolicy]
    scheduling: SchedulerPolicy
    has_scheduling: bool
    arrivals: list[Arrival]
    runs: int


def header(policies: Mapping[str, StreamPolicy], scheduling: SchedulerPolicy) -> str:
    """Return the first line of a trace."""
    streams = {
        name: {
            "budget_ns": policy.budget_ns,
            "queue_frames": policy.queue_frames,
            "overflow": policy.overflow.value,
            "late_is_published": policy.late_is_published,
            "session": policy.session,
            "priority": policy.priority,
            "max_hz": policy.max_hz,
            "stride": policy.stride,
        }
        for name, policy in policies.items()
    }
    head = {"edgebeat_trace": VERSION, "streams": streams, "scheduling": asdict(scheduling)}
    return json.dumps(head, separators=(",", ":"))


def arrival_line(stream: str, captured_at_ns: int, arrived_at_ns: int) -> str:
    """Return the line of a captured frame."""
    return json.dumps({"a": captured_at_ns, "o": arrived_at_ns, "s": stream}, separators=(",", ":"))


def run_line(stream: str, captured_at_ns: int, started_ns: int, ended_ns: int, ending: Ending) -> str:
    """Return the line of a run."""
    values = {"r": started_ns, "s": stream, "f": captured_at_ns, "d": ended_ns - started_ns, "e": ending.value}
    return json.dumps(values, separators=(",", ":"))


def parse(lines: Iterable[str]) -> Recording:
    """Read a trace.

    A frame that was run to its end takes in the simulation what it took then, and fails again where it failed. The
    others take what the last run took on their stream that did not fail; an aborted run tells at least that it needed
    more.

    Raises:
        ValueError: with the number of the line that is wrong, and why.
    """
    head = _Head({}, SchedulerPolicy(), has_scheduling=False)
    captured: list[tuple[int, int, str]] = []
    runs: dict[tuple[str, int], _Run] = {}
    for number, line in enumerate(lines, 1):
        try:
            values = json.loads(line)
            if number == 1:
                head = _parse_header(values)
            elif "a" in values:
                captured.append((int(values["a"]), int(values["o"]), _known(values["s"], head.policies)))
            else:
                runs[_known(values["s"], head.policies), int(values["f"])] = _parse_run(values)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"line {number}: is not a line of a trace: {error}") from error
    if not captured or not runs:
        raise ValueError("holds no captured frame, or no run: record it for longer")
    captured.sort()
    begin_ns = captured[0][0]
    last_ns = _typical_ns(runs, head.policies)
    arrivals = []
    for at_ns, arrived_ns, stream in captured:
        run = runs.get((stream, at_ns)) or _Run(last_ns[stream])
        if not run.fails:
            last_ns[stream] = run.work_ns
        latency_ns = max(0, arrived_ns - at_ns)
        arrivals.append(Arrival(at_ns - begin_ns, stream, max(1, run.work_ns), run.fails, latency_ns))
    return Recording(head.policies, head.scheduling, head.has_scheduling, arrivals, len(runs))


@dataclass(frozen=True, slots=True)
class _Head:
    policies: dict[str, StreamPolicy]
    scheduling: SchedulerPolicy
    has_scheduling: bool


@dataclass(frozen=True, slots=True)
class _Run:
    work_ns: int
    fails: bool = False


def _parse_header(values: Mapping[str, Any]) -> _Head:
    version = values.get("edgebeat_trace")
    if version not in (VERSION, THREADS_ONLY):
        raise ValueError(f"the first line must hold edgebeat_trace = {VERSION}, or {THREADS_ONLY}")
    policies = {
        str(name): StreamPolicy(**{**stream, "overflow": Overflow(stream["overflow"])})
        for name, stream in values["streams"].items()
    }
    if version == THREADS_ONLY:
        threads = SchedulerPolicy(threads=int(values["threads"]), run_threads=int(values["run_threads"]))
        return _Head(policies, threads, has_scheduling=False)
    predictor = _numbers_above_0(values["scheduling"]["predictor"])
    rest = {key: value for key, value in values["scheduling"].items() if key != "predictor"}
    scheduling = SchedulerPolicy(predictor=PredictorPolicy(**predictor), **_numbers_above_0(rest))
    return _Head(policies, scheduling, has_scheduling=True)


def _numbers_above_0(values: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in values.items():
        if not value > 0:
            raise ValueError(f"{key} = {value} is not above 0")
    return dict(values)


def _parse_run(values: Mapping[str, Any]) -> _Run:
    ending = Ending(values["e"])
    needed_ns = int(values["d"]) * (3 if ending is Ending.ABORTED else 2) // 2
    return _Run(needed_ns, fails=ending is Ending.FAILED)


def _typical_ns(runs: Mapping[tuple[str, int], _Run], policies: Mapping[str, StreamPolicy]) -> dict[str, int]:
    """Return the median of each stream's runs that did not fail; of all streams where it has none of its own."""
    good = {key: run.work_ns for key, run in runs.items() if not run.fails}
    works = {name: [work_ns for (stream, _), work_ns in good.items() if stream == name] for name in policies}
    any_works = list(good.values()) or [run.work_ns for run in runs.values()]
    return {name: round(statistics.median(own or any_works)) for name, own in works.items()}


def _known(stream: Any, policies: Mapping[str, StreamPolicy]) -> str:
    if stream not in policies:
        raise ValueError(f"stream {stream!r} is not in the first line")
    return str(stream)
