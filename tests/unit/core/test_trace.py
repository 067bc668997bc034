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
        ([HEAD, '{"a":1e999,"o":1,"s":"door"}'], "line 2: .*a = Infinity is not a whole number from 0"),
        ([HEAD, '{"r":1,"s":"door","f":1,"d":-1,"e":"done"}'], "line 2: .*d = -1 is not a whole number from 0"),
        ([HEAD, "[" * 100_000], "line 2: .*nested too deeply"),
    ],
)
def test_what_is_no_trace_is_refused_with_its_line(lines: list[str], said: str) -> None:
    """Truncated, damaged or something else."""
    with pytest.raises(ValueError, match=said):
        parse(lines)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("budget_ns", "x", '"x" is not null or a whole number above 0'),
        ("budget_ns", -5, "-5 is not null or a whole number above 0"),
        ("budget_ns", 0, "0 is not null or a whole number above 0"),
        ("budget_ns", True, "true is not null or a whole number above 0"),
        ("budget_ns", 2.5, "2.5 is not null or a whole number above 0"),
        ("budget_ns", 10**400, "10+ is not null or a whole number above 0"),
        ("queue_frames", 0, "0 is not a whole number above 0"),
        ("overflow", "keep", '"keep" is not one of supersede, drop_oldest, block'),
        ("overflow", [], r"\[\] is not one of supersede"),
        ("late_is_published", 1, "1 is not true or false"),
        ("session", None, "null is not a text"),
        ("priority", 10, "10 is not a whole number from 0 to 9"),
        ("max_hz", -1, "-1 is not null or a number above 0, to 1000"),
        ("max_hz", float("nan"), "NaN is not null or a number above 0, to 1000"),
        ("stride", 0, "0 is not a whole number above 0"),
    ],
)
def test_a_stream_that_no_agent_could_have_is_refused(field: str, value: object, said: str) -> None:
    """One line with the name, the value and what is allowed."""
    head = json.loads(HEAD)
    head["streams"]["door"][field] = value
    with pytest.raises(ValueError, match=rf"^line 1: .*streams\.door\.{field} = {said}"):
        parse([json.dumps(head)])


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("streams",), [], r"streams = \[\] is not an object"),
        (("streams", "door"), 5, r"streams\.door = 5 is not an object"),
        (("streams", "door"), {"overflow": "block"}, r"streams\.door lacks budget_ns"),
        (("streams", "door", "fps"), 5, r"streams\.door\.fps is not known: streams\.door has budget_ns, "),
        (("scheduling",), None, "scheduling = null is not an object"),
        (("scheduling", "threads"), 1.5, r"scheduling\.threads = 1\.5 is not a whole number above 0"),
        (("scheduling", "min_share"), 2, r"scheduling\.min_share = 2 is not a number above 0, to 1"),
        (("scheduling", "predictor"), 1, r"scheduling\.predictor = 1 is not an object"),
        (("scheduling", "predictor", "window_ns"), -1, r"predictor\.window_ns = -1 is not a whole number above 0"),
    ],
)
def test_a_header_of_another_shape_is_refused(path: tuple[str, ...], value: object, said: str) -> None:
    """In the same words, whatever part of it is wrong."""
    head = json.loads(HEAD)
    part = head
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    with pytest.raises(ValueError, match=said):
        parse([json.dumps(head)])


def test_threads_of_the_first_version_are_checked_too() -> None:
    """They were the only numbers that it had beside the streams."""
    head = json.loads(HEAD) | {"edgebeat_trace": 1, "threads": 0, "run_threads": 1}
    with pytest.raises(ValueError, match="threads = 0 is not a whole number above 0"):
        parse([json.dumps(head)])
