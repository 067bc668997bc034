"""One thread a stream: reads its source, stamps and counts frames, and brings a lost source back."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from agent.clock import NS_PER_S, Clock
from agent.core.backoff import Backoff
from agent.core.pulse import Pulse
from agent.errors import PermanentError, TransientError
from agent.interfaces import Source
from agent.loops.inbox import Inbox
from agent.loops.quiet_log import QuietLog

log = logging.getLogger(__name__)

UNUSABLE_IN_A_ROW_MAX = 100
"""After this many frames without one that can be decoded the source counts as lost: 4 s at 25 fps."""

WAIT_MAX_NS = NS_PER_S
"""Longest wait between two tries to open a source: its results are to be back within 3 s of its return, and two tries
a second on average cost neither side anything. A broker, which a fleet shares, is given 30 s."""

PROVEN_AFTER_NS = 10 * NS_PER_S
"""A source that delivered for this long starts the next back-off anew; one that flaps does not."""

T = TypeVar("T")

ReportEvent = Callable[[str, Mapping[str, Any]], None]


class CaptureLoop:
    """Reads one source until its end or `stop`.

    Args:
        stream: its name.
        source: opened, read and closed by this thread alone.
        inbox: where frames go.
        clock: the agent's.
        report: sends an event, by type and body.
        backoff: waits between attempts to open.
        reader: from `Inbox.attach` where this loop takes over from another one.
    """

    def __init__(
        self,
        stream: str,
        source: Source,
        inbox: Inbox,
        clock: Clock,
        report: ReportEvent,
        backoff: Backoff,
        reader: int = 0,
    ) -> None:
        self._stream = stream
        self._source = source
        self._inbox = inbox
        self._clock = clock
        self._report = report
        self._backoff = backoff
        self._reader = reader
        self._stopping = threading.Event()
        self._faults = QuietLog(log, clock)
        self._is_lost = False
        self._begins_anew = reader > 0
        """Its next frame is no continuation: another reader came before, or the source was lost."""
        self._calls = 0
        self._is_in_call = False
        self.failure: str | None = None
        """Why the stream ended for good, None while it runs or when it ended as it should."""

    def run(self) -> None:
        """The thread's body."""
        try:
            while not self._stopping.is_set() and self._run_until_lost():
                self._clock.wait(self._stopping, self._backoff.next_wait_ns())
        except PermanentError as error:
            self.failure = str(error)
            log.error("%s: the stream ends: %s", self._stream, error)
            self._report("stream_failed", {"stream": self._stream, "reason": self.failure})
        finally:
            self._source.close()
            self._inbox.end_stream(self._stream, self._reader)

    def stop(self) -> None:
        """End the loop; a wait for a frame ends where the source can be interrupted. Any thread."""
        self._stopping.set()
        self._source.interrupt()

    def pulse(self) -> Pulse:
        """Return the heartbeat: calls of the source, each of which must end by itself. Any thread."""
        return Pulse(self._calls, self._is_in_call)

    def _call(self, call: Callable[[], T]) -> T:
        self._calls += 1
        self._is_in_call = True
        try:
            return call()
        finally:
            self._is_in_call = False

    def _run_until_lost(self) -> bool:
        """Open and read; return whether the source was lost and should be tried again."""
        try:
            self._call(self._source.open)
            return self._read_all()
        except TransientError as error:
            self._call(self._source.close)
            if self._stopping.is_set():
                return False
            self._faults.warn(self._stream, str(error))
            if not self._is_lost:
                self._is_lost = True
                self._inbox.source_lost(self._stream)
                self._report("source_lost", {"stream": self._stream, "reason": str(error)})
            return True

    def _read_all(self) -> bool:
        """Read until the end; return False there. A loss raises TransientError."""
        opened_at_ns = self._clock.now_ns()
        unusable_in_a_row = 0
        while not self._stopping.is_set():
            try:
                capture = self._call(self._source.read)
            except PermanentError as error:
                self._inbox.unusable(self._stream, self._clock.now_ns(), self._reader)
                self._faults.warn(f"{self._stream} frame", str(error))
                unusable_in_a_row += 1
                if unusable_in_a_row >= UNUSABLE_IN_A_ROW_MAX:
                    raise TransientError(f"{unusable_in_a_row} frames in a row were unusable: {error}") from error
                continue
            if capture is None:
                return False
            unusable_in_a_row = 0
            if self._is_lost:
                self._is_lost = False
                self._faults.clear(self._stream)
                log.info("%s: the source is back", self._stream)
                self._report("source_back", {"stream": self._stream, "attempts": self._backoff.failures})
                self._begins_anew = True
            if self._backoff.failures and capture.captured_at_ns - opened_at_ns > PROVEN_AFTER_NS:
                self._backoff.reset()
            if self._begins_anew:
                self._begins_anew = False
                capture = capture._replace(follows=False)
            self._inbox.offer(self._stream, capture, self._reader)
        return False
