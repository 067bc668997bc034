"""A support bundle: what somebody else needs to help, without secrets and of bounded size."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

PART_BYTES_MAX = 2 << 20
"""Of a part, its end: the newest lines of a log. Ten parts of text compress to 2 MB or so."""


def write_bundle(file: Path, parts: Mapping[str, str]) -> int:
    """Write a .tar.gz with one file a part, readable by its owner alone; return its size in bytes.

    Raises:
        OSError: it cannot be written.
    """
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as stream, tarfile.open(fileobj=stream, mode="w|") as tar:
        for name, text in parts.items():
            content = text.encode("utf-8", "replace")
            if len(content) > PART_BYTES_MAX:
                content = b"(the beginning was left out)\n" + content[-PART_BYTES_MAX:]
            entry = tarfile.TarInfo(f"edgebeat-bundle/{name}")
            entry.size = len(content)
            entry.mode = 0o600
            tar.addfile(entry, io.BytesIO(content))
    partial = file.with_name(f".{file.name}.part")
    partial.touch(mode=0o600)
    partial.write_bytes(packed.getvalue())
    partial.replace(file)
    return len(packed.getvalue())
