"""How the device was in the last hours: some of the health documents, in the state folder, for a support bundle."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.clock import NS_PER_S, Clock, iso_utc
from agent.durable import append_line

log = logging.getLogger(__name__)

FILE = "health-history.jsonl"
BYTES_MAX = 1 << 20
"""Of a file; the one before is kept as `.1`, so 2 MiB in all: 20 hours of a device with four streams, 8 kB each."""
EVERY_NS = 300 * NS_PER_S
"""Between two documents that are kept, however often health is sent. 288 appends a day of 8 kB, without fsync, are
2.3 MB: an SD card of 8 GB that stands 1,000 rewrites lasts for thousands of years of it."""


class HealthHistory:
    """Appends to `health-history.jsonl`. The health thread.

    A disk that takes nothing is said once, and stops nothing. A default state folder that is absent, as at a desk, is
    no mistake.

    Args:
        folder: `state.dir`.
        clock: the agent's.
    """

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._file = folder / FILE
        self._clock = clock
        self._next_ns = 0
        self._is_said = False

    def add(self, body: Mapping[str, Any], *, is_last: bool = False) -> None:
        """Keep a document when the last one that was kept is old enough, or when none follows in this run."""
        now_ns = self._clock.now_ns()
        if now_ns < self._next_ns and not is_last:
            return
        self._next_ns = now_ns + EVERY_NS
        entry = {"at": iso_utc(self._clock.wall_ns()), **body}
        line = json.dumps(entry, separators=(",", ":"), default=str).encode() + b"\n"
        try:
            append_line(self._file, line, bytes_max=BYTES_MAX, durable=False)
        except FileNotFoundError:
            log.debug("%s: no such folder: no history of health is kept", self._file.parent)
        except OSError as error:
            if not self._is_said:
                log.warning("%s: cannot be written (%s): no history of health is kept", self._file, error.strerror)
            self._is_said = True
        else:
            self._is_said = False


def read_history(folder: Path) -> str:
    """Return what is kept, the oldest first; empty where there is nothing or it cannot be read."""
    texts = []
    for name in (f"{FILE}.1", FILE):
        try:
            texts.append((folder / name).read_text(encoding="utf-8", errors="replace"))
        except OSError:
            continue
    return "".join(texts)
