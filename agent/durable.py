"""Files that a power cut leaves whole: the old content or the new one, nothing between."""

from __future__ import annotations

import os
from pathlib import Path


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
