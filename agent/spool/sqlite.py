"""The spool in one SQLite file: a table a kind, rows in the order of their acceptance.

Write-ahead log with synchronous=NORMAL: a commit is one sequential write without fsync, so that a killed agent loses
nothing and a power cut at most what the last checkpoint had not reached; a `durable` write forces everything before
it onto the disk too. Measured here: docs/benchmarks.md.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar

from agent.errors import TransientError
from agent.interfaces import KeptMessage, SpoolDamagedError

FILE_NAME = "spool.db"
SCHEMA_VERSION = 1
PAGE_BYTES = 4096
WAL_PAGES = 1000
"""SQLite moves the log into the file at 4 MiB, which is what the log may take beside `spool.max_mb`."""
HEADROOM_BYTES = 4 << 20
"""A batch is written before the oldest are given up for it: 1 MiB (`core.spool_policy.BATCH_BYTES_MAX`) and a last
message of 1 MiB, twice that for their pages."""
ASIDE_MAX = 100
"""Refused and oversize messages that are kept for whoever looks into it; then the oldest goes."""
DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT)

_COLUMNS = "boot, seq, topic, stream, captured_at_ns, captured_wall_ns, body"
_TABLE = """
CREATE TABLE IF NOT EXISTS {kind} (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    boot TEXT NOT NULL, seq INTEGER NOT NULL, topic TEXT NOT NULL, stream TEXT NOT NULL,
    captured_at_ns INTEGER NOT NULL, captured_wall_ns INTEGER NOT NULL, body TEXT NOT NULL
)"""
_ASIDE = """
CREATE TABLE IF NOT EXISTS aside (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    reason TEXT NOT NULL, boot TEXT NOT NULL, seq INTEGER NOT NULL, topic TEXT NOT NULL, body TEXT NOT NULL
)"""

P = ParamSpec("P")
R = TypeVar("R")


class SqliteSpool:
    """See `interfaces.Spool`. One thread; holds a lock on its file, so that two agents cannot share it.

    Args:
        folder: for the file.
        kinds: of message; each has its own table, so that giving up the oldest of one needs no index.
        is_made: whether a missing folder is created.
        bytes_max: what the caller keeps to; the file is never larger than this and `HEADROOM_BYTES`.
    """

    def __init__(self, folder: Path, kinds: Sequence[str], *, is_made: bool, bytes_max: int) -> None:
        self._folder = folder
        self._kinds = tuple(kinds)
        self._is_made = is_made
        self._bytes_max = bytes_max
        self._database: sqlite3.Connection | None = None
        self.place = str(folder / FILE_NAME)

    def open(self) -> dict[str, int]:
        """See `Spool.open`."""
        self.close()
        return self._guarded(self._open)

    def write(self, messages: Sequence[KeptMessage], *, durable: bool) -> list[int]:
        """See `Spool.write`."""
        return self._guarded(self._write, messages, durable=durable)

    def read(self, kind: str, after: int, limit: int) -> list[tuple[int, KeptMessage]]:
        """See `Spool.read`."""

        def read() -> list[tuple[int, KeptMessage]]:
            query = f"SELECT id, {_COLUMNS} FROM {kind} WHERE id > ? ORDER BY id LIMIT ?"  # noqa: S608  Own names.
            return [(row[0], KeptMessage(kind, *row[1:])) for row in self._connected.execute(query, (after, limit))]

        return self._guarded(read)

    def delete(self, kind: str, rows: Sequence[int]) -> None:
        """See `Spool.delete`."""

        def delete() -> None:
            self._connected.execute("BEGIN")
            query = f"DELETE FROM {kind} WHERE id = ?"  # noqa: S608  Own names.
            self._connected.executemany(query, ((row,) for row in rows))
            self._connected.execute("COMMIT")

        self._guarded(delete)

    def set_aside(self, message: KeptMessage, reason: str) -> None:
        """See `Spool.set_aside`."""

        def insert() -> None:
            values = (reason, message.boot, message.seq, message.topic, message.body)
            self._connected.execute("BEGIN")
            self._connected.execute("INSERT INTO aside (reason, boot, seq, topic, body) VALUES (?,?,?,?,?)", values)
            self._connected.execute("DELETE FROM aside WHERE id <= (SELECT max(id) FROM aside) - ?", (ASIDE_MAX,))
            self._connected.execute("COMMIT")

        self._guarded(insert)

    def bytes_used(self) -> int:
        """See `Spool.bytes_used`."""

        def used() -> int:
            return PAGE_BYTES * (self._pragma("page_count") - self._pragma("freelist_count"))

        return self._guarded(used)

    def shrink(self) -> None:
        """See `Spool.shrink`: at most 256 pages, 1 MiB, a call."""
        # One page a step, and `execute` takes one step: only a script runs to its end.
        self._guarded(lambda: self._connected.executescript("PRAGMA incremental_vacuum(256)"))

    def replace(self) -> str:
        """See `Spool.replace`."""
        self.close()
        damaged = self._folder / f"{FILE_NAME}.damaged"
        try:
            Path(self.place).replace(damaged)
            for suffix in ("-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    Path(self.place + suffix).replace(f"{damaged}{suffix}")
        except OSError as error:
            raise TransientError(f"{self.place}: cannot be set aside: {error.strerror}") from error
        return str(damaged)

    def close(self) -> None:
        """See `Spool.close`."""
        database, self._database = self._database, None
        if database is not None:
            with contextlib.suppress(sqlite3.Error):
                database.close()

    @property
    def _connected(self) -> sqlite3.Connection:
        if self._database is None:
            raise TransientError(f"{self.place}: is not open")
        return self._database

    def _open(self) -> dict[str, int]:
        if self._is_made:
            self._folder.mkdir(parents=True, exist_ok=True)
        # Transactions are written out. The egress thread may open and another close: it is never used by two at once.
        # A file that another agent holds is refused at once: to wait would hold up live messages.
        database = self._database = sqlite3.connect(
            self.place, timeout=0, isolation_level=None, check_same_thread=False
        )
        settings = (
            f"PRAGMA page_size = {PAGE_BYTES}",
            "PRAGMA auto_vacuum = incremental",
            "PRAGMA locking_mode = exclusive",  # Two agents with one folder would send each other's messages.
            "PRAGMA journal_mode = wal",
            "PRAGMA synchronous = normal",
            f"PRAGMA wal_autocheckpoint = {WAL_PAGES}",
            f"PRAGMA journal_size_limit = {WAL_PAGES * PAGE_BYTES}",
            "PRAGMA cache_size = -1024",  # 1 MiB.
            f"PRAGMA max_page_count = {(self._bytes_max + HEADROOM_BYTES) // PAGE_BYTES}",
        )
        for setting in settings:
            database.execute(setting).fetchall()
        version = self._pragma("user_version")
        if version not in (0, SCHEMA_VERSION):
            raise SpoolDamagedError(f"{self.place}: has the format {version}, this version writes {SCHEMA_VERSION}")
        database.execute("BEGIN IMMEDIATE")
        for kind in self._kinds:
            database.execute(_TABLE.format(kind=kind))
        database.execute(_ASIDE)
        database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        database.execute("COMMIT")
        if database.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise SpoolDamagedError(f"{self.place}: is damaged")
        count = "SELECT count(*) FROM {kind}"
        return {kind: database.execute(count.format(kind=kind)).fetchone()[0] for kind in self._kinds}

    def _write(self, messages: Sequence[KeptMessage], *, durable: bool) -> list[int]:
        database = self._connected
        rows = []
        if durable:
            database.execute("PRAGMA synchronous = full")
        try:
            database.execute("BEGIN")
            for kept in messages:
                query = f"INSERT INTO {kept.kind} ({_COLUMNS}) VALUES (?,?,?,?,?,?,?)"  # noqa: S608  Own names.
                values = (kept.boot, kept.seq, kept.topic, kept.stream, kept.captured_at_ns, kept.captured_wall_ns)
                rows.append(database.execute(query, (*values, kept.body)).lastrowid or 0)
            database.execute("COMMIT")
        finally:
            if durable:
                with contextlib.suppress(sqlite3.Error):
                    database.execute("PRAGMA synchronous = normal")
        return rows

    def _pragma(self, name: str) -> int:
        return int(self._connected.execute(f"PRAGMA {name}").fetchone()[0])

    def _guarded(self, body: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Turn what SQLite and the disk say into the two errors that the caller tells apart."""
        try:
            return body(*args, **kwargs)
        except sqlite3.Error as error:
            self._roll_back()
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code in DAMAGED:
                raise SpoolDamagedError(f"{self.place}: {error}") from error
            raise TransientError(f"{self.place}: {error}") from error
        except OSError as error:
            raise TransientError(f"{self.place}: {error.strerror or error}") from error

    def _roll_back(self) -> None:
        if self._database is not None and self._database.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                self._database.execute("ROLLBACK")
