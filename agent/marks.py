"""Which models hung, remembered over restarts."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from agent.json_file import read_json, write_json

log = logging.getLogger(__name__)

HANGS_MAX = 2
"""The first hang may have been the machine; after the second the model is not loaded again."""

FORGOTTEN_AFTER_S = 24 * 3600
"""A hang that is older does not count: the model ran well for a day."""

ENTRIES_MAX = 64
"""The newest are kept: four times the models that settings can name."""


class Marks:
    """Hangs by the SHA-256 of the network's file, in `marks.json` of the state folder.

    A new file has a new digest and starts without a mark; removing `marks.json` forgets all. Wall time is good enough
    here: a clock that was wrong makes a mark last longer or shorter. A hang is counted in memory and handed to the
    next run, which writes it: the disk may be what hangs.

    Args:
        folder: `state.dir`; where it cannot be written, marks last as long as they are handed from run to run.
        carried: marks of the run before this one, from `handover`.
        may_make: whether a folder that is absent is made; the default one is the service manager's to make.
    """

    def __init__(self, folder: Path, carried: Mapping[str, Any] | None = None, *, may_make: bool = True) -> None:
        self._file = folder / "marks.json"
        self._may_make = may_make
        self._marks: dict[str, dict[str, Any]] = {}
        for values in (read_json(self._file), carried or {}):
            self._marks.update({key: dict(value) for key, value in values.items() if _is_mark(value)})

    @property
    def file(self) -> Path:
        """Where the marks are kept."""
        return self._file

    def hangs(self, digests: Iterable[str], wall_ns: int) -> int:
        """Return how often networks with these digests hung in the last day."""
        marks = [self._marks.get(digest) for digest in digests]
        recent = [mark for mark in marks if mark and wall_ns / 1e9 - mark["last_s"] < FORGOTTEN_AFTER_S]
        return sum(mark["hangs"] for mark in recent)

    def add(self, digests: Iterable[str], model: str, wall_ns: int) -> int:
        """Count one hang of a model with these networks, in memory; return how many there are."""
        digests = sorted(digests)
        hangs = self.hangs(digests, wall_ns) + 1
        for digest in digests:
            self._marks.pop(digest, None)
        self._marks[digests[0]] = {"model": model, "hangs": hangs, "last_s": wall_ns // 10**9}
        newest = sorted(self._marks.items(), key=lambda item: item[1]["last_s"])[-ENTRIES_MAX:]
        self._marks = dict(newest)
        return hangs

    def save(self) -> None:
        """Write them to disk where that is possible. May hang with the disk: call it where nothing waits for it."""
        try:
            if self._may_make:
                self._file.parent.mkdir(parents=True, exist_ok=True)
            write_json(self._file, self._marks)
        except OSError as error:
            log.warning("%s: cannot be written (%s): the mark lasts until the agent ends", self._file, error.strerror)

    def export(self) -> dict[str, Any]:
        """Return all marks, for `handover`."""
        return dict(self._marks)


def _is_mark(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("hangs"), int)
        and isinstance(value.get("last_s"), int)
        and isinstance(value.get("model"), str)
    )
