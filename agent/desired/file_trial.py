"""What is on trial of a settings file that was read again, on disk: what no run survives must not be tried for ever.

The file stays as its operator wrote it, and a start reads it. What is kept here is which values are on trial, what
was in force before them, and how many runs did not live. A start that finds these values in the file counts itself
before it begins, as one on a document from afar does. Once they were given up, starts go on by what was before them,
until the file says something else, or somebody asks for it again with SIGHUP.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from agent.core.field_errors import cut, masked
from agent.core.reconcile import STARTS_MAX_UNPROVEN
from agent.durable import replace_file, set_aside, sync_folder
from agent.layers import Layers, Leaf
from agent.settings import Settings

log = logging.getLogger(__name__)

FILE = "settings-file.json"
FORMAT = 1
BYTES_MAX = 4 << 20
"""A settings file of 1 MiB has its paths and lines written out here."""
PROBLEMS_MAX, PROBLEM_CHARS_MAX = 5, 300
"""Of a file on which no run can start; a report carries them."""
LAST_GOOD = "last good "
"""Before the origin of a value that the file does not hold any more."""


@dataclass(frozen=True, slots=True)
class FileTrial:
    """Values of a settings file that are not proven. Every method returns the next state.

    Attributes:
        file: that was read again.
        digest: of its values.
        good: the values before them.
        starts: runs since that did not live for the time of a probation.
        check: that failed; empty while they are on trial.
        figures: what was measured.
    """

    file: str
    digest: str
    good: tuple[Leaf, ...]
    starts: int = 0
    check: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, layers: Layers, good: Layers) -> FileTrial:
        """Return the trial of what a file says now, after what it said before."""
        return cls(layers.place, _digest(layers), good.below)

    @property
    def is_given_up(self) -> bool:
        """Whether these values are not to be used any more."""
        return bool(self.check)

    def holds_for(self, layers: Layers) -> bool:
        """Return whether the file still says what is on trial."""
        return self.digest == _digest(layers)

    def before(self, layers: Layers) -> Layers:
        """Return the device's layers with what the file said before."""
        good = (replace(leaf, origin=LAST_GOOD + leaf.origin.removeprefix(LAST_GOOD)) for leaf in self.good)
        return replace(layers, below=tuple(good))

    def begun(self) -> FileTrial:
        """Count a start, before it; values that too many runs did not survive are given up."""
        if self.is_given_up:
            return self
        if self.starts >= STARTS_MAX_UNPROVEN:
            return self.given_up("starts", {"starts": self.starts, "starts_max": STARTS_MAX_UNPROVEN})
        return replace(self, starts=self.starts + 1)

    def given_up(self, check: str, figures: Mapping[str, Any]) -> FileTrial:
        """Give the values up."""
        return replace(self, check=check, figures=dict(figures))


class FileTrials:
    """Keeps the one trial in the state folder. The main thread until the control thread begins, then that one.

    Args:
        folder: `state.dir`; None keeps nothing.
        may_make: whether a folder that is absent is made; the default one is the service manager's to make.

    Attributes:
        trial: as `load` found it or `put` changed it; None for none.
    """

    def __init__(self, folder: Path | None, *, may_make: bool = False) -> None:
        self._file = None if folder is None else folder / FILE
        self._may_make = may_make
        self.trial: FileTrial | None = None

    @property
    def place(self) -> str:
        """Where it is, for people."""
        return "memory" if self._file is None else str(self._file)

    def load(self, layers: Layers, *, sets_aside: bool = True) -> FileTrial | None:
        """Return the trial of a settings file; None where there is none, and where what is kept of it is damaged.

        Args:
            layers: from the settings file. A run by hand with another one leaves the trial alone.
            sets_aside: whether what is damaged is, so that the next trial can be written.
        """
        found = None if self._file is None else self._read(self._file, sets_aside=sets_aside)
        self.trial = found if found is not None and found.file == layers.place else None
        return self.trial

    def put(self, trial: FileTrial | None) -> None:
        """Replace the trial; it is on disk when this returns. None for nothing on trial.

        Raises:
            OSError: the disk is full, read-only or absent; it is known until this run ends.
        """
        before, self.trial = self.trial, trial
        if self._file is None or trial == before:
            return
        if trial is None:
            self._file.unlink(missing_ok=True)
            sync_folder(self._file.parent)
            return
        payload = json.dumps(_encoded(trial), separators=(",", ":")).encode()
        if len(payload) > BYTES_MAX:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(self._file))
        if self._may_make:
            self._file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(self._file, payload)

    def _read(self, file: Path, *, sets_aside: bool) -> FileTrial | None:
        try:
            with file.open("rb") as stream:
                payload = stream.read(BYTES_MAX + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            log.error("%s: cannot be read (%s): the settings file is taken as it is", file, error.strerror)
            return None
        try:
            return _decoded(json.loads(payload))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            log.error("%s: is damaged (%s): the settings file is taken as it is", file, error)
            if sets_aside:
                set_aside(file)
            return None


def open_file_trials(settings: Settings) -> FileTrials:
    """Return where the device keeps what is on trial of its settings file."""
    return FileTrials(settings.state.dir, may_make="dir" in settings.state.model_fields_set)


def told_problems(problems: Sequence[str]) -> dict[str, Any]:
    """Return the figures of a file on which no run can start: the first problems, cut, without passwords in URLs."""
    return {"problems": [cut(masked(problem), PROBLEM_CHARS_MAX) for problem in problems[:PROBLEMS_MAX]]}


def _digest(layers: Layers) -> str:
    """Return what tells the values of two files apart; where they stand in it does not."""
    values = [[list(leaf.path), leaf.value] for leaf in layers.below]
    return hashlib.sha256(json.dumps(values, default=str).encode()).hexdigest()


def _encoded(trial: FileTrial) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "file": trial.file,
        "digest": trial.digest,
        "good": Layers(trial.good).export()["below"],
        "starts": trial.starts,
        "check": trial.check,
        "figures": dict(trial.figures),
    }


def _leaf(path: Any, value: Any, origin: Any) -> Leaf:
    is_path = all(isinstance(part, str) or type(part) is int for part in path)
    if not is_path or not path or path[0] not in Settings.model_fields:
        raise ValueError(f"{path!r} is no path of a setting")
    return Leaf(tuple(path), value, str(origin))


def _decoded(body: Any) -> FileTrial:
    if body["format"] != FORMAT:
        raise ValueError(f"its format is {body['format']!r}, this agent knows {FORMAT}")
    return FileTrial(
        file=str(body["file"]),
        digest=str(body["digest"]),
        good=tuple(_leaf(*entry) for entry in body["good"]),
        starts=int(body["starts"]),
        check=str(body["check"]),
        figures=dict(body["figures"]),
    )
