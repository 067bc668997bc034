"""A recorded trace: what arrived and how long it took, one JSON object a line.

The first line describes the streams and the scheduler's policy; then `{"a": captured_at_ns, "o": arrived_at_ns, "s":
stream}` for each frame and `{"r": started_ns, "s": stream, "f": captured_at_ns, "d": duration_ns, "e": ending}` for
each run. Times are those of the device's clock.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from agent.clock import NEVER_NS
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
        ValueError: in one line, with the number of the line that is wrong, and why.
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
                captured.append((_ns(values, "a"), _ns(values, "o"), _known(values["s"], head.policies)))
            else:
                runs[_known(values["s"], head.policies), _ns(values, "f")] = _parse_run(values)
        except RecursionError:
            raise ValueError(f"line {number}: is not a line of a trace: it is nested too deeply") from None
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


class _Allowed(NamedTuple):
    """What a value of the first line may be: in words, and as a test."""

    words: str
    holds: Callable[[Any], bool]


def _is_whole(value: Any, least: int = 0) -> bool:
    # JSON's true would be Python's 1.
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= NEVER_NS


def _is_number(value: Any, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= most


_OVERFLOWS = [overflow.value for overflow in Overflow]
_COUNT = _Allowed("a whole number above 0", lambda value: _is_whole(value, 1))
_SHARE = _Allowed("a number above 0, to 1", lambda value: _is_number(value, 1))
_PART = _Allowed("an object", lambda value: isinstance(value, dict))

_STREAM = {
    "budget_ns": _Allowed("null or a whole number above 0", lambda value: value is None or _is_whole(value, 1)),
    "queue_frames": _COUNT,
    "overflow": _Allowed(f"one of {', '.join(_OVERFLOWS)}", lambda value: value in _OVERFLOWS),
    "late_is_published": _Allowed("true or false", lambda value: isinstance(value, bool)),
    "session": _Allowed("a text", lambda value: isinstance(value, str)),
    "priority": _Allowed("a whole number from 0 to 9", lambda value: _is_whole(value) and value <= 9),
    "max_hz": _Allowed("null or a number above 0, to 1000", lambda value: value is None or _is_number(value, 1000)),
    "stride": _COUNT,
}
_SCHEDULING = {"threads": _COUNT, "run_threads": _COUNT, "min_share": _SHARE, "predictor": _PART}
_PREDICTOR = {"confidence": _SHARE, "window_ns": _COUNT, "probe_share": _SHARE, "probe_interval_ns": _COUNT}


def _parse_header(values: Mapping[str, Any]) -> _Head:
    version = values.get("edgebeat_trace")
    if version not in (VERSION, THREADS_ONLY):
        raise ValueError(f"the first line must hold edgebeat_trace = {VERSION}, or {THREADS_ONLY}")
    streams = _checked({"streams": values.get("streams")}, {"streams": _PART}, "")["streams"]
    policies = {name: _parse_stream(stream, f"streams.{name}") for name, stream in streams.items()}
    if version == THREADS_ONLY:
        threads = {key: values.get(key) for key in ("threads", "run_threads")}
        return _Head(policies, SchedulerPolicy(**_checked(threads, _SCHEDULING, "")), has_scheduling=False)
    scheduling = _checked(values.get("scheduling"), _SCHEDULING, "scheduling")
    predictor = _checked(scheduling.pop("predictor", {}), _PREDICTOR, "scheduling.predictor")
    policy = SchedulerPolicy(predictor=PredictorPolicy(**predictor), **scheduling)
    return _Head(policies, policy, has_scheduling=True)


def _parse_stream(values: Any, where: str) -> StreamPolicy:
    checked = _checked(values, _STREAM, where)
    missing = [key for key in ("budget_ns", "overflow") if key not in checked]
    if missing:
        raise ValueError(f"{where} lacks {' and '.join(missing)}")
    return StreamPolicy(**checked | {"overflow": Overflow(checked["overflow"])})


def _checked(values: Any, allowed: Mapping[str, _Allowed], where: str) -> dict[str, Any]:
    """Return a part of the first line once each of its values is one that the scheduler takes: people edit traces.

    Args:
        values: as they stand there.
        allowed: by name.
        where: names the part, for people.
    """
    if not _PART.holds(values):
        raise ValueError(f"{where} = {_shown(values)} is not {_PART.words}")
    for key, value in values.items():
        name = f"{where}.{key}" if where else key
        if key not in allowed:
            raise ValueError(f"{name[:80]} is not known: {where} has {', '.join(allowed)}")
        if not allowed[key].holds(value):
            raise ValueError(f"{name} = {_shown(value)} is not {allowed[key].words}")
    return dict(values)


def _shown(value: Any) -> str:
    return json.dumps(value)[:40]


def _parse_run(values: Mapping[str, Any]) -> _Run:
    ending = Ending(values["e"])
    needed_ns = _ns(values, "d") * (3 if ending is Ending.ABORTED else 2) // 2
    return _Run(needed_ns, fails=ending is Ending.FAILED)


def _typical_ns(runs: Mapping[tuple[str, int], _Run], policies: Mapping[str, StreamPolicy]) -> dict[str, int]:
    """Return the median of each stream's runs that did not fail; of all streams where it has none of its own."""
    good = {key: run.work_ns for key, run in runs.items() if not run.fails}
    works = {name: [work_ns for (stream, _), work_ns in good.items() if stream == name] for name in policies}
    any_works = list(good.values()) or [run.work_ns for run in runs.values()]
    return {name: round(statistics.median(own or any_works)) for name, own in works.items()}


def _ns(values: Mapping[str, Any], key: str) -> int:
    value = values[key]
    if not _is_whole(value):
        raise ValueError(f"{key} = {_shown(value)} is not a whole number from 0")
    return int(value)


def _known(stream: Any, policies: Mapping[str, StreamPolicy]) -> str:
    if stream not in policies:
        raise ValueError(f"stream {stream!r} is not in the first line")
    return str(stream)
