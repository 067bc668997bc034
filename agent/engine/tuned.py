"""What `edgebeat model tune` found, in the state folder: how each model runs best on this device.

An entry counts only where everything is as it was when it was measured: networks, ONNX Runtime, CPU and limits. It is
read with distrust, and what it says is held within the limits all the same.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agent.core.tuning import Figures, Target
from agent.durable import replace_file
from agent.engine.cache import cpu_flags
from agent.engine.session import runtime_version

FILE_NAME = "tuned.json"

ENTRIES_MAX = 16
"""As many as settings can name models; the one that was measured first goes."""

FILE_BYTES_MAX = 65_536
"""16 entries of 1 kB, and room: a larger file is not ours."""

_Text = Annotated[str, Field(min_length=1, max_length=1024)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Way(_Part):
    """How a model is run; see `core.tuning.Candidate`.

    Attributes:
        variant: of model.toml, or the name of a size that it does not hold.
        width: of that size, pixels; None for a variant of model.toml.
        height: likewise.
    """

    variant: str = Field(min_length=1, max_length=64)
    width: int | None = Field(default=None, ge=1, le=8192)
    height: int | None = Field(default=None, ge=1, le=8192)
    providers: list[Annotated[str, Field(max_length=32)]] = Field(min_length=1, max_length=8)
    threads: int = Field(ge=1, le=1024)
    spins: bool
    has_arena: bool


class Tuned(_Part):
    """One result.

    Attributes:
        facts: everything that it depends on; see `facts_of`.
        way: that was taken.
        fps: the target.
        deadline_ms: the target.
        p50_ms: and the other figures: see `core.tuning.Figures`.
        at: when, ISO 8601.
    """

    facts: dict[str, _Text] = Field(max_length=8)
    way: Way
    fps: float = Field(gt=0)
    deadline_ms: float = Field(gt=0)
    p50_ms: float
    p95_ms: float
    cpu_ms: float
    memory_mb: float
    frames: int
    at: str = Field(max_length=32)

    def text(self) -> str:
        """Return it for the log."""
        way = self.way
        spinning, arena = "spinning" if way.spins else "waiting", "arena" if way.has_arena else "no arena"
        return (
            f"variant {way.variant}, {way.threads} thread(s), {spinning}, {arena}, {'+'.join(way.providers)} "
            f"(measured {self.at} for {self.fps:g} fps within {self.deadline_ms:g} ms: p95 {self.p95_ms:.1f} ms, "
            f"{self.cpu_ms:.1f} ms of CPU a frame)"
        )


class _File(_Part):
    format: Literal[1]
    entries: list[Tuned] = Field(max_length=ENTRIES_MAX)


def result(facts: Mapping[str, str], way: Way, target: Target, figures: Figures, at: str) -> Tuned:
    """Return an entry for `keep`."""
    return Tuned(facts=dict(facts), way=way, fps=target.fps, deadline_ms=target.deadline_ms, **asdict(figures), at=at)


def facts_of(model: str, networks: str, cpus: int, memory_mb: int) -> dict[str, str]:
    """Return what a result depends on.

    Args:
        model: its name in model.toml.
        networks: what tells its networks and sizes from others; see `fitting.networks_of`.
        cpus: that its inferences may use.
        memory_mb: the agent's limit.
    """
    return {
        "model": model,
        "networks": networks,
        "onnxruntime": runtime_version(),
        "cpu": cpu_flags(),
        "cpus": str(cpus),
        "memory_mb": str(memory_mb),
    }


class TunedFile:
    """The results in a state folder.

    Args:
        folder: None where nothing can be kept.
    """

    def __init__(self, folder: Path | None) -> None:
        self.file = None if folder is None else folder / FILE_NAME

    def find(self, facts: Mapping[str, str], target: Target | None = None) -> tuple[Tuned | None, str | None]:
        """Return the result for these facts, or why what is there is not used; neither where there is nothing.

        Args:
            facts: from `facts_of`.
            target: what is asked of the model now, None where that is not known; a result for less is not used.
        """
        entries, why = self._read()
        if why is not None:
            return None, f"{self.file}: is not used: {why}"
        own = [entry for entry in entries if entry.facts.get("model") == facts["model"]]
        for entry in own:
            if entry.facts != dict(facts):
                continue
            if target is not None and (target.fps > entry.fps or target.deadline_ms < entry.deadline_ms):
                measured = Target(entry.fps, entry.deadline_ms)
                why = f"it was measured for {measured}, and {target} is asked for"
                return None, f"{self.file}: is not used for {facts['model']}: {why}"
            return entry, None
        if not own:
            return None, None
        differing = [name for name, value in facts.items() if own[-1].facts.get(name) != value]
        changes = ", ".join(
            f"{name} {own[-1].facts.get(name, 'none')[:80]} -> {facts[name][:80]}" for name in differing
        )
        return None, f"{self.file}: is not used for {facts['model']}: it was measured with other {changes}"

    def keep(self, entry: Tuned) -> Path | None:
        """Write a result in the place of the one before; return the file, None where nothing can be kept.

        Raises:
            OSError: it cannot be written; what was there is there still.
        """
        if self.file is None:
            return None
        entries, _ = self._read()
        same = ("model", "networks")
        others = [one for one in entries if any(one.facts.get(name) != entry.facts[name] for name in same)]
        kept = _File(format=1, entries=[*others, entry][-ENTRIES_MAX:])
        # Not secret, and the service may run as another user than the one who tuned.
        replace_file(self.file, kept.model_dump_json(indent=1).encode(), mode=0o644)
        return self.file

    def _read(self) -> tuple[list[Tuned], str | None]:
        """Return the entries, or why none of them can be believed."""
        if self.file is None:
            return [], None
        try:
            with os.fdopen(
                os.open(self.file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK), "rb"
            ) as stream:
                if (why := _distrust(os.fstat(stream.fileno()))) is not None:
                    return [], why
                content = stream.read(FILE_BYTES_MAX + 1)
        except FileNotFoundError:
            return [], None
        except OSError as error:
            return [], f"cannot be read: {error.strerror}"
        if len(content) > FILE_BYTES_MAX:
            return [], f"is larger than {FILE_BYTES_MAX} bytes"
        try:
            return _File.model_validate(json.loads(content)).entries, None
        except (ValidationError, ValueError, RecursionError):
            return [], "is damaged; edgebeat model tune writes it anew"


def _distrust(state: os.stat_result) -> str | None:
    """Return why a file cannot be believed, None where only this user or root writes it."""
    if not stat.S_ISREG(state.st_mode):
        return "is no file"
    if state.st_uid not in (0, os.geteuid()):
        return f"belongs to user {state.st_uid}"
    return "others may write to it" if state.st_mode & 0o022 else None
