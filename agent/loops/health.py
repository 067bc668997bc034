"""One thread: reports once a period, and checks the agent's own books."""

from __future__ import annotations

import logging
import platform
import resource
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import cv2

from agent import __version__
from agent.clock import NS_PER_S, Clock
from agent.core.outbox import Message
from agent.engine.memory import proportional_mb, resident_bytes
from agent.engine.session import runtime_version

log = logging.getLogger(__name__)

Snapshot = Callable[[], dict[str, Any]]


class Keep(Protocol):
    """See `history.HealthHistory.add`."""

    def __call__(self, body: Mapping[str, Any], *, is_last: bool) -> None:
        """Keep a document, or not."""


class HealthLoop:
    """Sends `health` every period, and events for what must never happen.

    Args:
        snapshot: the whole summary; holds each lock for some 20 us at a time.
        emit: hands a message to egress.
        report: sends an event.
        self_check: frames without an outcome, or with two, by stream; all figures must be 0.
        keep: gets each document, and whether it is the last of this run; may write to the disk.
        period_ns: between two reports.
        memory_limit_bytes: what the agent may take.
        clock: the agent's.
    """

    def __init__(
        self,
        *,
        snapshot: Snapshot,
        emit: Callable[[Message], None],
        report: Callable[[str, Mapping[str, Any]], None],
        self_check: Callable[[], dict[str, int]],
        keep: Keep,
        period_ns: int,
        memory_limit_bytes: int,
        clock: Clock,
    ) -> None:
        self._snapshot = snapshot
        self._emit = emit
        self._report = report
        self._self_check = self_check
        self._keep = keep
        self._period_ns = period_ns
        self._memory_limit_bytes = memory_limit_bytes
        self._clock = clock
        self._stopping = threading.Event()
        self._changed = threading.Event()
        self._violations: dict[str, int] = {}
        self._is_over_limit = False

    def run(self) -> None:
        """The thread's body."""
        while not self._stopping.is_set():
            self._changed.clear()
            if not self._clock.wait(self._changed, self._period_ns):
                self._keep(self.send(), is_last=False)
        # Here and not where the agent ends: a disk that hangs must hold up nobody else.
        self._keep(self._body(), is_last=True)

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        self._changed.set()

    def follow(self, *, period_ns: int) -> None:
        """Go on with another period, which begins now. Any thread."""
        if period_ns != self._period_ns:
            self._period_ns = period_ns
            self._changed.set()

    def send(self) -> Mapping[str, Any]:
        """Report now, and return what was reported. Any thread."""
        self._check_ledgers()
        self._check_memory()
        body = self._body()
        self._emit(
            Message(kind="health", topic="health", body=body, captured_at_ns=self._clock.now_ns(), qos=0, retain=True)
        )
        return body

    def _body(self) -> Mapping[str, Any]:
        return {"stale_after_s": 2 * self._period_ns / NS_PER_S + 5, **self._snapshot()}

    def _check_ledgers(self) -> None:
        for stream, violations in self._self_check().items():
            if violations > self._violations.get(stream, 0):
                log.error("%s: %d frames have no outcome, or two: please report this bug", stream, violations)
                self._report("ledger_violation", {"stream": stream, "frames": violations})
            self._violations[stream] = violations

    def _check_memory(self) -> None:
        rss_bytes = resident_bytes()
        is_over = rss_bytes > self._memory_limit_bytes
        if is_over and not self._is_over_limit:
            figures = {"rss_mb": round(rss_bytes / 2**20, 1), "limit_mb": round(self._memory_limit_bytes / 2**20, 1)}
            log.warning("memory: %(rss_mb)s MiB resident, the limit is %(limit_mb)s MiB", figures)
            self._report("memory_over_limit", figures)
        self._is_over_limit = is_over


def process_figures(memory_limit_bytes: int) -> dict[str, Any]:
    """Return what this process takes of the device."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    rss_bytes = resident_bytes()
    return {
        "rss_mb": round(rss_bytes / 2**20, 1),
        "rss_max_mb": round(usage.ru_maxrss / 1024, 1),
        "pss_mb": proportional_mb(),
        "limit_mb": round(memory_limit_bytes / 2**20, 1),
        "over_limit": rss_bytes > memory_limit_bytes,
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 3),
        "threads": threading.active_count(),
    }


def versions() -> dict[str, str]:
    """Return what runs here."""
    return {
        "edgebeat": __version__,
        "onnxruntime": runtime_version(),
        "opencv": cv2.__version__,
        "python": platform.python_version(),
    }
