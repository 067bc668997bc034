"""What is kept of health, how often, and what a disk can do to it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.doctor.bundle import PART_BYTES_MAX
from agent.history import BYTES_MAX, EVERY_NS, FILE, HealthHistory, read_history
from tests.fakes import ManualClock


def test_a_document_in_five_minutes_and_the_last_one(tmp_path: Path) -> None:
    """However often health is sent; with the wall time of each."""
    clock = ManualClock()
    kept = HealthHistory(tmp_path, clock)
    for index in range(7):
        kept.add({"n": index})
        clock.ns += EVERY_NS // 3
    kept.add({"n": 7}, is_last=True)
    lines = [json.loads(line) for line in read_history(tmp_path).splitlines()]
    assert [line["n"] for line in lines] == [0, 3, 6, 7]
    assert lines[0]["at"].endswith("Z")
    assert (tmp_path / FILE).stat().st_mode & 0o077 == 0


def test_two_files_of_bounded_size(tmp_path: Path) -> None:
    """The oldest go; what is read is in order."""
    kept = HealthHistory(tmp_path, ManualClock())
    for index in range(30):
        kept.add({"n": index, "x": "y" * (BYTES_MAX // 10)}, is_last=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == [FILE, f"{FILE}.1"]
    assert all(file.stat().st_size <= BYTES_MAX for file in tmp_path.iterdir())
    numbers = [json.loads(line)["n"] for line in read_history(tmp_path).splitlines()]
    assert numbers == list(range(numbers[0], 30))
    assert len(numbers) >= 9


def test_a_disk_that_takes_nothing_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Full or read-only; it is tried again, and nothing else stops."""
    (tmp_path / FILE).mkdir()
    kept = HealthHistory(tmp_path, ManualClock())
    kept.add({}, is_last=True)
    kept.add({}, is_last=True)
    assert caplog.text.count("cannot be written") == 1
    (tmp_path / FILE).rmdir()
    kept.add({"n": 1}, is_last=True)
    assert '"n":1' in read_history(tmp_path)


def test_without_a_state_folder_nothing_is_kept_and_nothing_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """At a desk the default folder is absent."""
    HealthHistory(tmp_path / "absent", ManualClock()).add({})
    assert caplog.text == ""
    assert read_history(tmp_path / "absent") == ""
    assert not (tmp_path / "absent").exists()


def test_the_sum_of_the_limits() -> None:
    """Both files fit into one part of a bundle."""
    assert 2 * BYTES_MAX <= PART_BYTES_MAX
