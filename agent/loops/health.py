"""One thread: reports once a period, and checks the agent's own books."""

from __future__ import annotations

import logging
import os
import platform
import resource
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2

from agent import __version__
from agent.clock import NS_PER_S, Clock
from agent.core.outbox import Message
from agent.engine.session import runtime_version

log = logging.getLogger(__name__)

Snapshot = Callable[[], dict[str, Any]]


class HealthLoop:
    """Sends `health` every period, and events for what must never happen.

    Args:
        snapshot: the whole summary; takes each lock for microseconds.
        emit: hands a message to egress.
        report: sends an event.
        self_check: frames without an outcome, or with two, by stream; all figures must be 0.
        period_ns: between two reports.
        memory_limit_bytes: `limits.memory_mb`, None for none.
        clock: the agent's.
    """

    def __init__(
        self,
        *,
        snapshot: Snapshot,
        emit: Callable[[Message], None],
        report: Callable[[str, Mapping[str, Any]], None],
        self_check: Callable[[], dict[str, int]],
        period_ns: int,
        memory_limit_bytes: int | None,
        clock: Clock,
    ) -> None:
        self._snapshot = snapshot
        self._emit = emit
        self._report = report
        self._self_check = self_check
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
                self.send()

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        self._changed.set()

    def follow(self, *, period_ns: int, memory_limit_bytes: int | None) -> None:
        """Go on with another period, which begins now, and another limit. Any thread."""
        self._memory_limit_bytes = memory_limit_bytes
        if period_ns != self._period_ns:
            self._period_ns = period_ns
            self._changed.set()

    def send(self) -> None:
        """Report now. Any thread."""
        self._check_ledgers()
        self._check_memory()
        body = {"stale_after_s": 2 * self._period_ns / NS_PER_S + 5, **self._snapshot()}
        self._emit(
            Message(kind="health", topic="health", body=body, captured_at_ns=self._clock.now_ns(), qos=0, retain=True)
        )

    def _check_ledgers(self) -> None:
        for stream, violations in self._self_check().items():
            if violations > self._violations.get(stream, 0):
                log.error("%s: %d frames have no outcome, or two: please report this bug", stream, violations)
                self._report("ledger_violation", {"stream": stream, "frames": violations})
            self._violations[stream] = violations

    def _check_memory(self) -> None:
        if self._memory_limit_bytes is None:
            return
        rss_bytes = resident_bytes()
        is_over = rss_bytes > self._memory_limit_bytes
        if is_over and not self._is_over_limit:
            figures = {"rss_mb": round(rss_bytes / 2**20, 1), "limit_mb": self._memory_limit_bytes / 2**20}
            log.warning("memory: %(rss_mb)s MiB resident, limits.memory_mb is %(limit_mb)s", figures)
            self._report("memory_over_limit", figures)
        self._is_over_limit = is_over


def resident_bytes() -> int:
    """Return this process's resident memory; 0 where /proc is missing."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def process_figures(memory_limit_bytes: int | None) -> dict[str, Any]:
    """Return what this process takes of the device."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    rss_bytes = resident_bytes()
    return {
        "rss_mb": round(rss_bytes / 2**20, 1),
        "rss_max_mb": round(usage.ru_maxrss / 1024, 1),
        "limit_mb": None if memory_limit_bytes is None else memory_limit_bytes / 2**20,
        "over_limit": memory_limit_bytes is not None and rss_bytes > memory_limit_bytes,
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
