"""`settings/desired`: what an operator asks for. Read strictly: all of it is right, or nothing of it counts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.core.field_errors import FieldError, field_error
from agent.core.located_json import UnreadableError, parse

BYTES_MAX = 64 << 10
"""Looked at before anything is parsed: 64 streams with every field take 40 kB."""
SCHEMA = 1
VERSION_MAX = 2**53 - 1
"""The largest that every JSON library keeps exactly. Seconds since 1970 fit, and milliseconds too."""


@dataclass(frozen=True, slots=True)
class Document:
    """Values that were asked for together.

    Attributes:
        version: an integer above all that were accepted before.
        values: by section, then by field; items of `streams` and `models` by their name.
        asked_by: who published it, as far as the broker tells; empty where it does not.
        model: a signed manifest of a release; None for none.
    """

    version: int
    values: Mapping[str, Any] = field(default_factory=dict)
    asked_by: str = ""
    model: Mapping[str, Any] | None = None

    @property
    def digest(self) -> str:
        """What tells two documents of one version apart."""
        content = self.values if self.model is None else [self.values, self.model]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


class InvalidDocumentError(Exception):
    """A document that changes nothing.

    Attributes:
        errors: all of them, at least one.
        version: that it asked for, None where that cannot be read.
    """

    def __init__(self, errors: list[FieldError], version: int | None = None) -> None:
        super().__init__(errors[0].message)
        self.errors = errors
        self.version = version


def parse_desired(payload: bytes, asked_by: str = "") -> Document:
    """Read a document; whether its values are settings is for the caller to see.

    Raises:
        InvalidDocumentError: with every error at once.
    """
    try:
        body = parse(payload, BYTES_MAX)
    except UnreadableError as error:
        raise InvalidDocumentError(error.errors) from None
    if not isinstance(body, dict):
        raise InvalidDocumentError([field_error((), "wrong_type", "must be an object", body)])
    version = body.get("version")
    errors = list(_errors(body))
    if errors:
        is_readable = isinstance(version, int) and not isinstance(version, bool)
        raise InvalidDocumentError(errors, version if is_readable else None)
    return Document(body["version"], body["values"], asked_by, body.get("model"))


def _errors(body: Mapping[str, Any]) -> list[FieldError]:
    errors = [
        field_error(
            (key,), "unknown_key", "is not part of the document: known are schema, version, values, model", body[key]
        )
        for key in body
        if key not in ("schema", "version", "values", "model")
    ]
    if not isinstance(body.get("model"), dict | None):
        errors.append(field_error(("model",), "wrong_type", "must be a signed manifest", body["model"]))
    needed = ("schema", "version", "values")
    errors += [field_error((key,), "missing", "is missing: add it") for key in needed if key not in body]
    schema, version, values = body.get("schema", SCHEMA), body.get("version", 1), body.get("values", {})
    if not _is_integer(schema):
        errors.append(field_error(("schema",), "wrong_type", f"must be the integer {SCHEMA}", schema))
    elif schema != SCHEMA:
        errors.append(field_error(("schema",), "unsupported", f"only schema {SCHEMA} is known", schema))
    if not _is_integer(version):
        errors.append(field_error(("version",), "wrong_type", "must be an integer", version))
    elif not 1 <= version <= VERSION_MAX:
        errors.append(field_error(("version",), "out_of_range", f"must be from 1 to {VERSION_MAX}", version))
    if not isinstance(values, dict):
        errors.append(field_error(("values",), "wrong_type", "must be an object of sections", values))
    return errors


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
