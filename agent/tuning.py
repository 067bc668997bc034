"""Finds out how a model runs best on this device, in a child process, and keeps it for the next start."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from agent.child import stream_child
from agent.clock import Clock, iso_utc
from agent.core.tuning import Candidate, Figures, Target
from agent.engine.session import runtime_version
from agent.engine.tuned import TunedFile, Way, result
from agent.errors import ConfigError
from agent.provision import asked_of, state_folder
from agent.settings import DEADLINE_MS_LIVE, ModelSettings, Settings

FPS = 5.0
"""Where nobody states a frame rate: what a person who watches calls fluent enough, and most devices can do."""

MEASURE_S = 120.0
"""For the rounds; three of them are made also where that is longer."""

LOAD_S = 240.0
"""For trying and loading up to 48 candidates beside it; then the child is ended."""

Tell = Callable[[str, int, int], None]
"""Called with the stage, the steps that are done and how many there are."""


@dataclass(frozen=True, slots=True)
class Search:
    """What is searched.

    Attributes:
        settings: of the agent; what they name is not searched.
        model: its name there.
        target: what it must keep up with.
        variants: that may be taken; None for all where `degradation.steps` holds `variant`, else the model itself.
        sizes: width and height of further inputs, pixels, for a network with open dimensions.
        measure_s: for the rounds.
        nice: of the child.
        limit_bytes: of its memory beyond what it starts with; None for no limit of its own.
        cpus: that the agent may use; None for those of the calling thread, which may have been placed on a few.
    """

    settings: Settings
    model: str
    target: Target
    variants: tuple[str, ...] | None = None
    sizes: tuple[tuple[int, int], ...] = ()
    measure_s: float = MEASURE_S
    nice: int = 0
    limit_bytes: int | None = None
    cpus: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A candidate in the table.

    Attributes:
        figures: None where it could not run.
        refusal: why it is not taken: what it lacks, or why it cannot run; empty where it keeps up.
    """

    candidate: Candidate
    figures: Figures | None
    refusal: str
    is_taken: bool


@dataclass(frozen=True, slots=True)
class Found:
    """What came of a search.

    Attributes:
        path: of the model.
        target: what it must keep up with.
        rows: every candidate, the most accurate variant first.
        way: that is taken; None where none keeps up.
        why: for people.
        notes: what a person should know beside the figures.
        facts: that the result depends on.
        kept: the file that the next start reads; None where nothing was written.
        fault: why what was to be kept could not be written; None where it was, or nothing was to be.
    """

    path: Path
    target: Target
    rows: tuple[Row, ...]
    way: Way | None
    why: tuple[str, ...]
    notes: tuple[str, ...]
    facts: Mapping[str, str]
    kept: Path | None = None
    fault: str | None = None

    @property
    def taken(self) -> Row | None:
        """The candidate that is taken."""
        return next((row for row in self.rows if row.is_taken), None)

    def as_json(self) -> dict[str, Any]:
        """Return it for programs."""
        return {
            "path": str(self.path),
            "machine": platform.machine(),
            "onnxruntime": runtime_version(),
            "target": asdict(self.target),
            "candidates": [
                {
                    **asdict(row.candidate),
                    **({} if row.figures is None else asdict(row.figures)),
                    "refusal": row.refusal,
                    "is_taken": row.is_taken,
                }
                for row in self.rows
            ],
            "taken": None if self.way is None else self.way.model_dump(),
            "why": list(self.why),
            "notes": list(self.notes),
            "facts": dict(self.facts),
            "kept": None if self.kept is None else str(self.kept),
        }


def target_of(settings: Settings, model: str, fps: float | None, deadline_ms: float | None) -> Target:
    """Return what a model must keep up with: what is given, else what its streams ask, else the defaults."""
    asked = asked_of(model, settings.streams)
    return Target(
        fps or (asked.fps if asked is not None else 0.0) or FPS,
        deadline_ms or (DEADLINE_MS_LIVE if asked is None else asked.deadline_ms),
    )


def tune(search: Search, clock: Clock, tell: Tell) -> Found:
    """Search in a child process and keep what was found in the state folder.

    Args:
        search: what.
        clock: for the stamp of the result.
        tell: hears of each step.

    Raises:
        ConfigError: the model cannot be used, or the child did not come to an end.
        OSError: no process can be made. What the state folder does not take is in `Found.fault`.
    """
    model = _model(search)
    job = {
        "settings": search.settings.model_dump(mode="json", exclude_unset=True),
        "model": model.name,
        "target": asdict(search.target),
        "variants": None if search.variants is None else list(search.variants),
        "sizes": [list(size) for size in search.sizes],
        "measure_s": search.measure_s,
        "nice": search.nice,
        "limit_bytes": search.limit_bytes,
        "cpus": None if search.cpus is None else list(search.cpus),
    }

    def hear(line: Mapping[str, Any]) -> None:
        stage, done, steps = line["stage"]
        tell(str(stage), int(done), int(steps))

    limit_s = search.measure_s + LOAD_S
    try:
        reply, code = stream_child("agent.tuning_child", job, limit_s, hear)
    except subprocess.TimeoutExpired:
        raise ConfigError(f"{model.path}: the search did not end within {limit_s:g} s and was given up") from None
    if "problems" in reply:
        raise ConfigError([str(problem) for problem in reply["problems"]])
    if code != 0 or "rows" not in reply:
        raise ConfigError(
            f"{model.path}: the process that measured it ended with {code}: it crashed, or memory was too short"
        )
    found = _found(model.path, search.target, reply)
    if found.way is None:
        return found
    try:
        return _keep(found, search.settings, clock)
    except OSError as error:  # Minutes of measuring are not lost for it.
        fault = f"{error.filename or search.settings.state.dir}: {error.strerror}: nothing was kept"
        return replace(found, notes=(*found.notes, fault), fault=fault)


def _model(search: Search) -> ModelSettings:
    known = {model.name: model for model in search.settings.models}
    if search.model not in known:
        raise ConfigError(f"{search.model!r} is no model of the settings: known are {', '.join(known) or 'none'}")
    return known[search.model]


def _found(path: Path, target: Target, reply: Mapping[str, Any]) -> Found:
    rows = []
    for values in reply["rows"]:
        candidate = {name: values[name] for name in Candidate.__dataclass_fields__}
        figures = {name: values[name] for name in Figures.__dataclass_fields__ if name in values}
        rows.append(
            Row(
                Candidate(**{**candidate, "providers": tuple(candidate["providers"])}),
                Figures(**figures) if figures else None,
                values["refusal"],
                values["is_taken"],
            )
        )
    way = None if reply["way"] is None else Way.model_validate(reply["way"])
    return Found(path, target, tuple(rows), way, tuple(reply["why"]), tuple(reply["notes"]), reply["facts"])


def _keep(found: Found, settings: Settings, clock: Clock) -> Found:
    assert found.way is not None
    assert found.taken is not None
    assert found.taken.figures is not None
    at = iso_utc(clock.wall_ns())
    file = TunedFile(state_folder(settings))
    if file.file is not None:
        file.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    kept = file.keep(result(found.facts, found.way, found.target, found.taken.figures, at))
    notes = found.notes
    if kept is None:
        notes = (
            *notes,
            f"{settings.state.dir} is not there: nothing was kept; set state.dir, or EDGEBEAT_STATE__DIR",
        )
    return Found(found.path, found.target, found.rows, found.way, found.why, notes, found.facts, kept)
