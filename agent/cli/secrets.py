"""Settings as they may be shown to others: without the passwords that URLs carry."""

from __future__ import annotations

import re
from typing import Any

_USER_INFO = re.compile(r"(\w+://)[^/@\s]*@")
_QUERY = re.compile(r"(?i)\b(pass\w*|pwd|token|key|secret|auth|sig\w*|user\w*)=[^&\s\"']+")

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
