"""How long the next inference will take: a low quantile of the recent ones."""

from __future__ import annotations

import math
from collections import deque

from agent.clock import NS_PER_S


class ServicePredictor:
    """Predicts the service time of one stream on one model variant.

    Two traps shape it. A pessimistic predictor after one stall would admit nothing and so never learn: after
    `probe_interval_ns` without a run, one frame is let through whatever the prediction. And a window by count
    alone lags a drop of the clock frequency at a low frame rate: samples also age out by time. An aborted run
    shows a lower bound only; it counts half as much again, so that a frame with no more time than the aborted
    one had is refused instead of aborted in its turn.

    Args:
        quantile: of the samples in the window. A low one: to refuse a frame only helps if a later one
            has more time, and the abort at the deadline bounds what a miss costs. With a few samples it is the
            least, so that one run in time after slow ones opens the stream again.
        window_ns: a sample older than this is forgotten.
        samples_max: bounds memory and the cost of the sort (64 integers, about 3 us).
        probe_interval_ns: the longest time without a run before a refused frame is run all the same.
    """

    def __init__(
        self,
        *,
        quantile: float = 0.2,
        window_ns: int = 2 * NS_PER_S,
        samples_max: int = 64,
        probe_interval_ns: int = NS_PER_S,
    ) -> None:
        self._quantile = quantile
        self._window_ns = window_ns
        self._probe_interval_ns = probe_interval_ns
        self._samples: deque[tuple[int, int]] = deque(maxlen=samples_max)
        self._last_run_ns: int | None = None

    def observe(self, service_ns: int, now_ns: int, *, aborted: bool = False) -> None:
        """Learn one finished or aborted run."""
        self._samples.append((now_ns, service_ns * 3 // 2 if aborted else service_ns))
        self._last_run_ns = now_ns

    def predict_ns(self, now_ns: int) -> int:
        """Return the predicted service time, 0 when nothing recent is known."""
        while self._samples and now_ns - self._samples[0][0] > self._window_ns:
            self._samples.popleft()
        if not self._samples:
            return 0
        ordered = sorted(service_ns for _, service_ns in self._samples)
        return ordered[math.ceil(self._quantile * len(ordered)) - 1]

    def admits(self, deadline_ns: int, now_ns: int) -> bool:
        """Return whether a frame started now is expected to finish by `deadline_ns`, or is due as a probe."""
        if now_ns + self.predict_ns(now_ns) <= deadline_ns:
            return True
        return self._last_run_ns is not None and now_ns - self._last_run_ns >= self._probe_interval_ns
