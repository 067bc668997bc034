"""One thread: writes arrivals and runs to a file for `edgebeat simulate`."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from agent.clock import NS_PER_S, Clock
from agent.core.policy import SchedulerPolicy, StreamPolicy
from agent.core.scheduler import Ending
from agent.core.trace import arrival_line, header, run_line
from agent.errors import ConfigError
from agent.frame import Frame

log = logging.getLogger(__name__)

WAITING_MAX = 100_000
"""Lines that wait for the disk: 1,000 frames a second for 50 s, about 20 MB. More are counted as lost."""

BYTES_MAX = 256 << 20
"""The file ends there: an hour of 1,000 frames a second."""

FLUSH_EVERY_NS = NS_PER_S

Entry = tuple[str, int, int] | tuple[str, int, int, int, Ending]
"""An arrival or a run, as `core.trace` takes them."""


class TraceRecorder:
    """See `inbox.Trace`. Recording costs the inference thread one append.

    Args:
        file: replaced, or continued after a restart.
        policies: by stream name.
        scheduling: what holds for all streams.
        clock: the agent's.
        is_continued: whether the run before this one began the file.

    Raises:
        ConfigError: the file cannot be written.
    """

    def __init__(
        self,
        file: Path,
        policies: Mapping[str, StreamPolicy],
        scheduling: SchedulerPolicy,
        clock: Clock,
        *,
        is_continued: bool = False,
    ) -> None:
        self._file = file
        self._clock = clock
        self._waiting: deque[Entry] = deque()
        self._stopping = threading.Event()
        self._bytes = 0
        self._is_broken = False
        self.lost = 0
        """Lines that were not written: the disk was too slow, full, or the file has reached its limit."""
        try:
            self._stream = file.open("a" if is_continued else "w", encoding="utf-8")
            self._bytes = self._stream.tell()
            if not self._bytes:
                self._write(header(policies, scheduling))
        except OSError as error:
            raise ConfigError(f"--record-trace {file}: cannot be written: {error.strerror}") from error

    def arrived(self, stream: str, captured_at_ns: int, now_ns: int) -> None:
        """See `Trace.arrived`."""
        self._append((stream, captured_at_ns, now_ns))

    def ran(self, frame: Frame, started_ns: int, ended_ns: int, ending: Ending) -> None:
        """See `Trace.ran`."""
        self._append((frame.stream, frame.captured_at_ns, started_ns, ended_ns, ending))

    def run(self) -> None:
        """The thread's body; what waits at the end is still written."""
        is_last = False
        while not is_last:
            is_last = self._clock.wait(self._stopping, FLUSH_EVERY_NS)
            self._flush()
        with contextlib.suppress(OSError):  # A full disk was reported when it filled.
            self._stream.close()
        if self.lost:
            log.warning("%s: %d lines are missing in the trace", self._file, self.lost)

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()

    def _append(self, entry: Entry) -> None:
        if len(self._waiting) < WAITING_MAX:
            self._waiting.append(entry)
        else:
            self.lost += 1

    def _flush(self) -> None:
        try:
            while self._waiting:
                entry = self._waiting.popleft()
                line = arrival_line(*entry) if len(entry) == 3 else run_line(*entry)
                if not self._is_broken and self._bytes + len(line) < BYTES_MAX:
                    self._write(line)
                else:
                    self.lost += 1
            if not self._is_broken:
                self._stream.flush()
        except OSError as error:
            self._is_broken = True
            self.lost += 1
            log.warning("%s: the trace ends, it cannot be written: %s", self._file, error.strerror)

    def _write(self, line: str) -> None:
        self._bytes += self._stream.write(line + "\n")
