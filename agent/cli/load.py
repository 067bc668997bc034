"""Reads what is written on this device: the settings file, the environment, the command line."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.handover import VARIABLE
from agent.layers import Layers, Leaf, Loaded, leaves, put
from agent.settings import Settings
from agent.toml_file import closest, line_of, read_toml

ENV_PREFIX = "EDGEBEAT_"
NOT_SETTINGS = frozenset({"EDGEBEAT_CONFIG", VARIABLE})
"""Variables with our prefix that are not settings: the file's path instead of --config, and the handover."""


def load_settings(file: Path | None, overrides: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> Loaded:
    """Merge and validate all layers but the remote one; see `read_layers`."""
    return read_layers(file, overrides, environ).load()


def read_layers(file: Path | None, overrides: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> Layers:
    """Read every layer of this device.

    Args:
        file: TOML file, None for none.
        overrides: nested values from the command line.
        environ: variables such as EDGEBEAT_MQTT__URL and EDGEBEAT_STREAMS__0__MAX_FPS.

    Raises:
        ConfigError: the file cannot be read. What is wrong with values is reported by `Layers.load`.
    """
    file_values, lines = read_toml(file) if file else ({}, {})
    env_values, problems = _environment(environ)
    below = [Leaf(path, value, f"{file}:{line_of(path, lines)}") for path, value in leaves(file_values)]
    above = [
        Leaf(path, value, ENV_PREFIX + "__".join(str(part).upper() for part in path))
        for path, value in leaves(env_values)
    ]
    above += [Leaf(path, value, "command line") for path, value in leaves(overrides)]
    return Layers(tuple(below), tuple(above), str(file) if file else "command line", tuple(problems))


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
        put(values, path, environ[name])
    return values, problems
