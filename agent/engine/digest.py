"""SHA-256 of a file: what makes a network, a compiled form and a measured cost belong together."""

from __future__ import annotations

import hashlib
from pathlib import Path

from agent.errors import ConfigError


def sha256_of(file: Path) -> str:
    """Return the hex digest of a file.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error
