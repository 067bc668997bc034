"""What is wrong with one value of a document from afar: bounded, safe to send back and to print."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

ERRORS_MAX = 50
"""Errors of one document that are told, at 600 bytes each: 30 kB. More mistakes are told next time."""
PATH_CHARS_MAX, MESSAGE_CHARS_MAX, GOT_CHARS_MAX = 200, 300, 80

_USER_IN_URL = re.compile(r"(?<=://)[^/@\s\"]+@")


@dataclass(frozen=True, slots=True)
class FieldError:
    """One error.

    Attributes:
        path: from the root of the document, joined by dots: `values.streams.door.max_fps`; empty for the whole.
        code: stable, for programs; docs/remote.md lists them.
        message: what would be right.
        got: the value as JSON, cut; empty where there is none.
    """

    path: str
    code: str
    message: str
    got: str = ""


def field_error(path: Iterable[str | int], code: str, message: str, got: Any = None) -> FieldError:
    """Return an error whose texts are cut to their limits; `got` of None is left out."""
    return FieldError(
        cut(".".join(str(part) for part in path), PATH_CHARS_MAX),
        code,
        cut(message, MESSAGE_CHARS_MAX),
        "" if got is None else shown(got),
    )


def as_body(errors: Iterable[FieldError]) -> dict[str, dict[str, str]]:
    """Return errors by path, as `settings/reported` carries them."""
    body: dict[str, dict[str, str]] = {}
    for error in errors:
        if len(body) >= ERRORS_MAX:
            break
        body.setdefault(error.path, {"code": error.code, "message": error.message, "got": error.got})
    return body


def shown(value: Any) -> str:
    """Return a value as JSON without passwords, cut."""
    return cut(masked(json.dumps(value, default=str)), GOT_CHARS_MAX)


def masked(text: str) -> str:
    """Return text with user and password in URLs replaced: camera URLs often hold them."""
    return _USER_IN_URL.sub("***@", text)


def cut(text: str, chars_max: int) -> str:
    """Return text of at most so many characters."""
    return text if len(text) <= chars_max else text[: chars_max - 3] + "..."
