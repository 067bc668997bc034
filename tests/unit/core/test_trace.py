"""Recorded traces: read, and refused with a line."""

from __future__ import annotations

import pytest

from agent.clock import NS_PER_MS
from agent.core.scheduler import Ending, Overflow, SchedulerPolicy, StreamPolicy
from agent.core.trace import arrival_line, header, parse, run_line

MS = NS_PER_MS
POLICIES = {
    "door": StreamPolicy(250 * MS, session="seen", priority=7, max_hz=10.0, stride=2),
    "file": StreamPolicy(None, 4, Overflow.BLOCK, session="seen"),
}
SCHEDULING = SchedulerPolicy(threads=2, run_threads=2)
HEAD = header(POLICIES, SCHEDULING)


def test_what_was_recorded_is_read_again() -> None:
    """Policies and threads as they were; times from 0; each frame with what it took, or the one before it."""
    begin = 5_000 * MS
    lines = [
        HEAD,
        *(arrival_line("door", begin + at * MS, begin + (at + 5) * MS) for at in (0, 100, 200, 300)),
        run_line("door", begin, begin, begin + 40 * MS, Ending.DONE),
        run_line("door", begin + 200 * MS, begin + 200 * MS, begin + 300 * MS, Ending.ABORTED),
    ]
    recording = parse(lines)
    assert recording.policies == POLICIES
    assert (recording.scheduling.threads, recording.scheduling.run_threads) == (2, 2)
    assert [arrival.at_ns // MS for arrival in recording.arrivals] == [0, 100, 200, 300]
    assert [arrival.work_ns // MS for arrival in recording.arrivals] == [40, 40, 150, 150]
    assert {arrival.latency_ns for arrival in recording.arrivals} == {5 * MS}
    assert recording.runs == 2


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "no captured frame"),
        ([HEAD], "no captured frame"),
        (["{}"], "line 1: .*edgebeat_trace"),
        (["nonsense"], "line 1: "),
        (["[]"], "line 1: "),
        ([HEAD.replace("supersede", "keep")], "line 1: .*keep"),
        ([HEAD, arrival_line("yard", 1, 1)], "line 2: .*'yard' is not in the first line"),
        ([HEAD, '{"s":"door"}'], "line 2: "),
        ([HEAD, '{"a":"now","s":"door"}'], "line 2: "),
    ],
)
def test_what_is_no_trace_is_refused_with_its_line(lines: list[str], said: str) -> None:
    """Truncated, damaged or something else."""
    with pytest.raises(ValueError, match=said):
        parse(lines)
