"""Passwords and certificates: read at each connection, watched for a change while one stands."""

from __future__ import annotations

import logging
import ssl
import stat
from pathlib import Path

from agent.settings import MqttSettings

log = logging.getLogger(__name__)

_said: set[Path] = set()
"""Password files whose mode has been complained about; bounded by the settings, which name one."""


def tls_context(settings: MqttSettings) -> ssl.SSLContext:
    """Return a context with the files as they are now.

    Raises:
        OSError: one cannot be read, or holds no certificate (ssl.SSLError).
    """
    context = ssl.create_default_context(cafile=None if settings.ca_file is None else str(settings.ca_file))
    if settings.cert_file is not None and settings.key_file is not None:
        context.load_cert_chain(settings.cert_file, settings.key_file)
    return context


def read_password(file: Path | None) -> str | None:
    """Return the first line of a password file.

    Raises:
        OSError: it cannot be read as text.
    """
    if file is None:
        return None
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise OSError(f"password file {file} is not UTF-8 text") from error
    if file.stat().st_mode & stat.S_IROTH and file not in _said:
        # Said and used: container runtimes mount secrets like that.
        _said.add(file)
        log.warning("password file %s can be read by every user of this device: chmod o-r %s", file, file)
    return lines[0] if lines else ""


def stamp(settings: MqttSettings) -> tuple[object, ...]:
    """Return what changes when one of the files is replaced or rewritten."""
    stamps: list[object] = []
    for file in (settings.ca_file, settings.cert_file, settings.key_file, settings.password_file):
        try:
            found = None if file is None else file.stat()
        except OSError:
            found = None
        stamps.append(None if found is None else (found.st_mtime_ns, found.st_ino, found.st_size))
    return tuple(stamps)


def are_usable(settings: MqttSettings) -> bool:
    """Return whether the files make sense together: a certificate may have been written and its key not yet."""
    try:
        tls_context(settings)
        read_password(settings.password_file)
    except (OSError, ValueError):
        return False
    return True
