"""One thread: tells the service manager how the agent is, and pings its watchdog while everything makes progress."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from agent.clock import NS_PER_S, Clock, monotonic_ns
from agent.core.pulse import Pulse, PulseCheck
from agent.device.notify import ServiceManager

log = logging.getLogger(__name__)

LOOK_NS = 10 * NS_PER_S
"""Between two looks: a third of the unit's WatchdogSec=30, and six wake-ups a minute."""

CONTACT_NS = 20 * NS_PER_S
"""READY waits so long for the first attempt to reach the broker: a name look-up that hangs is no reason to fail."""

LOADING_NS = 15 * 60 * NS_PER_S
"""More time is asked for while models load, up to this sum: `loading` gives up a network after 300 s and a warm-up
after 60 s, so that two of the largest fit."""

LOADING_STEP_NS = 5 * NS_PER_S
"""Between two requests for more time; each asks for four times as much."""

CALL_NS = 20 * NS_PER_S
"""What one call may take that ends by itself: a camera's read 10 s (V4L2), a network stream's 5 s to open and 5 s to
read, a turn of egress 3 s to connect and the name look-up (18 s with the unit's RES_OPTIONS and three dead servers).
With the unit's WatchdogSec=30 on top, a stall of the machine of half a minute ends nothing."""

SILENT_S = 5.0
"""A stream without a frame for so long says that instead of its rate."""

_STOP, _RELOAD, _RELOADED = "stop", "reload", "reloaded"

STATUS_STREAMS_MAX = 3
"""Of the streams, how many are named in the one line of status."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part that must make progress.

    Attributes:
        name: for the log, such as `egress` or `capture-door`.
        pulse: reads its heartbeat; takes no lock that a hang could hold.
        patience_ns: how long it may stand still beside the watchdog's own time.
    """

    name: str
    pulse: Callable[[], Pulse]
    patience_ns: int


class ServiceLoop:
    """READY, STATUS, WATCHDOG and RELOADING. Without a service manager it only waits for a reload.

    Args:
        manager: told.
        parts: returns what is watched now; one that stands still stops the pings, and the service manager ends the
            agent.
        summary: see `Daemon.summary`.
        contacted: set when the broker was reached, or could not be, for the first time.
        reload: has the settings file read again, in another thread, which then calls `reloaded`.
        clock: the agent's.
    """

    def __init__(
        self,
        *,
        manager: ServiceManager,
        parts: Callable[[], list[Part]],
        summary: Callable[[], dict[str, Any]],
        contacted: threading.Event,
        reload: Callable[[], None],
        clock: Clock,
    ) -> None:
        self._manager = manager
        self._parts = parts
        self._summary = summary
        self._contacted = contacted
        self._reload = reload
        self._is_reloading = False
        self._clock = clock
        self._requests: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._look_ns = LOOK_NS if manager.watchdog_ns is None else min(LOOK_NS, manager.watchdog_ns // 3)
        self._check = PulseCheck()
        self._still: list[str] = []
        self._published: dict[str, tuple[int, int]] = {}

    def run(self) -> None:
        """The thread's body."""
        if self._manager.is_there:
            self._manager.tell(WATCHDOG=1, EXTEND_TIMEOUT_USEC=2 * CONTACT_NS // 1000)
            self._clock.wait(self._contacted, CONTACT_NS)
            if self._requests.empty():  # Neither after STOPPING nor before a reload, which says READY itself.
                self._manager.tell(READY=1, STATUS=self.status())
        while (request := self._next_request()) != _STOP:
            if request == _RELOAD:
                self._begin_reload()
            elif request == _RELOADED:
                self._is_reloading = False
                self._manager.tell(READY=1, STATUS=self.status())
            else:
                self.look()

    def stop(self) -> None:
        """End the thread."""
        self._requests.put(_STOP)
        self._contacted.set()

    def leave(self, reason: str, time_ns: int, *, is_replaced: bool) -> None:
        """End the thread, and say why the agent ends; a run that is replaced in place only asks for patience.

        Args:
            reason: for people.
            time_ns: what the end may take.
            is_replaced: whether another run follows in this process.
        """
        self.stop()
        if is_replaced:
            self._manager.tell(WATCHDOG=1, STATUS=f"restarting: {reason}")
        else:
            self._manager.tell(STOPPING=1, STATUS=f"stopping: {reason}", EXTEND_TIMEOUT_USEC=time_ns // 1000)

    def request_reload(self) -> None:
        """Read the settings file again soon. Any thread and signal handlers: `SimpleQueue.put` is reentrant."""
        self._requests.put(_RELOAD)

    def reloaded(self) -> None:
        """Say that a reload is over, however it ended. Any thread."""
        self._requests.put(_RELOADED)

    def look(self) -> None:
        """Ping if every part makes progress; say which does not."""
        parts = self._parts()
        pulses = {part.name: part.pulse() for part in parts}
        still = self._check.look(pulses, {part.name: part.patience_ns // self._look_ns for part in parts})
        if still:
            if still != self._still:
                log.error("%s: no progress: the service manager is told nothing until there is", ", ".join(still))
            self._manager.tell(STATUS=f"no progress: {', '.join(still)}")
        else:
            self._manager.tell(WATCHDOG=1, STATUS=self.status())
        if self._is_reloading:
            self._manager.extend(3 * self._look_ns)
        self._still = still

    def status(self) -> str:
        """Return one line for `systemctl status`: what each stream does, and the broker."""
        summary, now_ns = self._summary(), self._clock.now_ns()
        streams = list(summary["streams"].items())
        words = [self._stream_status(name, figures, now_ns) for name, figures in streams]
        if len(words) > STATUS_STREAMS_MAX:
            words[STATUS_STREAMS_MAX:] = [f"{len(words) - STATUS_STREAMS_MAX} more streams"]
        return "; ".join([*(words or ["no stream runs"]), broker_status(summary["delivery"])])

    def _stream_status(self, name: str, figures: Mapping[str, Any], now_ns: int) -> str:
        published = figures["ledger"]["published"]
        before, at_ns = self._published.get(name, (published, now_ns))
        self._published[name] = (published, now_ns)
        fps = (published - before) * NS_PER_S / (now_ns - at_ns) if now_ns > at_ns else 0.0
        if not figures["is_open"]:
            return f"{name}: off" if figures["is_off"] else f"{name}: ended"
        silent_s = figures["silent_s"]
        if silent_s is None or silent_s > SILENT_S:
            return f"{name}: no frame" + ("" if silent_s is None else f" for {silent_s:.0f} s")
        p95_ms = figures["age_ms"]["p95"]
        return f"{name}: {fps:.1f} fps" + (f", age {p95_ms:.0f} ms" if p95_ms is not None else "")

    def _next_request(self) -> str:
        """Wait for a request; none comes when it is time to look."""
        try:
            return self._requests.get(timeout=self._look_ns / NS_PER_S if self._manager.is_there else None)
        except queue.Empty:
            return ""

    def _begin_reload(self) -> None:
        """READY follows when the settings were applied or refused; models may be loaded until then."""
        self._is_reloading = True
        self._manager.reloading(monotonic_ns())
        self._reload()


def broker_status(delivery: Mapping[str, Any]) -> str:
    """Return what a line of status says of delivery."""
    waiting = delivery["queued"] + delivery["spooled"]
    if delivery["connected"]:
        return "broker connected"
    return f"broker away, {waiting} messages wait"


@contextmanager
def patience(manager: ServiceManager, clock: Clock, limit_ns: int = LOADING_NS) -> Iterator[None]:
    """Ask for more time and ping for the length of the block, which loads models; no longer than the limit.

    A run that replaces another in place is watched already, so that both are told.
    """
    if not manager.is_there:
        yield
        return
    done = threading.Event()

    def ask() -> None:
        by_ns = clock.now_ns() + limit_ns
        while clock.now_ns() < by_ns:
            manager.extend(4 * LOADING_STEP_NS)
            manager.tell(WATCHDOG=1)
            if clock.wait(done, LOADING_STEP_NS):
                return
        log.error("models have been loading for %d s: no more time is asked for", limit_ns // NS_PER_S)

    manager.tell(STATUS="loading and checking models")
    thread = threading.Thread(target=ask, name="patience", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
