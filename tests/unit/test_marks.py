"""Models that hung, remembered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.marks import ENTRIES_MAX, Marks

DAY_NS = 24 * 3600 * 10**9
NOW_NS = 1_700_000_000 * 10**9


def test_hangs_are_counted_over_restarts(tmp_path: Path) -> None:
    """Another run reads what the last one wrote; a folder that is missing is made."""
    folder = tmp_path / "state"
    first = Marks(folder)
    assert first.add(["a" * 64, "c" * 64], "seen", NOW_NS) == 1
    first.save()
    again = Marks(folder)
    assert again.hangs(["a" * 64, "b" * 64], NOW_NS) == 1
    assert again.add(["a" * 64, "c" * 64], "seen", NOW_NS) == 2
    assert again.hangs(["c" * 64, "a" * 64], NOW_NS) == 2


def test_a_day_without_a_hang_forgets_it(tmp_path: Path) -> None:
    """It ran well since."""
    marks = Marks(tmp_path)
    marks.add(["a" * 64], "seen", NOW_NS)
    marks.save()
    assert Marks(tmp_path).hangs(["a" * 64], NOW_NS + DAY_NS) == 0


def test_marks_are_carried_where_nothing_can_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The state folder is a file: said so, and the next run gets them in the handover."""
    blocked = tmp_path / "state"
    blocked.write_text("")
    marks = Marks(blocked / "deeper")
    assert marks.add(["a" * 64], "seen", NOW_NS) == 1
    marks.save()
    assert "cannot be written" in caplog.text
    assert Marks(blocked / "deeper", marks.export()).hangs(["a" * 64], NOW_NS) == 1


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1}', '{"a": {"hangs": "2"}}', "\x00" * 20, "[" * 100_000])
def test_a_damaged_file_holds_no_marks(tmp_path: Path, text: str) -> None:
    """A power cut or a hand left nonsense: the agent starts."""
    (tmp_path / "marks.json").write_text(text)
    marks = Marks(tmp_path)
    assert marks.export() == {}
    assert marks.add(["a" * 64], "seen", NOW_NS) == 1
    marks.save()
    assert json.loads((tmp_path / "marks.json").read_text())["a" * 64]["hangs"] == 1


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    """The file cannot grow for ever."""
    marks = Marks(tmp_path)
    for index in range(ENTRIES_MAX + 5):
        marks.add([f"{index:064d}"], "seen", NOW_NS + index * 10**9)
    marks.save()
    assert len(json.loads(marks.file.read_text())) == ENTRIES_MAX
    assert marks.hangs([f"{ENTRIES_MAX + 4:064d}"], NOW_NS) == 1
