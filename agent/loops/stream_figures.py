"""What is measured of one stream: recorded under the inbox's lock, made into figures outside of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import sub
from typing import Any

from agent.clock import NS_PER_S
from agent.core.ledger import Ledger, Outcome
from agent.core.policy import StreamPolicy
from agent.metrics import Histogram, RollingHistogram, summed

STAGES = ("preprocess", "run", "decode", "steps")
"""Of a frame, as they are timed; `steps` only where its stream has some."""

TOGETHER = 32
"""Frames whose stages are put into histograms at once, 15 us: one by one each took 5."""

RECENT_NS = 60 * NS_PER_S
"""`recent` figures are of the period of this length that runs, and the one before it: of the last one to two minutes.
Long enough for a figure that stands still at 1 fps, short enough that a stream which slows down shows it."""


@dataclass(frozen=True, slots=True)
class _Mark:
    """Counts at one moment."""

    at_ns: int
    captured: int
    published: int


@dataclass(slots=True)
class StreamFigures:
    """Beside the ledger; guarded by the inbox's lock.

    Attributes:
        age: ages of live results when egress handed them to the sink.
        stages: durations by stage: preprocess, run, decode, hand_over (inference to sink).
        gaps: frames before which their source lost something: samples of a signal, or messages, or itself.
        is_open: its source may still deliver.
        is_off: nobody reads its source now, and somebody may later.
        reader: number of the one who may offer frames; see `Inbox.attach`.
    """

    age: RollingHistogram = field(default_factory=RollingHistogram)
    stages: dict[str, RollingHistogram] = field(default_factory=dict)
    first_at_ns: int | None = None
    last_at_ns: int | None = None
    source_losses: int = 0
    gaps: int = 0
    is_open: bool = True
    is_off: bool = False
    reader: int = 0
    _timed: list[Sequence[int]] = field(default_factory=list)
    _mark: _Mark | None = None
    _mark_before: _Mark | None = None

    def record_stages(self, marks: Sequence[int]) -> None:
        """Add the durations of one frame's `STAGES`, ns: each from one mark to the next."""
        timed = self._timed
        if timed and len(marks) != len(timed[0]):  # Its steps were turned on or off.
            self._sort_out()
        timed.append(marks)
        if len(timed) >= TOGETHER:
            self._sort_out()

    def _sort_out(self) -> None:
        """Hand what was timed to the stages."""
        if not self._timed:
            return
        marks = list(zip(*self._timed, strict=True))
        self._timed.clear()
        for name, began_ns, ended_ns in zip(STAGES, marks, marks[1:], strict=False):
            self._stage(name).current.extend(list(map(sub, ended_ns, began_ns)))

    def _stage(self, name: str) -> RollingHistogram:
        if name not in self.stages:  # Not setdefault: a histogram is 1,050 integers.
            self.stages[name] = RollingHistogram()
        return self.stages[name]

    def record_sent(self, age_ns: int, hand_over_ns: int) -> None:
        """Add the age of a live result when the sink had it, and how long that took after inference."""
        self.age.current.record(age_ns)
        self._stage("hand_over").current.record(hand_over_ns)

    def turn(self, ledger: Ledger, now_ns: int) -> None:
        """Begin a new period where the one that runs is over. To be called more often than that."""
        if self.first_at_ns is None:
            return
        if self._mark is None:
            self._mark = _Mark(self.first_at_ns, 1, 1)  # The first frame is the beginning of the first span.
        if now_ns - self._mark.at_ns < RECENT_NS:
            return
        self._sort_out()
        self._mark_before = self._mark
        self._mark = _Mark(now_ns, ledger.captured, ledger.count(Outcome.PUBLISHED))
        for histogram in self.histograms():
            histogram.turn()

    def histograms(self) -> list[RollingHistogram]:
        """Return all of them."""
        return [self.age, *self.stages.values()]

    def rates(self, ledger: Ledger, now_ns: int, *, recent: bool) -> tuple[float, float]:
        """Return captured and published frames a second; a count over a span, as gaps swing on bursty RTSP.

        Of late they are counted until now, so that a source which stopped shows it; over the whole run until its
        last frame.
        """
        if self.first_at_ns is None or self.last_at_ns is None:
            return 0.0, 0.0
        since, until_ns = _Mark(self.first_at_ns, 1, 1), self.last_at_ns
        if recent and (mark := self._mark_before or self._mark) is not None:
            since, until_ns = mark, now_ns
        span_ns = until_ns - since.at_ns
        if span_ns <= 0:
            return 0.0, 0.0
        counts = (ledger.captured - since.captured, ledger.count(Outcome.PUBLISHED) - since.published)
        captured, published = (round(max(0, count) * NS_PER_S / span_ns, 2) for count in counts)
        return captured, published

    def durations(self, *, recent: bool) -> Durations:
        """Return what age and stages are made of, some microseconds each."""
        self._sort_out()
        return Durations(
            self.age.parts(recent=recent), {name: stage.parts(recent=recent) for name, stage in self.stages.items()}
        )


@dataclass(frozen=True, slots=True)
class Durations:
    """Histograms that nobody writes to any more."""

    age: tuple[Histogram, ...]
    stages: Mapping[str, tuple[Histogram, ...]]

    def snapshot(self) -> dict[str, Any]:
        """Return them under their public names, 0.1 ms each: not under a lock."""
        stages = {name: summed(parts).summary_ms() for name, parts in self.stages.items()}
        return {"age_ms": summed(self.age).summary_ms(), "stage_ms": stages}


def snapshot(
    figures: StreamFigures, ledger: Ledger, policy: StreamPolicy | None, now_ns: int, *, recent: bool
) -> dict[str, Any]:
    """Return a stream's own figures but its durations under their public names, under the lock."""
    silent_ns = None if figures.last_at_ns is None else now_ns - figures.last_at_ns
    captured_fps, published_fps = figures.rates(ledger, now_ns, recent=recent)
    return {
        "ledger": ledger.snapshot(),
        "captured_fps": captured_fps,
        "published_fps": published_fps,
        "deadline_ms": None if policy is None or policy.budget_ns is None else policy.budget_ns / 1e6,
        "priority": 0 if policy is None else policy.priority,
        "silent_s": None if silent_ns is None else round(silent_ns / NS_PER_S, 3),
        "source_losses": figures.source_losses,
        "gaps": figures.gaps,
        "is_open": figures.is_open,
        "is_off": figures.is_off,
    }
