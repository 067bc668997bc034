"""Files of /proc and /sys: short, made by the kernel at the moment of reading, and missing on some devices.

`Path.read_text` takes five times as long: a decoder, a buffer and two calls more, for what is read each second.
"""

from __future__ import annotations

import os
from pathlib import Path

_CHUNK_BYTES = 1 << 14


def read_kernel_file(file: str | os.PathLike[str]) -> str:
    """Return what a file says, an empty text where it cannot be read. 10 us."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        content = b""
        while chunk := os.read(descriptor, _CHUNK_BYTES):
            content += chunk
    except OSError:  # A sensor that is off, a device that went away.
        return ""
    finally:
        os.close(descriptor)
    return content.decode("ascii", "replace")


def read_number(file: Path) -> int | None:
    """Return the integer that a file holds; None where there is none."""
    text = read_kernel_file(file).strip()
    return int(text) if text.lstrip("-").isdigit() else None


def read_pressure(file: Path) -> float | None:
    """Return avg10 of the line `some avg10=1.23 avg60=... avg300=... total=...`, percent; None without one."""
    words = read_kernel_file(file).split(maxsplit=2)
    if len(words) < 2 or words[0] != "some" or not words[1].startswith("avg10="):
        return None
    try:
        return float(words[1].removeprefix("avg10="))
    except ValueError:
        return None
