"""The trace recorder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from agent.clock import NS_PER_MS
from agent.core.policy import SchedulerPolicy, StreamPolicy
from agent.core.scheduler import Ending
from agent.core.trace import parse
from agent.errors import ConfigError
from agent.frame import Frame
from agent.loops.trace import TraceRecorder
from tests.fakes import ManualClock

MS = NS_PER_MS
POLICIES = {"door": StreamPolicy(250 * MS, session="seen", priority=7)}
SCHEDULING = SchedulerPolicy(threads=2, run_threads=2)


def test_the_recorder_writes_what_happened(tmp_path: Path) -> None:
    """Arrivals and runs reach the file, at the latest at the end."""
    file = tmp_path / "trace.ndjson"
    recorder = TraceRecorder(file, POLICIES, SCHEDULING, ManualClock())
    frame = Frame("door", 1, 10 * MS, 260 * MS, np.zeros((1, 1, 3), np.uint8))
    recorder.arrived("door", 10 * MS, 12 * MS)
    recorder.ran(frame, 11 * MS, 31 * MS, Ending.DONE)
    recorder.stop()
    recorder.run()
    (arrival,) = parse(file.read_text().splitlines()).arrivals
    assert (arrival.work_ns, arrival.latency_ns) == (20 * MS, 2 * MS)
    assert json.loads(file.read_text().splitlines()[0])["streams"]["door"]["priority"] == 7


def test_a_trace_that_cannot_be_written_is_refused_at_start(tmp_path: Path) -> None:
    """Before the first thread runs."""
    with pytest.raises(ConfigError, match=r"--record-trace .*: cannot be written: No such file"):
        TraceRecorder(tmp_path / "no" / "trace", POLICIES, SCHEDULING, ManualClock())


def test_a_disk_that_is_full_costs_lines_and_not_the_agent() -> None:
    """/dev/full takes the first bytes into its buffer and refuses them at the flush."""
    recorder = TraceRecorder(Path("/dev/full"), POLICIES, SCHEDULING, ManualClock())
    for index in range(3):
        recorder.arrived("door", index, index)
    recorder.stop()
    recorder.run()
    assert recorder.lost >= 1


def test_a_restart_continues_the_file(tmp_path: Path) -> None:
    """What led to the hang is what its reader wants to see."""
    file = tmp_path / "trace.ndjson"
    for is_continued in (False, True):
        recorder = TraceRecorder(file, POLICIES, SCHEDULING, ManualClock(), is_continued=is_continued)
        recorder.arrived("door", 10 * MS, 10 * MS)
        recorder.stop()
        recorder.run()
    lines = file.read_text().splitlines()
    assert [("edgebeat_trace" in line, '"a"' in line) for line in lines] == [
        (True, False),
        (False, True),
        (False, True),
    ]
