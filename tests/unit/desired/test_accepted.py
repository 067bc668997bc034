"""The state of remote settings on disk, and the log of who changed what."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.core.desired import Document
from agent.core.reconcile import GivenUp, Record
from agent.desired.accepted import FILE, AcceptedStore
from agent.desired.audit import BYTES_MAX, Audit
from agent.desired.audit import FILE as AUDIT_FILE
from tests.fakes import ManualClock

RECORD = Record(
    current=Document(8, {"streams": {"front.door": {"max_fps": 5}}}, "ada"),
    good=Document(7, {}),
    is_proven=False,
    version_max=9,
    digest_max="d",
    starts=2,
    on_time={"front.door": 0.97},
    must_deliver=("front.door",),
    given_up=GivenUp(9, "on_time", {"on_time": 0.1}),
)


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    """Nothing is lost on the way to the disk."""
    store = AcceptedStore(tmp_path / "state", may_make=True)
    assert store.load() == Record()
    store.save(RECORD)
    assert store.load() == RECORD
    assert (tmp_path / "state" / FILE).stat().st_mode & 0o777 == 0o600


def test_a_folder_that_is_not_ours_to_make_is_not_made(tmp_path: Path) -> None:
    """The default folder is the service manager's."""
    with pytest.raises(OSError, match="No such file"):
        AcceptedStore(tmp_path / "state", may_make=False).save(RECORD)


def test_a_part_of_a_file_is_never_read(tmp_path: Path) -> None:
    """A power cut in the middle of writing leaves the old state."""
    store = AcceptedStore(tmp_path, may_make=True)
    store.save(RECORD)
    (tmp_path / f".{FILE}.part").write_text('{"format":1,"curr')
    assert store.load() == RECORD


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", "null", '{"format":2}', '{"format":1,"current":5}', "[" * 100_000, "\x00" * 50]
)
def test_a_damaged_file_is_set_aside(tmp_path: Path, text: str) -> None:
    """The device goes on with its own settings, and somebody may look into the file."""
    (tmp_path / FILE).write_text(text)
    assert AcceptedStore(tmp_path, may_make=True).load() == Record()
    assert (tmp_path / f"{FILE}.damaged").read_text() == text
    assert not (tmp_path / FILE).exists()


def test_the_audit_is_appended_and_bounded(tmp_path: Path) -> None:
    """The file before is kept; together they stay below twice the limit."""
    audit = Audit(tmp_path, ManualClock())
    for number in range(60):
        audit.add("applied", {"version": number, "changes": {"x": "y" * 50_000}})
    files = sorted(tmp_path.glob(f"{AUDIT_FILE}*"))
    assert [file.name for file in files] == [AUDIT_FILE, f"{AUDIT_FILE}.1"]
    assert all(file.stat().st_size <= BYTES_MAX for file in files)
    lines = [json.loads(line) for file in reversed(files) for line in file.read_text().splitlines()]
    assert [line["version"] for line in lines] == list(range(60 - len(lines), 60))
    assert len(lines) > 30


def test_a_disk_that_takes_no_line_is_counted_and_stops_nothing(tmp_path: Path) -> None:
    """A way back must not depend on the log."""
    audit = Audit(tmp_path / "none", ManualClock())
    audit.add("applied", {})
    assert audit.failures == 1
