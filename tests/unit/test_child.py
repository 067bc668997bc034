"""A child process is heard line by line, and ends when its time is over."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from agent.child import stream_child

JOB = {"settings": {}, "nice": 0, "cpus": None, "limit_bytes": None, "target": {"fps": 1, "deadline_ms": 1}}


def test_a_child_that_takes_too_long_is_killed() -> None:
    """It cannot even import what it needs in that time."""
    with pytest.raises(subprocess.TimeoutExpired):
        stream_child("agent.tuning_child", JOB, 0.05, lambda _: None)


def test_a_child_that_crashes_gives_no_reply_and_its_exit_code() -> None:
    """A job that lacks something is a bug of ours, which the child does not hide."""
    heard: list[dict[str, Any]] = []
    assert stream_child("agent.tuning_child", JOB, 60, heard.append) == ({}, 1)
    assert heard == []
