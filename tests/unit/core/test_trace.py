"""Recorded traces: read, and refused with a line."""

from __future__ import annotations

import json

import pytest

from agent.clock import NS_PER_MS
from agent.core.policy import Overflow, SchedulerPolicy, StreamPolicy
from agent.core.predictor import PredictorPolicy
from agent.core.scheduler import Ending
from agent.core.trace import arrival_line, header, parse, run_line

MS = NS_PER_MS
POLICIES = {
    "door": StreamPolicy(250 * MS, session="seen", priority=7, max_hz=10.0, stride=2),
    "file": StreamPolicy(None, 4, Overflow.BLOCK, session="seen"),
}
SCHEDULING = SchedulerPolicy(
    threads=2,
    run_threads=2,
    min_share=0.5,
    predictor=PredictorPolicy(confidence=0.6, window_ns=5 * MS, probe_share=0.1, probe_interval_ns=7 * MS),
)
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
    assert recording.scheduling == SCHEDULING
    assert recording.has_scheduling
    assert [arrival.at_ns // MS for arrival in recording.arrivals] == [0, 100, 200, 300]
    assert [arrival.work_ns // MS for arrival in recording.arrivals] == [40, 40, 150, 150]
    assert {arrival.latency_ns for arrival in recording.arrivals} == {5 * MS}
    assert recording.runs == 2


def test_a_trace_of_the_first_version_has_threads_alone() -> None:
    """Older files are still read; what they do not tell is the agent's default, and said to be."""
    head = json.loads(HEAD)
    head |= {"edgebeat_trace": 1, "threads": 3, "run_threads": 1}
    del head["scheduling"]
    recording = parse([json.dumps(head), arrival_line("door", 0, 0), run_line("door", 0, 0, 9, Ending.DONE)])
    assert recording.scheduling == SchedulerPolicy(threads=3)
    assert not recording.has_scheduling


def test_a_failed_run_fails_again_and_tells_nothing_of_the_others() -> None:
    """A frame of a wrong shape fails after 1 ms: the frames around it take what good runs took."""
    lines = [
        HEAD,
        *(arrival_line("door", at * MS, at * MS) for at in (0, 100, 200, 300)),
        run_line("door", 0, 0, 1 * MS, Ending.FAILED),
        run_line("door", 100 * MS, 100 * MS, 140 * MS, Ending.DONE),
        run_line("door", 200 * MS, 200 * MS, 201 * MS, Ending.FAILED),
    ]
    arrivals = parse(lines).arrivals
    assert [arrival.fails for arrival in arrivals] == [True, False, True, False]
    assert [arrival.work_ns // MS for arrival in arrivals] == [1, 40, 1, 40]


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
        ([HEAD, '{"r":1,"s":"door","f":1,"d":1,"e":"exploded"}'], "line 2: .*exploded"),
        ([HEAD.replace('"min_share":0.5', '"min_share":0')], "line 1: .*min_share"),
        ([HEAD.replace('"confidence":0.6', '"confidence":"high"')], "line 1: "),
        ([HEAD.replace('"probe_share"', '"probe_shares"')], "line 1: "),
        ([HEAD.replace('"edgebeat_trace":2', '"edgebeat_trace":3')], "line 1: .*edgebeat_trace"),
        ([HEAD, '{"a":"now","s":"door"}'], "line 2: "),
    ],
)
def test_what_is_no_trace_is_refused_with_its_line(lines: list[str], said: str) -> None:
    """Truncated, damaged or something else."""
    with pytest.raises(ValueError, match=said):
        parse(lines)
