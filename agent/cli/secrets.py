"""Settings as they may be shown to others: without the passwords that URLs carry."""

from __future__ import annotations

import re
from typing import Any

_USER_INFO = re.compile(r"(\w+://)[^/@\s]*@")
_QUERY = re.compile(
    # A word of its own in a query, or part of a variable's name, such as CAMERA_PASSWORD.
    r"(?i)(\b(?:key|auth|sig\w*|user\w*)|\w*(?:pass|pwd|token|secret|api_?key)\w*)=[^&\s\"']+"
)

HIDDEN = "***"


def without_secrets(value: Any) -> Any:
    """Return strings, lists and objects with `***` in the place of what a URL says before `@` or as a token.

    Files that hold secrets are only named in settings, and stay.
    """
    if isinstance(value, dict):
        return {key: without_secrets(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(item) for item in value]
    if isinstance(value, str):
        return _QUERY.sub(rf"\1={HIDDEN}", _USER_INFO.sub(rf"\1{HIDDEN}@", value))
    return value
