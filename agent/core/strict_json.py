"""JSON from anybody: bounded in bytes, depth and numbers, each key once, nothing that is not JSON."""

from __future__ import annotations

import json
import math
from typing import Any

DEPTH_MAX = 16
"""Objects and lists inside each other. A document of settings has 4."""
INTEGER_DIGITS_MAX = 19
"""As many as 2^63 has: nothing that we count is larger, and Python takes quadratic time for long ones."""


class StrictJsonError(ValueError):
    """The text is no strict JSON within the bounds; the message says why."""


def parse(payload: bytes, *, bytes_max: int) -> Any:
    """Return the value of a UTF-8 JSON text (RFC 8259) whose strings hold no lone surrogates.

    Python's own parser takes NaN and Infinity, keeps the last of two equal keys, and raises RecursionError on a deep
    text; none of that is an answer to give to a stranger.

    Raises:
        StrictJsonError: anything else.
    """
    if len(payload) > bytes_max:
        raise StrictJsonError(f"{len(payload)} bytes are more than {bytes_max}")
    try:
        # Decoded first: given bytes, json.loads would guess at UTF-16 and UTF-32.
        value = json.loads(
            payload.decode("utf-8"),
            object_pairs_hook=_once_each,
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
            parse_int=_short_integer,
        )
    except RecursionError:
        raise StrictJsonError(f"is nested deeper than {DEPTH_MAX} levels") from None
    except StrictJsonError:
        raise
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are its children.
        raise StrictJsonError(f"is not JSON in UTF-8: {error}") from None
    _check(value)
    return value


def _check(value: Any) -> None:
    """Look at every value once, without recursion."""
    level, depth = [value], 0
    while level:
        if depth > DEPTH_MAX:
            raise StrictJsonError(f"is nested deeper than {DEPTH_MAX} levels")
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner += [*item.keys(), *item.values()]
            elif isinstance(item, list):
                inner += item
            elif isinstance(item, str) and not item.isascii():
                _check_text(item)
        level, depth = inner, depth + 1


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise StrictJsonError("holds half of a surrogate pair") from None


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise StrictJsonError(f"has the key {twice[:64]!r} twice")
    return found


def _refuse_constant(name: str) -> float:
    raise StrictJsonError(f"holds {name}, which is not JSON")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise StrictJsonError(f"holds the number {text[:20]}, which is out of range")
    return value


def _short_integer(text: str) -> int:
    if len(text.lstrip("-")) > INTEGER_DIGITS_MAX:
        raise StrictJsonError(f"holds an integer of {len(text)} digits")
    return int(text)
