"""Validates what a subscriber received against the published schemas."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable

from jsonschema import Draft202012Validator

from tests.broker import Message
from tests.paths import REPOSITORY

_NAMES = {"results": "result", "events": "event", "responses": "response"}


@functools.cache
def validator(name: str) -> Draft202012Validator:
    """Return the validator of docs/schemas/{name}.json."""
    return Draft202012Validator(json.loads((REPOSITORY / f"docs/schemas/{name}.json").read_text()))


def check_all(messages: Iterable[Message], prefix: str = "edgebeat/v1/porch/") -> set[str]:
    """Check every message of a device and return the kinds that there were."""
    seen = set()
    for message in messages:
        levels = message.topic.removeprefix(prefix).split("/")
        kind = levels[1] if levels[0] in ("settings", "model") else levels[0]
        name = _NAMES.get(kind, kind)
        validator(name).validate(message.body)
        seen.add(name)
    return seen
