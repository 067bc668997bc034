"""One thread: reads the device once a second, and does less when it must."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from agent.clock import NS_PER_S, Clock
from agent.core.degradation import Cause, Change, Ladder, Readings, StepKind
from agent.device.signals import Signals
from agent.engine.memory import MemoryReading
from agent.interfaces import LoadedModel
from agent.loops.inbox import Inbox
from agent.loops.inference import InferenceLoop

log = logging.getLogger(__name__)

TIDY_EVERY_NS = 60 * NS_PER_S
"""Between two times that free heap goes back to the system, 0.2 to 0.6 ms. Small things come and go in other holes of
it each minute, so that an agent would come to hold all of it: 0.5 to 1 MiB more in an hour."""
READ_EVERY_NS = NS_PER_S
"""Pressure is an average of ten seconds, heat is slower still."""

MISSES_WINDOW_MIN, MISSES_WINDOW_MAX = 3, 30
"""Misses are counted over the last 3 s, or over as many as it takes to see enough frames, 30 at most."""

MISSES_ENDED_MIN = 5
"""Fewer frames than this tell nothing."""

ReportEvent = Callable[[str, Mapping[str, Any]], None]


class MemorySource(Protocol):
    """What `engine.memory.MemoryGauge` gives; tests bring their own."""

    def read(self) -> MemoryReading:
        """Look at the memory now."""


class Giving(Protocol):
    """What `engine.memory.MemoryKeeper` does; tests bring their own."""

    def hold(self) -> None:
        """Set the cap on private memory for the next second."""

    def let_go(self) -> None:
        """Take that cap back for good. Any thread."""

    def set_frugal(self, is_frugal: bool) -> None:
        """Return what is freed to the system at once, or keep it for the next frame."""

    def give_back(self) -> None:
        """Return what was freed."""

    def tidy(self) -> None:
        """Return freed heap, and keep the buffers of frames for the next ones."""


class SignalSource(Protocol):
    """What `device.signals.DeviceSignals` gives; tests bring their own."""

    def read(self) -> Signals:
        """Look at the device now."""


class GovernorLoop:
    """Reads the device and the misses, and brings streams and models to what the ladder says.

    Args:
        loops: returns the inference loops of the moment.
        inbox: counts misses; streams are throttled there.
        live_streams: those whose frames may be left out.
        ladder: decides.
        signals: of the device.
        memory: what is taken and what may be.
        giving: does what gives memory back.
        report: sends an event.
        clock: the agent's.
    """

    def __init__(
        self,
        *,
        loops: Callable[[], Iterable[InferenceLoop]],
        inbox: Inbox,
        live_streams: Iterable[str],
        ladder: Ladder,
        signals: SignalSource,
        memory: MemorySource,
        giving: Giving,
        report: ReportEvent,
        clock: Clock,
    ) -> None:
        self._loops = loops
        self._inbox = inbox
        self._live_streams = frozenset(live_streams)
        self._ladder = ladder
        self._signals = signals
        self._memory = memory
        self._giving = giving
        self._report = report
        self._clock = clock
        self._stopping = threading.Event()
        self._counted: deque[dict[str, tuple[int, int]]] = deque(maxlen=MISSES_WINDOW_MAX + 1)
        self._readings = Readings()
        self._tidied_ns = clock.now_ns()
        self._seen = Signals()
        self._lock = threading.Lock()

    def run(self) -> None:
        """The thread's body."""
        while not self._clock.wait(self._stopping, READ_EVERY_NS):
            self.read_device()

    def stop(self) -> None:
        """End the thread, and the cap on memory: what is left to do is to put messages in safety."""
        self._stopping.set()
        self._giving.let_go()

    def follow(self, ladder: Ladder, live_streams: Iterable[str]) -> None:
        """Go on with other steps and streams; what was in force and still exists stays in force. Any thread."""
        with self._lock:
            ladder.resume(self._ladder)
            self._ladder = ladder
            self._live_streams = frozenset(live_streams)
            self._apply()

    def read_device(self) -> None:
        """Look at the device and at the misses, and take or take back a step."""
        seen, memory = self._signals.read(), self._memory.read()
        self._giving.hold()
        if self._clock.now_ns() - self._tidied_ns >= TIDY_EVERY_NS:
            self._tidied_ns = self._clock.now_ns()
            self._giving.tidy()
        self._counted.append(self._inbox.misses())
        readings = Readings(
            misses=_recent_misses(self._counted),
            temperature_margin_c=seen.temperature_margin_c,
            frequency_ratio=seen.frequency_ratio,
            cpu_pressure=seen.cpu_pressure,
            memory_pressure=_worse(memory.pressure, seen.memory_pressure),
            memory_ratio=memory.ratio,
        )
        with self._lock:
            self._seen, self._readings = seen, readings
            change = self._ladder.update(readings, self._clock.now_ns())
            if change is not None:
                self._apply()
        if change is not None:
            self._counted.clear()  # What was counted before says nothing about the new state.
            self._announce(change)

    def snapshot(self) -> dict[str, Any]:
        """Return what is in force and why, and the last readings. Any thread."""
        with self._lock:
            taken, readings, seen = list(self._ladder.taken), self._readings, self._seen
        return {
            "level": len(taken),
            "levels": len(self._ladder.steps),
            "steps": [_described(change) for change in taken],
            "misses": {name: round(share, 3) for name, share in readings.misses.items()},
            "temperature_c": seen.temperature_c,
            "temperature_limit_c": seen.temperature_limit_c,
            "frequency_ratio": seen.frequency_ratio,
            "memory_ratio": None if readings.memory_ratio is None else round(readings.memory_ratio, 3),
            "cpu_pressure": seen.cpu_pressure,
            "memory_pressure": readings.memory_pressure,
        }

    def _apply(self) -> None:
        """Bring streams and models to what the ladder says; the same steps give the same state."""
        steps = [change.step for change in self._ladder.taken]
        kinds = {step.kind for step in steps}
        factor = max((step.level for step in steps if step.kind is StepKind.STRIDE), default=1)
        paused = {step.target for step in steps if step.kind is StepKind.STREAM}
        for stream in self._live_streams:
            self._inbox.throttle(stream, factor=factor, is_paused=stream in paused)
        for loop in self._loops():
            name = loop.model.name
            levels = [step.level for step in steps if step.kind is StepKind.VARIANT and step.target == name]
            loop.select(selected := max(levels, default=0))
            if StepKind.UNLOAD in kinds:
                _unload_others(loop.model, selected)
        self._giving.set_frugal(StepKind.TRIM in kinds)
        if kinds & {StepKind.TRIM, StepKind.UNLOAD}:
            for loop in self._loops():
                loop.variant.engine.shrink()
            self._giving.give_back()

    def _announce(self, change: Change) -> None:
        level = {"level": len(self._ladder.taken), "levels": len(self._ladder.steps)}
        described = _described(change)
        self._report("degraded" if change.is_down else "restored", {**described, **level})
        if change.is_down:
            log.warning("doing less: %(step)s, because of %(cause)s (%(value)s, limit %(limit)s)", described)
        else:
            log.info("doing more again: %(step)s, which was because of %(cause)s, is over", described)


def _worse(one: float | None, other: float | None) -> float | None:
    return max((value for value in (one, other) if value is not None), default=None)


def _unload_others(model: LoadedModel, selected: int) -> None:
    """Drop every network of a model but the one that it is to run; a run that still uses one keeps it to its end."""
    kept = model.variants[selected].engine
    for variant in model.variants:
        if variant.engine is not kept:
            variant.engine.release()


def _described(change: Change) -> dict[str, Any]:
    described = {
        "step": change.step.label,
        "cause": str(change.cause),
        **({"model": change.target} if change.cause is Cause.MISSES else {}),
    }
    if change.value is None or change.limit is None:
        return described  # Taken back.
    return {**described, "value": round(change.value, 3), "limit": round(change.limit, 3)}


def _recent_misses(counted: Sequence[Mapping[str, tuple[int, int]]]) -> dict[str, float]:
    """Return the share of missed frames by model, over the shortest window in which enough frames ended."""
    shares = {}
    for name, (missed, ended) in counted[-1].items():
        for before in list(counted)[-1 - MISSES_WINDOW_MIN :: -1]:
            missed_before, ended_before = before.get(name, (0, 0))
            if ended - ended_before >= MISSES_ENDED_MIN:
                shares[name] = (missed - missed_before) / (ended - ended_before)
                break
    return shares
