"""TOML files that people write: where each key stands, and errors that name the place and the cure."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.errors import ConfigError

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError
    from pydantic_core import ErrorDetails

KeyPath = tuple[str | int, ...]
"""Keys and list indexes from the top: ("streams", 0, "name")."""

FILE_BYTES_MAX = 1 << 20
"""A settings or manifest file above 1 MiB is a mistake, not a long file."""


def read_toml(file: Path) -> tuple[dict[str, Any], dict[KeyPath, int]]:
    """Return a file's values and the line of each of its keys.

    Raises:
        ConfigError: unreadable, too large, not UTF-8 or not TOML.
    """
    try:
        if file.stat().st_size > FILE_BYTES_MAX:
            raise ConfigError(f"{file}: is larger than {FILE_BYTES_MAX} bytes: this is not a settings file")
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: is not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    try:
        return tomllib.loads(text), toml_lines(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: is not valid TOML: {error}") from error


def toml_lines(text: str) -> dict[KeyPath, int]:
    """Return the line of every section and key; tomllib keeps none.

    A scan for headers and `key =` lines: what stands inside a multi-line value is not looked at by name, it
    falls back to the line of its section.
    """
    lines: dict[KeyPath, int] = {}
    section: KeyPath = ()
    counts: dict[KeyPath, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?", line):
            path: KeyPath = _keys(header[2])
            if header[1] == "[[":
                counts[path] = counts.get(path, -1) + 1
                path = (*path, counts[path])
            section = path
            lines[section] = number
        elif key := re.match(r"\s*([A-Za-z0-9_.\"'-]+)\s*=", line):
            lines.setdefault((*section, *_keys(key[1])), number)
    return lines


def line_of(path: KeyPath, lines: Mapping[KeyPath, int]) -> int:
    """Return the line of a key, or of the nearest section around it."""
    return next((lines[path[:end]] for end in range(len(path), 0, -1) if path[:end] in lines), 1)


def errors_of(error: ValidationError) -> list[ErrorDetails]:
    """Return what is wrong, without the defaults that pydantic could not make because of it."""
    return [entry for entry in error.errors() if entry["type"] != "default_factory_not_called"]


def describe_error(entry: ErrorDetails, place: str, model: type[BaseModel]) -> str:
    """Return one line for one pydantic error: place, key, value and what would be right."""
    path: KeyPath = entry["loc"]
    where = f"{place}: {dotted(path)}"
    if entry["type"] == "extra_forbidden":
        return f"{where}: is not a setting{closest(str(path[-1]), _known_keys(path[:-1], model))}"
    if entry["type"] == "missing":
        return f"{where}: is missing: add it"
    got = repr(entry["input"])
    message = entry["msg"].removeprefix("Value error, ")
    return f"{where}: {got if len(got) <= 80 else got[:77] + '...'}: {message[0].lower() + message[1:]}"


def closest(name: str, known: list[str]) -> str:
    """Return `: did you mean 'url'?`, or the names that exist."""
    import difflib  # For whoever made a mistake: 0.2 MiB.

    match = difflib.get_close_matches(name, known, n=1)
    return f": did you mean {match[0]!r}?" if match else f": known are {', '.join(known)}"


def dotted(path: KeyPath) -> str:
    """Return `streams.0.name`."""
    return ".".join(str(part) for part in path)


def _keys(text: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in text.split("."))


def _known_keys(section: KeyPath, model: Any) -> list[str]:
    for part in section:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        model = annotation if hasattr(annotation, "model_fields") else annotation.__args__[0]
    return list(model.model_fields)
