"""The spool's file: order, identity, limits, and what a bad disk or a second agent does to it."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.core.message import KEPT_KINDS
from agent.errors import TransientError
from agent.interfaces import KeptMessage, SpoolDamagedError
from agent.spool.sqlite import ASIDE_MAX, SqliteSpool
from tests.paths import REPOSITORY


def kept(seq: int, kind: str = "result", body: str = "{}") -> KeptMessage:
    """Build a message."""
    return KeptMessage(kind, "b00t", seq, f"{kind}s/door", "door", seq * 10, 10**18 + seq, body)


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[SqliteSpool]:
    """Open a spool in a new folder."""
    made = SqliteSpool(tmp_path / "state" / "of" / "porch", KEPT_KINDS, is_made=True, bytes_max=1 << 20)
    assert made.open() == {"result": 0, "event": 0}
    yield made
    made.close()


def test_what_is_written_comes_back_oldest_first(spool: SqliteSpool) -> None:
    """Each kind in its own order, every field as it was, from above a row."""
    written = [kept(1), kept(2, "event", '{"event":"source_lost","größe":1}'), kept(3)]
    rows = spool.write(written, durable=True)
    assert spool.read("result", 0, 10) == [(rows[0], written[0]), (rows[2], written[2])]
    assert spool.read("event", 0, 10) == [(rows[1], written[1])]
    assert spool.read("result", rows[0], 10) == [(rows[2], written[2])]
    assert spool.open() == {"result": 2, "event": 1}


def test_a_row_is_never_used_twice(spool: SqliteSpool) -> None:
    """Also after a restart: a late deletion must not hit another message."""
    (first,) = spool.write([kept(1)], durable=False)
    spool.delete("result", [first, 999])
    spool.open()
    (second,) = spool.write([kept(2)], durable=False)
    assert second > first


def test_space_is_given_back(spool: SqliteSpool) -> None:
    """After an outage the file shrinks, a little at a time."""
    rows = spool.write([kept(seq, body="x" * 1000) for seq in range(2000)], durable=False)
    full_bytes = spool.bytes_used()
    spool.delete("result", rows)
    assert spool.bytes_used() < full_bytes / 10
    for _ in range(10):
        spool.shrink()
    spool.close()
    assert Path(spool.place).stat().st_size < full_bytes / 2


def test_a_disk_that_is_full_loses_nothing_that_was_there(tmp_path: Path) -> None:
    """A batch is written as a whole or not at all, and reading and deleting go on."""
    spool = SqliteSpool(tmp_path, KEPT_KINDS, is_made=False, bytes_max=100_000)
    spool.open()
    rows: list[int] = []

    def fill() -> None:
        for number in range(100):
            rows.extend(spool.write([kept(number * 100 + n, body="x" * 1000) for n in range(100)], durable=False))

    with pytest.raises(TransientError, match="full"):
        fill()
    assert rows
    assert spool.open()["result"] == len(rows)
    spool.delete("result", rows)
    assert spool.write([kept(1)], durable=True)
    spool.close()


def test_a_folder_that_cannot_be_made_is_a_fault_of_the_moment(tmp_path: Path) -> None:
    """A file stands in its way; also a folder that does not exist and is not ours to make."""
    (tmp_path / "state").write_text("no folder")
    for folder, is_made in ((tmp_path / "state" / "x", True), (tmp_path / "absent", False)):
        spool = SqliteSpool(folder, KEPT_KINDS, is_made=is_made, bytes_max=1 << 20)
        with pytest.raises(TransientError, match=str(folder)):
            spool.open()
        with pytest.raises(TransientError):
            spool.write([kept(1)], durable=False)


@pytest.mark.parametrize("damage", ["text", "header", "pages", "future", "empty wal"])
def test_a_damaged_file_is_told_from_a_disk_that_fails(tmp_path: Path, damage: str) -> None:
    """Nonsense is set aside and a new file begun; a later second damaged file takes the place of the first."""
    spool = SqliteSpool(tmp_path, KEPT_KINDS, is_made=False, bytes_max=1 << 24)
    spool.open()
    spool.write([kept(seq, body="x" * 500) for seq in range(500)], durable=True)
    spool.close()
    file = tmp_path / "spool.db"
    content = bytearray(file.read_bytes())
    if damage == "text":
        content = bytearray(b"this is no database, it only has its name\n" * 200)
    elif damage == "header":
        content[0:16] = b"\x00" * 16
    elif damage == "pages":
        for page in range(2, len(content) // 4096):
            content[page * 4096 : page * 4096 + 64] = b"\xff" * 64
    elif damage == "future":
        with sqlite3.connect(file) as database:
            database.execute("PRAGMA user_version = 99")
        database.close()
        content = bytearray(file.read_bytes())
    else:
        (tmp_path / "spool.db-wal").write_bytes(b"nonsense" * 100)
    file.write_bytes(content)
    if damage == "empty wal":
        assert spool.open()["result"] == 500  # A log that makes no sense ends where it stops making sense.
        spool.close()
        return
    with pytest.raises(SpoolDamagedError):
        spool.open()
    (tmp_path / "spool.db.damaged").write_text("an older one")
    assert spool.replace() == str(tmp_path / "spool.db.damaged")
    assert spool.open() == {"result": 0, "event": 0}
    assert (tmp_path / "spool.db.damaged").stat().st_size > 100
    spool.close()


def test_two_agents_cannot_share_a_folder(spool: SqliteSpool) -> None:
    """The second one is refused at once and runs from memory; it would send the first one's messages."""
    other = SqliteSpool(Path(spool.place).parent, KEPT_KINDS, is_made=False, bytes_max=1 << 20)
    with pytest.raises(TransientError, match="locked"):
        other.open()
    other.close()
    assert spool.write([kept(1)], durable=False)


def test_a_killed_writer_leaves_what_it_committed(tmp_path: Path) -> None:
    """No close, no checkpoint: the log is read at the next start."""
    program = (
        "import os, sys; from pathlib import Path; from tests.unit.spool.test_sqlite import kept, SqliteSpool\n"
        "spool = SqliteSpool(Path(sys.argv[1]), ('result', 'event'), is_made=False, bytes_max=1 << 20)\n"
        "spool.open(); spool.write([kept(seq) for seq in range(50)], durable=False); os.kill(os.getpid(), 9)"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=REPOSITORY, timeout=60, check=False)
    assert ended.returncode == -9
    spool = SqliteSpool(tmp_path, KEPT_KINDS, is_made=False, bytes_max=1 << 20)
    assert spool.open() == {"result": 50, "event": 0}
    spool.close()


def test_what_is_set_aside_is_bounded_and_never_replayed(spool: SqliteSpool) -> None:
    """The newest 100."""
    for seq in range(ASIDE_MAX + 20):
        spool.set_aside(kept(seq), "refused: Not authorized")
    assert spool.read("result", 0, 10) == []
    spool.close()
    with sqlite3.connect(spool.place) as database:
        aside = database.execute("SELECT seq, reason FROM aside ORDER BY id").fetchall()
    database.close()
    assert len(aside) == ASIDE_MAX
    assert aside[-1] == (ASIDE_MAX + 19, "refused: Not authorized")


def test_closing_twice_and_using_a_closed_spool(spool: SqliteSpool) -> None:
    """A stop may come at any moment."""
    spool.close()
    spool.close()
    with pytest.raises(TransientError, match="is not open"):
        spool.bytes_used()
