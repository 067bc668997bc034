"""A recorded trace: what arrived and how long it took, one JSON object a line.

The first line describes the streams; then `{"a": captured_at_ns, "o": arrived_at_ns, "s": stream}` for each frame and
`{"r": started_ns, "s": stream, "f": captured_at_ns, "d": duration_ns, "e": ending}` for each run. Times are those of
the device's clock.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from agent.core.scheduler import Ending, Overflow, SchedulerPolicy, StreamPolicy
from agent.core.simulation import Arrival

VERSION = 1


@dataclass(frozen=True, slots=True)
class Recording:
    """A trace, ready to be simulated.

    Attributes:
        policies: by stream name.
        scheduling: threads of the device and of each session.
        arrivals: in order; times begin at 0.
        runs: how many of them were run on the device and ended by themselves.
    """

    policies: dict[str, StreamPolicy]
    scheduling: SchedulerPolicy
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
    threads = {"threads": scheduling.threads, "run_threads": scheduling.run_threads}
    return json.dumps({"edgebeat_trace": VERSION, "streams": streams, **threads}, separators=(",", ":"))


def arrival_line(stream: str, captured_at_ns: int, arrived_at_ns: int) -> str:
    """Return the line of a captured frame."""
    return json.dumps({"a": captured_at_ns, "o": arrived_at_ns, "s": stream}, separators=(",", ":"))


def run_line(stream: str, captured_at_ns: int, started_ns: int, ended_ns: int, ending: Ending) -> str:
    """Return the line of a run."""
    values = {"r": started_ns, "s": stream, "f": captured_at_ns, "d": ended_ns - started_ns, "e": ending.value}
    return json.dumps(values, separators=(",", ":"))


def parse(lines: Iterable[str]) -> Recording:
    """Read a trace.

    A frame that was run to its end takes in the simulation what it took then. The others take what the run before
    them took on their stream; an aborted run tells at least that it needed more.

    Raises:
        ValueError: with the number of the line that is wrong, and why.
    """
    policies: dict[str, StreamPolicy] = {}
    scheduling = SchedulerPolicy()
    captured: list[tuple[int, int, str]] = []
    took: dict[tuple[str, int], int] = {}
    for number, line in enumerate(lines, 1):
        try:
            values = json.loads(line)
            if number == 1:
                policies, scheduling = _parse_header(values)
            elif "a" in values:
                captured.append((int(values["a"]), int(values["o"]), _known(values["s"], policies)))
            else:
                needed = int(values["d"]) * (3 if values["e"] == Ending.ABORTED.value else 2) // 2
                took[_known(values["s"], policies), int(values["f"])] = needed
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"line {number}: is not a line of a trace: {error}") from error
    if not captured or not took:
        raise ValueError("holds no captured frame, or no run: record it for longer")
    captured.sort()
    begin_ns = captured[0][0]
    known = {name: [work for (stream, _), work in took.items() if stream == name] for name in policies}
    all_known = [work for works in known.values() for work in works]
    last = {name: round(statistics.median(works or all_known)) for name, works in known.items()}
    arrivals = []
    for at_ns, arrived_ns, stream in captured:
        last[stream] = took.get((stream, at_ns), last[stream])
        latency_ns = max(0, arrived_ns - at_ns)
        arrivals.append(Arrival(at_ns - begin_ns, stream, max(1, last[stream]), latency_ns=latency_ns))
    return Recording(policies, scheduling, arrivals, len(took))


def _parse_header(values: Mapping[str, Any]) -> tuple[dict[str, StreamPolicy], SchedulerPolicy]:
    if values.get("edgebeat_trace") != VERSION:
        raise ValueError(f"the first line must hold edgebeat_trace = {VERSION}")
    policies = {
        str(name): StreamPolicy(**{**stream, "overflow": Overflow(stream["overflow"])})
        for name, stream in values["streams"].items()
    }
    return policies, SchedulerPolicy(threads=int(values["threads"]), run_threads=int(values["run_threads"]))


def _known(stream: Any, policies: Mapping[str, StreamPolicy]) -> str:
    if stream not in policies:
        raise ValueError(f"stream {stream!r} is not in the first line")
    return str(stream)
