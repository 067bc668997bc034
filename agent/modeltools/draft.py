"""Writes model.toml: a first one from a guess, and the one of a quantised model."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.errors import ConfigError
from agent.models.manifest import MANIFEST_NAME, Manifest


def write_first(folder: Path, manifest: Manifest, labels: Sequence[str], comments: Sequence[str]) -> list[Path]:
    """Write model.toml and its labels beside a network; return what was written. Nothing is ever overwritten.

    Raises:
        ConfigError: there is a model.toml already, or nothing can be written.
    """
    target = folder / MANIFEST_NAME
    if target.exists():
        raise ConfigError(f"{target}: is there already and is never overwritten: nothing was written")
    written: list[Path] = []
    try:
        named = None if manifest.labels is None else manifest.labels.path
        if named is not None and not (folder / named).exists():
            written.append(_write_new(folder / named, "".join(f"{label}\n" for label in labels)))
        written.append(_write_new(target, manifest_text(manifest, comments)))
    except OSError as error:
        for file in written:
            file.unlink()
        raise ConfigError(f"{error.filename}: cannot be written: {error.strerror}") from error
    return written


def manifest_text(manifest: Manifest, comments: Sequence[str] = ()) -> str:
    """Return a manifest as TOML, with comments above it."""
    values = manifest.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
    lines = [f"# {_FORBIDDEN.sub('?', ' '.join(comment.split()))}" for comment in comments]
    lines += [""] if lines else []
    lines += [f"{key} = {_value(value)}" for key, value in values.items() if not _is_section(value)]
    for key, value in values.items():
        if isinstance(value, dict):
            lines += _section(key, value)
        elif _is_section(value):
            lines += [line for item in value for line in _table(f"[[{key}]]", item)]
    # Half a character, of a file's name or in metadata, is in no encoding of text.
    return ("\n".join(lines) + "\n").encode("utf-8", "replace").decode("utf-8")


_FORBIDDEN = re.compile("[\x00-\x08\x0a-\x1f\x7f]")
"""Characters that TOML allows in no comment."""


def _section(name: str, values: Mapping[str, Any]) -> list[str]:
    inner = {key: value for key, value in values.items() if isinstance(value, dict)}
    lines = _table(f"[{name}]", {key: value for key, value in values.items() if key not in inner})
    return lines + [line for key, value in inner.items() for line in _table(f"[{name}.{key}]", value)]


def _table(header: str, values: Mapping[str, Any]) -> list[str]:
    return ["", header, *(f"{_key(key)} = {_value(value)}" for key, value in values.items())]


def _is_section(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and bool(value) and isinstance(value[0], dict))


def _key(key: str) -> str:
    return key if key.isidentifier() and key.isascii() else _value(key)


def _value(value: Any) -> str:
    """JSON's strings, numbers and lists are TOML's too, but for two things.

    TOML wants DEL escaped, and has no pairs of escapes for what is above U+FFFF.
    """
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_key(key)} = {_value(inner)}" for key, inner in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _write_new(file: Path, text: str) -> Path:
    try:
        with file.open("x", encoding="utf-8", errors="replace") as stream:
            stream.write(text)
    except FileExistsError:
        raise
    except OSError as error:
        file.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(file)) from error  # A failed write does not name its file.
    return file
