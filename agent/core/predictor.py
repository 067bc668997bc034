"""How long the next inference will take, and whether a frame has that long."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections import deque
from dataclasses import dataclass

from agent.clock import NS_PER_S

SAMPLES_MIN = 3
"""The newest are kept whatever their age: one stall of seconds would otherwise be all that is known when it ends."""

CURRENT_MIN = 8
"""As many in the window make a judgement of their own; with fewer, noise would decide between equal streams."""

SAMPLES_MAX = 64
"""Bounds memory; 2 s at 32 runs a second."""

PROBE_LAG_SHARE = 0.04
"""Of the time since runs are aborted one after another, what may go by until the next is tried, where that is longer.
What a slow spell costs beyond its end stays a share of what it has cost; the longer it lasts, the less is tried."""


@dataclass(frozen=True, slots=True)
class PredictorPolicy:
    """How admission judges; `settings.SchedulerSettings` tells the reason of each value.

    Attributes:
        confidence: a frame runs when its chance to finish in time is at least this share of what a frame has that
            was captured just now. Where inference fits the deadline with ease that is the plain quantile.
        window_ns: a sample older than this is forgotten, so that a change of the clock frequency is learnt.
        probe_share: of the pause before it, how long a run may take that only tells whether frames fit again.
        probe_interval_ns: the longest time between two such probes.
    """

    confidence: float = 0.9
    window_ns: int = 2 * NS_PER_S
    probe_share: float = 0.5
    probe_interval_ns: int = NS_PER_S // 2


class ServicePredictor:
    """Learns service times: those of one stream on one model variant, or those of all its streams together.

    Three traps shape it. A pessimist that refuses everything after one stall never learns again: probes. A window
    by count alone lags a drop of the clock frequency at a low frame rate: samples age out by time. And a fixed
    high quantile closes a stream on a busy machine, where every frame may miss and some would not: refusing a frame
    only helps if a fresher one has a better chance, so a frame is compared with what the freshest could hope for.
    """

    def __init__(self, policy: PredictorPolicy) -> None:
        self._policy = policy
        self._samples: deque[tuple[int, int]] = deque()
        self._ordered: list[int] = []  # The same service times by length, so that a judgement is a bisection.
        self.fastest_ns = 0
        """Of all runs that ended by themselves, however long ago; 0 before the first."""
        self._in_vain_since_ns: int | None = None

    def observe(self, service_ns: int, now_ns: int, *, aborted: bool = False) -> None:
        """Learn one finished or aborted run.

        An aborted run shows a lower bound only: it counts half as much again, so that a frame with no more time
        than it had is not taken for one that fits. And it would not have been faster than any run before it: a stream
        with a tiny deadline has short runs of a slow model.
        """
        samples, ordered = self._samples, self._ordered
        if len(samples) == SAMPLES_MAX:
            del ordered[bisect_left(ordered, samples.popleft()[1])]
        if aborted:
            learnt_ns = max(service_ns * 3 // 2, self.fastest_ns)
            if self._in_vain_since_ns is None:
                self._in_vain_since_ns = now_ns
        else:
            learnt_ns = service_ns
            self._in_vain_since_ns = None
            if not 0 < self.fastest_ns <= service_ns:
                self.fastest_ns = service_ns
        samples.append((now_ns, learnt_ns))
        insort(ordered, learnt_ns)

    def is_current(self, now_ns: int) -> bool:
        """Return whether enough was learnt within the window to judge by it alone."""
        if self._samples and now_ns - self._samples[0][0] > self._policy.window_ns:
            self._forget(now_ns)
        if len(self._samples) < CURRENT_MIN:
            return False
        return now_ns - self._samples[-CURRENT_MIN][0] <= self._policy.window_ns

    def predict_ns(self, now_ns: int) -> int:
        """Return the service time that a share of `confidence` of the recent runs kept; 0 when nothing is known."""
        if self._samples and now_ns - self._samples[0][0] > self._policy.window_ns:
            self._forget(now_ns)
        if not self._ordered:
            return 0
        return self._ordered[math.ceil(self._policy.confidence * len(self._ordered)) - 1]

    def admits(self, time_left_ns: int, time_best_ns: int, now_ns: int) -> bool:
        """Return whether a frame should start now.

        Args:
            time_left_ns: until it must be finished.
            time_best_ns: what a frame of this stream has when it arrives.
            now_ns: the present.
        """
        if self._samples and now_ns - self._samples[0][0] > self._policy.window_ns:
            self._forget(now_ns)
        if not self._ordered:
            return True
        fit_best = bisect_right(self._ordered, time_best_ns)
        if fit_best and bisect_right(self._ordered, time_left_ns) >= self._policy.confidence * fit_best:
            return True
        return not fit_best and len(self._ordered) < SAMPLES_MIN

    def is_likely(self, time_left_ns: int, time_best_ns: int, share: float) -> bool:
        """Return whether the chance of a frame is at least a share of what a fresh one has, and any at all."""
        fit = bisect_right(self._ordered, time_left_ns)
        return fit > 0 and fit >= share * bisect_right(self._ordered, time_best_ns)

    def is_probe_due(self, time_best_ns: int, now_ns: int) -> bool:
        """Return whether nothing ran for so long that a frame should be tried which is not expected to make it.

        Whoever refuses for long must try, or it never learns again. A share of the time is spent on what a run once
        kept, less of it the longer none did; for anything shorter than every run ever seen, a try in the longest
        pause is enough.

        Args:
            time_best_ns: what a frame of the stream that asks has when it arrives.
            now_ns: the present.
        """
        if not self._samples:
            return True
        ended_ns, service_ns = self._samples[-1]
        pause_ns = self._policy.probe_interval_ns
        if 0 < self.fastest_ns <= time_best_ns:
            spell_ns = 0 if self._in_vain_since_ns is None else now_ns - self._in_vain_since_ns
            lag_ns = int(spell_ns * PROBE_LAG_SHARE)
            pause_ns = min(pause_ns, max(int(service_ns / self._policy.probe_share), lag_ns))
        return now_ns - ended_ns >= pause_ns

    def _forget(self, now_ns: int) -> None:
        samples, window_ns = self._samples, self._policy.window_ns
        while len(samples) > SAMPLES_MIN and now_ns - samples[0][0] > window_ns:
            _, service_ns = samples.popleft()
            del self._ordered[bisect_left(self._ordered, service_ns)]
