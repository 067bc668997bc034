"""Settings from their layers: command line, environment, file, default, in that order of precedence."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from agent.errors import ConfigError
from agent.handover import VARIABLE
from agent.settings import Settings, reference_problems
from agent.toml_file import KeyPath, closest, describe_error, dotted, line_of, read_toml

ENV_PREFIX = "EDGEBEAT_"
NOT_SETTINGS = frozenset({"EDGEBEAT_CONFIG", VARIABLE})
"""Variables with our prefix that are not settings: the file's path instead of --config, and the handover."""


@dataclass(frozen=True)
class Loaded:
    """Valid settings and where each value came from, by dotted path (`mqtt.url` -> `agent.toml:4`)."""

    settings: Settings
    origins: dict[str, str]


def load_settings(file: Path | None, overrides: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> Loaded:
    """Merge and validate all layers.

    Args:
        file: TOML file, None for none.
        overrides: nested values from the command line.
        environ: variables such as EDGEBEAT_MQTT__URL and EDGEBEAT_STREAMS__0__MAX_FPS.

    Raises:
        ConfigError: with every problem of every layer, each naming its place and what would be right.
    """
    file_values, lines = read_toml(file) if file else ({}, {})
    env_values, problems = _environment(environ)
    merged: dict[str, Any] = {}
    origins: dict[KeyPath, str] = {}

    def add_layer(values: Mapping[str, Any], origin_of: Callable[[KeyPath], str]) -> None:
        for path, value in _leaves(values):
            _put(merged, path, value)
            # A value may replace a section of a lower layer, or a section a value.
            for replaced in [known for known in origins if known[: len(path)] == path or path[: len(known)] == known]:
                del origins[replaced]
            origins[path] = origin_of(path)

    add_layer(file_values, lambda path: f"{file}:{line_of(path, lines)}")
    add_layer(env_values, lambda path: ENV_PREFIX + "__".join(str(part).upper() for part in path))
    add_layer(overrides, lambda _: "command line")

    def place(path: KeyPath) -> str:
        """Where the value, or its nearest section, was written."""
        for end in range(len(path), 0, -1):
            for known, origin in origins.items():
                if known[:end] == path[:end]:
                    return origin
        return str(file) if file else "command line"

    for path in _beyond_the_end(merged):
        count = len(merged[str(path[0])])
        problems.append(f"{place(path)}: {dotted(path)}: there are {count}, numbered from 0: correct the number")
    merged = _lists_from_indexes(merged)
    settings: Settings | None = None
    try:
        settings = Settings(**merged)
    except ValidationError as error:
        problems += [describe_error(entry, place(entry["loc"]), Settings) for entry in error.errors()]
    for path, text in reference_problems(merged):
        problems.append(f"{place(path)}: {dotted(path)}: {text}")
    if problems or settings is None:
        raise ConfigError(problems)
    flat = {dotted(path): origin for path, origin in origins.items()}
    for path, _ in _leaves(settings.model_dump(mode="json")):
        flat.setdefault(dotted(path), "default")
    return Loaded(settings, flat)


def _environment(environ: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """Return nested values from the environment and the problems of names that are no settings."""
    values: dict[str, Any] = {}
    problems = []
    for name in sorted(environ):
        if not name.upper().startswith(ENV_PREFIX) or name in NOT_SETTINGS:
            continue
        path = tuple(int(part) if part.isdigit() else part for part in name[len(ENV_PREFIX) :].lower().split("__"))
        if path[0] not in Settings.model_fields:
            problems.append(f"{name}: is not a setting{closest(str(path[0]), list(Settings.model_fields))}")
            continue
        _put(values, path, environ[name])
    return values, problems


def _leaves(values: Any, path: KeyPath = ()) -> list[tuple[KeyPath, Any]]:
    if isinstance(values, Mapping) and (values or not path):
        return [leaf for key, value in values.items() for leaf in _leaves(value, (*path, key))]
    if isinstance(values, list | tuple) and values and all(isinstance(item, Mapping) for item in values):
        return [leaf for index, item in enumerate(values) for leaf in _leaves(item, (*path, index))]
    return [(path, values)]


def _put(values: dict[Any, Any], path: KeyPath, value: Any) -> None:
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
