"""The settings file read again while the agent runs: what of it can be used now, and what waits for the next start.

A file may change everything, a document from afar may not: what is `local_only` reaches the broker, names the device
or sizes what was made at the start, and none of it is made anew in a run. Names and paths of models and streams are
the exception: `Pipelines.apply` opens and loads what they name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from agent.desired.values import changed_scopes, shown_value
from agent.layers import LISTS, Layers
from agent.settings import ModelSettings, Settings, StreamSettings
from agent.settings.scope import Scope, may_come_from_afar


@dataclass(frozen=True, slots=True)
class Unproven:
    """What was good before a settings file that is on probation.

    Attributes:
        good: the layers of the device.
        waiting: paths of these that waited for the next start already.
        on_time: share of frames that ended in time, by stream.
        must_deliver: streams that must deliver frames if the file is to count as good.
    """

    good: Layers
    waiting: frozenset[str] = frozenset()
    on_time: Mapping[str, float] = field(default_factory=dict)
    must_deliver: frozenset[str] = frozenset()


class Waiting:
    """What is asked for and in force only from the next start on: by a document, and by the settings file.

    Args:
        started: what this run was started with.
    """

    def __init__(self, started: Settings) -> None:
        self._started = started
        self.of_file: frozenset[str] = frozenset()
        """Paths that may come from afar, and that the file asked for."""
        self.of_document: list[str] = []
        """A document that has any is not proven before a start: nobody has seen them in force."""
        self.all: list[str] = []

    @property
    def for_file(self) -> list[str]:
        """What the settings file asks for, local-only values among it."""
        return [path for path in self.all if path not in self.of_document]

    def note(self, settings: Settings) -> None:
        """Take in the settings of a document, or those that were good."""
        pending = self._pending(settings)
        self.of_file &= frozenset(pending)
        self.of_document = [path for path in pending if path not in self.of_file]
        self.all = [*pending, *waiting(self._started, settings)]

    def note_file(self, settings: Settings) -> None:
        """Take in the settings of a file that was read again: what the document did not wait for is the file's."""
        self.of_file = (self.of_file | frozenset(self._pending(settings))) - frozenset(self.of_document)
        self.note(settings)

    def _pending(self, settings: Settings) -> list[str]:
        scopes = changed_scopes(self._started, settings)
        return [path for path, scope in scopes.items() if scope is Scope.RESTART]


def usable(started: Settings, asked: Settings) -> Settings:
    """Return other settings with what only a start can bring in as this run was started with."""
    update: dict[str, Any] = {}
    for name in Settings.model_fields:
        old, new = getattr(started, name), getattr(asked, name)
        if old == new:
            continue
        if name in LISTS:
            known = {item.name: item for item in old}
            update[name] = tuple(_held_back(known.get(item.name), item) for item in new)
        else:
            update[name] = _held_back(old, new)
    return asked.model_copy(update=update)


def waiting(started: Settings, asked: Settings) -> list[str]:
    """Return the paths of local-only values that differ and are not in force before the next start."""
    return [path for path, _, _, is_applied in _differences(started, asked) if not is_applied]


def local_changes(before: Settings, after: Settings) -> dict[str, list[Any]]:
    """Return the local-only values that differ, as [before, after] by path, without passwords in URLs."""
    return {path: [_told(old), _told(new)] for path, old, new, _ in _differences(before, after)}


def _held_back(old: BaseModel | None, new: BaseModel) -> BaseModel:
    """Return a section or an item with the local-only fields of the start; one that is new has their defaults."""
    fields = type(new).model_fields
    held = [name for name in _local_fields(new) if not _is_applied(new, name)]
    if old is not None and len(held) == len(fields):
        return old  # As it is: a copy would forget which fields were given, which `state.dir` asks.
    return new.model_copy(update={name: _value(old, new, name) for name in held})


def _differences(before: Settings, after: Settings) -> Iterator[tuple[str, Any, Any, bool]]:
    """Yield path, old value, new value and whether it is in force at once, for local-only values that differ.

    Items that came or went are told by their other fields.
    """
    for section in Settings.model_fields:
        old, new = getattr(before, section), getattr(after, section)
        pairs = [(section, old, new)]
        if section in LISTS:
            known = {item.name: item for item in old}
            pairs = [(f"{section}.{item.name}", known.get(item.name), item) for item in new]
        for path, was, now in pairs:
            for name in _local_fields(now):
                value, is_applied = _value(was, now, name), _is_applied(now, name)
                if value != getattr(now, name) and not (was is None and is_applied):
                    yield f"{path}.{name}", value, getattr(now, name), is_applied


def _value(section: BaseModel | None, like: BaseModel, name: str) -> Any:
    return type(like).model_fields[name].get_default() if section is None else getattr(section, name)


def _local_fields(section: BaseModel) -> list[str]:
    return [name for name, field in type(section).model_fields.items() if not may_come_from_afar(field)]


def _is_applied(section: BaseModel, name: str) -> bool:
    """Return whether `Pipelines.apply` brings it in."""
    return isinstance(section, ModelSettings | StreamSettings) and name in ("name", "path")


def _told(value: Any) -> Any:
    return shown_value(str(value) if isinstance(value, Path) else value)
