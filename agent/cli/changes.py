"""What a SIGHUP finds: the settings file as it is now, against the settings in force."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.cli.load import load_settings
from agent.cli.secrets import without_secrets
from agent.errors import ConfigError
from agent.settings import Settings

LINES_MAX = 20
"""A file that was replaced as a whole differs everywhere; nobody reads more than this in a log."""


def changes(file: Path | None, overrides: Mapping[str, Any], in_force: Settings) -> list[str]:
    """Return what a new start would read differently, one line each. Nothing is applied."""
    try:
        read = load_settings(file, overrides).settings
    except ConfigError as error:
        return ["the settings are not valid; those in force stay", *error.problems[:LINES_MAX]]
    before, after = (flatten(without_secrets(s.model_dump(mode="json"))) for s in (in_force, read))
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    if not keys and in_force != read:
        return ["a password in a URL changed; restart the service to use it"]
    if not keys:
        return ["the settings are as they are in force"]
    lines = [f"{key}: {_shown(before, key)} is in force, {_shown(after, key)} is in the settings" for key in keys]
    if len(lines) > LINES_MAX:
        lines[LINES_MAX:] = [f"and {len(lines) - LINES_MAX} more"]
    return [*lines, "the settings are valid; restart the service to use them"]


def flatten(values: Any, path: str = "") -> dict[str, Any]:
    """Return nested settings by dotted path, `streams.0.max_fps`."""
    if isinstance(values, dict) and values:
        items = values.items()
    elif isinstance(values, list) and values and isinstance(values[0], dict):
        items = enumerate(values)  # type: ignore[assignment]
    else:
        return {path: values}
    flat: dict[str, Any] = {}
    for key, value in items:
        flat.update(flatten(value, f"{path}.{key}" if path else str(key)))
    return flat


def _shown(values: Mapping[str, Any], key: str) -> str:
    return json.dumps(values[key]) if key in values else "nothing"
