"""The last commands and what was answered, over restarts and power cuts: `commands.jsonl` in the state folder."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agent.core.commands import REMEMBERED_MAX, Answered

log = logging.getLogger(__name__)

LINES_MAX = 2 * REMEMBERED_MAX
"""Then the file is written anew with what is remembered: at 300 bytes a line, 150 kB."""
FILE_BYTES_MAX = 4 << 20
"""Of a file that is read: twice what 512 of the longest lines take."""


class CommandJournal:
    """One line a command, appended; the file stays below `LINES_MAX` lines. The control thread.

    Where the folder cannot be written, the agent remembers until it ends, and says so once.

    Args:
        folder: `state.dir`.
        may_make: whether a folder that is absent is made; the default one is the service manager's to make.
    """

    def __init__(self, folder: Path, *, may_make: bool) -> None:
        self._file = folder / "commands.jsonl"
        self._may_make = may_make
        self._lines = 0
        self._is_said = False

    def read(self) -> list[Answered]:
        """Return what earlier runs answered, the oldest first; lines that a power cut left broken are left out."""
        try:
            with self._file.open("rb") as stream:
                lines = stream.read(FILE_BYTES_MAX).splitlines()
        except FileNotFoundError:
            return []
        except OSError as error:
            log.warning("%s: cannot be read (%s): commands of earlier runs are not known", self._file, error.strerror)
            return []
        self._lines = len(lines)
        return [entry for line in lines[-LINES_MAX:] if (entry := from_values(_parse(line))) is not None]

    def append(self, entry: Answered, known: Iterable[Answered], *, durable: bool) -> None:
        """Write one answer.

        Args:
            entry: the newest.
            known: everything that is remembered, with it.
            durable: whether a power cut that follows at once must not lose it; one fsync.
        """
        try:
            if self._may_make:
                self._file.parent.mkdir(parents=True, exist_ok=True)
            if self._lines >= LINES_MAX:
                self._write_anew(known)
            else:
                with self._file.open("ab") as stream:
                    # A power cut may have left half of a line: an empty line costs nothing, a joined one two answers.
                    stream.write(b"\n" * (not self._lines_are_whole(stream.tell())) + _encode(entry))
                    stream.flush()
                    if durable:
                        os.fsync(stream.fileno())
                self._lines += 1
        except OSError as error:
            if not self._is_said:
                log.warning(
                    "%s: cannot be written (%s): commands are remembered until the agent ends",
                    self._file,
                    error.strerror,
                )
            self._is_said = True

    def _lines_are_whole(self, size_bytes: int) -> bool:
        if not size_bytes:
            return True
        with self._file.open("rb") as stream:
            stream.seek(-1, os.SEEK_END)
            return stream.read(1) == b"\n"

    def _write_anew(self, known: Iterable[Answered]) -> None:
        partial = self._file.with_name(f".{self._file.name}.part")
        lines = [_encode(entry) for entry in known]
        with partial.open("wb") as stream:
            stream.writelines(lines)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(self._file)
        self._lines = len(lines)


def to_values(entry: Answered) -> dict[str, Any]:
    """Return an entry as it is written."""
    return asdict(entry)


def from_values(values: object) -> Answered | None:
    """Return an entry that was written before, None for what is none."""
    if not isinstance(values, dict) or not isinstance(values.get("body"), dict):
        return None
    texts = {name: values.get(name) for name in ("key", "name", "at", "asked_by")}
    if not all(isinstance(text, str) for text in texts.values()):
        return None
    return Answered(body=values["body"], **texts)  # type: ignore[arg-type]


def _encode(entry: Answered) -> bytes:
    return json.dumps(to_values(entry), separators=(",", ":")).encode() + b"\n"


def _parse(line: bytes) -> Mapping[str, Any] | None:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None
