"""Who changed what, and when: one JSON object a line, appended, in a file of bounded size."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.clock import Clock, iso_utc
from agent.durable import append_line

log = logging.getLogger(__name__)

FILE = "audit.jsonl"
BYTES_MAX = 1 << 20
"""Of a file; the one before is kept as `.1`, so 2 MiB in all: some 5,000 changes."""


class Audit:
    """Appends changes of settings and models, and commands, to `audit.jsonl` in the state folder. Any thread.

    Args:
        folder: `state.dir`.
        clock: gives the wall time of each line.
    """

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._file = folder / FILE
        self._lock = threading.Lock()
        self._clock = clock
        self.failures = 0
        """Lines that the disk did not take."""

    def add(self, action: str, body: Mapping[str, Any]) -> None:
        """Append one line; a disk that takes none is said and counted, and stops nothing."""
        entry = {"at": iso_utc(self._clock.wall_ns()), "action": action, **body}
        line = json.dumps(entry, separators=(",", ":"), default=str).encode() + b"\n"
        with self._lock:
            self._append(line)

    def _append(self, line: bytes) -> None:
        try:
            append_line(self._file, line, bytes_max=BYTES_MAX, durable=True)
        except OSError as error:
            self.failures += 1
            log.warning("%s: cannot be written: %s", self._file, error.strerror)
