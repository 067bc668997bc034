"""JSON from strangers: bounded, without the traps of `json.loads`, every fault with its place.

Python's parser takes NaN, keeps the last of two equal keys, reads integers of any length and raises RecursionError on
deep nesting. Here the first three become errors with a path, and depth is looked at before anything is parsed.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import Any

from agent.core.field_errors import ERRORS_MAX, FieldError, field_error

DEPTH_MAX = 16
"""Brackets within each other; a document of settings needs 6."""
DIGITS_MAX = 16
"""Of an integer: all of IEEE 754's exact ones (2^53) have at most 16, and no setting needs more."""

_BRACKETS = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[\[{]|[\]}]', re.DOTALL)


class UnreadableError(ValueError):
    """The text is no JSON that may be read.

    Attributes:
        errors: at least one.
    """

    def __init__(self, errors: list[FieldError]) -> None:
        super().__init__(errors[0].message)
        self.errors = errors


class _BadNumber:
    """Stands where a number was that is none."""

    def __init__(self, text: str, code: str) -> None:
        self.text = text
        self.code = code


class _Object(dict[str, Any]):
    """An object and the keys that it had more than once."""

    repeated: tuple[str, ...] = ()


def parse(payload: bytes, bytes_max: int) -> Any:
    """Return the value of a payload.

    Raises:
        UnreadableError: too large, not UTF-8, too deep, no JSON; or NaN, infinities, integers of more than 16 digits,
            repeated keys and lone surrogates, all of them at once.
    """
    if len(payload) > bytes_max:
        raise _whole("too_large", f"is larger than {bytes_max} bytes")
    try:
        text = payload.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _whole("not_utf8", f"is not UTF-8 at byte {error.start}") from None
    if _depth(payload) > DEPTH_MAX:
        raise _whole("too_deep", f"is nested deeper than {DEPTH_MAX} levels")
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=lambda name: _BadNumber(name, "not_a_number"),
            parse_int=_integer,
            parse_float=_number,
        )
    except json.JSONDecodeError as error:
        raise _whole("not_json", f"{error.msg} at line {error.lineno}, column {error.colno}") from None
    errors: list[FieldError] = []
    _look(value, (), errors)
    if errors:
        raise UnreadableError(errors)
    return value


def _whole(code: str, message: str) -> UnreadableError:
    return UnreadableError([field_error((), code, message)])


def _depth(payload: bytes) -> int:
    deepest = depth = 0
    for match in _BRACKETS.finditer(payload):
        token = match[0]
        if token in (b"[", b"{"):
            depth += 1
            deepest = max(deepest, depth)
        elif token in (b"]", b"}"):
            depth -= 1
    return deepest


def _object(pairs: list[tuple[str, Any]]) -> _Object:
    found = _Object(pairs)
    if len(found) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        found.repeated = tuple(key for key, count in counts.items() if count > 1)
    return found


def _integer(text: str) -> int | _BadNumber:
    return int(text) if len(text.lstrip("-")) <= DIGITS_MAX else _BadNumber(text, "number_too_large")


def _number(text: str) -> float | _BadNumber:
    value = float(text)
    return value if math.isfinite(value) else _BadNumber(text, "number_too_large")


def _look(value: Any, path: tuple[str | int, ...], errors: list[FieldError]) -> None:
    """Collect what stands at a place where it must not; as deep as `DEPTH_MAX`."""
    if len(errors) >= ERRORS_MAX:
        return
    if isinstance(value, _BadNumber):
        errors.append(field_error(path, value.code, "must be a finite number of at most 16 digits", value.text))
    elif isinstance(value, str):
        if not _is_text(value):
            errors.append(field_error(path, "not_text", "holds half of a surrogate pair", value))
    elif isinstance(value, _Object):
        text = "stands there more than once: keep one"
        errors += [field_error((*path, key), "duplicate_key", text) for key in value.repeated]
        for key, inner in value.items():
            if not _is_text(key):
                errors.append(field_error(path, "not_text", "has a key with half of a surrogate pair", key))
            _look(inner, (*path, key), errors)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _look(inner, (*path, index), errors)


def _is_text(value: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in value)
