"""Settings from their layers, by precedence: command line, environment, remote, file, default.

Reading the file and the environment is `agent.cli.load`'s; here the layers are merged and validated, again whenever
the remote one changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from agent.errors import ConfigError
from agent.settings import Settings, reference_problems
from agent.toml_file import KeyPath, describe_error, dotted

LISTS = ("models", "streams")
"""Sections that there may be several of, each with a `name`; from afar they are addressed by it."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """One value of one layer.

    Attributes:
        path: with indexes for the items of a list.
        value: as it was written.
        origin: for people, such as `agent.toml:4`.
    """

    path: KeyPath
    value: Any
    origin: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """Valid settings and where each value came from, by dotted path (`mqtt.url` -> `agent.toml:4`)."""

    settings: Settings
    origins: dict[str, str]


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with one value, for a program.

    Attributes:
        path: of the value, with indexes for the items of a list.
        kind: pydantic's name of the error, or `reference`.
        message: what would be right.
        got: the value, None where there is none.
    """

    path: KeyPath
    kind: str
    message: str
    got: Any = None


class InvalidSettingsError(ConfigError):
    """The merged layers are no valid settings.

    Attributes:
        faults: the same problems for a program.
    """

    def __init__(self, problems: list[str], faults: list[Fault]) -> None:
        super().__init__(problems)
        self.faults = faults


@dataclass(frozen=True, slots=True)
class Layers:
    """What was written on this device, around the remote layer.

    Attributes:
        below: the file's values.
        above: the environment's values, then the command line's.
        place: where values without an origin stand, for people.
        problems: of the reading, reported with the others.
    """

    below: tuple[Leaf, ...] = ()
    above: tuple[Leaf, ...] = ()
    place: str = "command line"
    problems: tuple[str, ...] = ()

    def names(self, section: str) -> list[str]:
        """Return the names of a list's items in their order, without the remote layer."""
        merged: dict[Any, Any] = {}
        for leaf in (*self.below, *self.above):
            put(merged, leaf.path, leaf.value)
        entries = merged.get(section)
        if not isinstance(entries, dict):
            return []
        items = [entries[index] for index in sorted(key for key in entries if isinstance(key, int))]
        return [str(item.get("name", "")) if isinstance(item, dict) else "" for item in items]

    def has(self, path: KeyPath) -> bool:
        """Return whether something is written at or below a path, without the remote layer."""
        return any(leaf.path[: len(path)] == path for leaf in (*self.below, *self.above))

    def load(self, remote: Sequence[Leaf] = ()) -> Loaded:
        """Merge and validate.

        Raises:
            InvalidSettingsError: with every problem of every layer.
        """
        merged, origins = self._merge(remote)
        problems = list(self.problems)

        def place(path: KeyPath) -> str:
            """Where the value, or its nearest section, was written."""
            for end in range(len(path), 0, -1):
                for known, origin in origins.items():
                    if known[:end] == path[:end]:
                        return origin
            return self.place

        for path in _beyond_the_end(merged):
            count = len(merged[str(path[0])])
            problems.append(f"{place(path)}: {dotted(path)}: there are {count}, numbered from 0: correct the number")
        merged = _lists_from_indexes(merged)
        settings: Settings | None = None
        errors: list[ErrorDetails] = []
        try:
            settings = Settings(**merged)
        except ValidationError as error:
            errors = error.errors()
        problems += [describe_error(entry, place(entry["loc"]), Settings) for entry in errors]
        faults = [Fault(entry["loc"], entry["type"], entry["msg"], entry["input"]) for entry in errors]
        for path, text in reference_problems(merged):
            problems.append(f"{place(path)}: {dotted(path)}: {text}")
            faults.append(Fault(path, "reference", text))
        if problems or settings is None:
            raise InvalidSettingsError(problems, faults)
        flat = {dotted(path): origin for path, origin in origins.items()}
        # From afar a list comes as a whole, and what is inside of it with it.
        whole = [leaf for leaf in remote if isinstance(leaf.value, list | dict)]
        for path, _ in leaves(settings.model_dump(mode="json")):
            around = (leaf.origin for leaf in whole if path[: len(leaf.path)] == leaf.path)
            flat.setdefault(dotted(path), next(around, "default"))
        return Loaded(settings, flat)

    def export(self) -> dict[str, Any]:
        """Return everything in the form of JSON, for `handover`."""
        return {
            "below": [[list(leaf.path), leaf.value, leaf.origin] for leaf in self.below],
            "above": [[list(leaf.path), leaf.value, leaf.origin] for leaf in self.above],
            "place": self.place,
        }

    @classmethod
    def imported(cls, values: Mapping[str, Any]) -> Layers:
        """Return what `export` gave."""
        below, above = (
            tuple(Leaf(tuple(path), value, origin) for path, value, origin in values[name])
            for name in ("below", "above")
        )
        return cls(below, above, values["place"])

    def _merge(self, remote: Sequence[Leaf]) -> tuple[dict[Any, Any], dict[KeyPath, str]]:
        merged: dict[Any, Any] = {}
        origins: dict[KeyPath, str] = {}
        for leaf in (*self.below, *remote, *self.above):
            path = leaf.path
            put(merged, path, leaf.value)
            # A value may replace a section of a lower layer, or a section a value.
            for replaced in [known for known in origins if known[: len(path)] == path or path[: len(known)] == known]:
                del origins[replaced]
            origins[path] = leaf.origin
        return merged, origins


def leaves(values: Any, path: KeyPath = ()) -> list[tuple[KeyPath, Any]]:
    """Return every plain value of nested ones with its path."""
    if isinstance(values, Mapping) and (values or not path):
        return [leaf for key, value in values.items() for leaf in leaves(value, (*path, key))]
    if isinstance(values, list | tuple) and values and all(isinstance(item, Mapping) for item in values):
        return [leaf for index, item in enumerate(values) for leaf in leaves(item, (*path, index))]
    return [(path, values)]


def put(values: dict[Any, Any], path: KeyPath, value: Any) -> None:
    """Set one leaf; list items are kept under their integer index until the layers are merged."""
    for part in path[:-1]:
        inner = values.get(part)
        if not isinstance(inner, dict):
            inner = values[part] = {}
        values = inner
    values[path[-1]] = value


def _beyond_the_end(merged: dict[str, Any]) -> list[KeyPath]:
    """Remove and return the list items whose index leaves a gap: a variable with a wrong number."""
    beyond: list[KeyPath] = []
    for name, entries in merged.items():
        if isinstance(entries, dict) and entries and all(isinstance(key, int) for key in entries):
            wrong = [key for position, key in enumerate(sorted(entries)) if key != position]
            for key in wrong:
                del entries[key]
            beyond += [(name, key) for key in wrong]
    return beyond


def _lists_from_indexes(values: Any) -> Any:
    if not isinstance(values, dict):
        return values
    if values and all(isinstance(key, int) for key in values):
        return [_lists_from_indexes(values[key]) for key in sorted(values)]
    return {key: _lists_from_indexes(value) for key, value in values.items()}
