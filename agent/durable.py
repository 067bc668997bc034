"""Files that a power cut leaves whole: the old content or the new one, nothing between."""

from __future__ import annotations

import logging
import os
from pathlib import Path

log = logging.getLogger(__name__)


def replace_file(file: Path, payload: bytes, mode: int = 0o600) -> None:
    """Replace a file's content; it is on disk when this returns.

    Raises:
        OSError: the disk is full, read-only or absent; what was there is there still.
    """
    partial = file.with_name(f".{file.name}.part")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        with os.fdopen(os.open(partial, flags, mode), "wb") as stream:
            stream.write(payload)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(file)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(file.parent)


def append_line(file: Path, line: bytes, *, bytes_max: int, durable: bool) -> None:
    """Append one line to a file of bounded size; the full one is kept as `.1`, so that there are two at most.

    Args:
        file: for its owner alone; made where it is absent, in a folder that is there.
        line: with its end.
        bytes_max: of each of the two files.
        durable: whether it is on disk when this returns.

    Raises:
        OSError: the disk is full, read-only or absent; half of a line may be there.
    """
    if file.exists() and file.stat().st_size + len(line) > bytes_max:
        file.replace(file.with_name(f"{file.name}.1"))
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.write(descriptor, line)
        if durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def set_aside(file: Path) -> None:
    """Give a file that cannot be read the ending `.damaged`, for whoever wants to know; say so where that fails."""
    aside = file.with_name(f"{file.name}.damaged")
    try:
        file.replace(aside)
        log.warning("%s: set aside as %s", file, aside)
    except OSError as error:
        log.warning("%s: cannot be set aside: %s", file, error.strerror)


def sync_folder(folder: Path) -> None:
    """Bring names that were made, changed or removed in a folder to the disk.

    Raises:
        OSError: that failed.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
