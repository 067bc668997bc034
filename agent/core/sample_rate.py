"""The rate of a signal as its sender's own times tell it, beside the one that was stated."""

from __future__ import annotations

from collections import deque
from enum import Enum, auto
from fractions import Fraction

import numpy as np

from agent.clock import NS_PER_S
from agent.frame import Block

TOLERANCE = 0.05
"""Of the stated rate. Sensors' oscillators are off by up to 3%, and jitter adds what `INTERVALS` leaves of it."""

INTERVALS = 32
"""Of the newest the rate is told: jitter of a whole period moves their mean by 3%."""
INTERVALS_MIN = 4
"""Where a message holds many samples, so many of them are enough ..."""
SAMPLES_MIN = 32
"""... once they hold so many samples."""

LIMITS = (1.5, 2.0, float("inf"))
"""Intervals of up to so many times the median, and down to its inverse, count. Without the long ones, samples that
were lost do not look like a lower rate; with those of two units of a coarse clock, 400 Hz in milliseconds is 400 Hz;
with all, what a sender stamps in bunches has its mean rate. The stated rate is believed while any of them agrees."""


RATIO_MAX = 100
"""A measured rate is taken as p/q of the wanted one, q up to this: within 0.5%, and a table of so many filters."""


class RateWatch:
    """Measures one signal. Not thread-safe; a new one where a signal begins anew.

    Args:
        rate_hz: as stated.
    """

    def __init__(self, rate_hz: float) -> None:
        self._rate_hz = rate_hz
        self._last_ns: int | None = None
        self._intervals: deque[float] = deque(maxlen=INTERVALS)
        self._samples = 0
        self.is_right = False
        """Whether enough was seen, and it agrees."""

    def see(self, block: Block) -> float | None:
        """Take in samples; return their rate, Hz, once it is known not to be the stated one."""
        last_ns, self._last_ns = self._last_ns, block.time_ns
        if last_ns is None or block.time_ns is None or not block.follows:
            return None
        interval_ns = block.time_ns - last_ns
        if interval_ns <= 0:  # Its clock was started anew.
            return None
        self._intervals.append(interval_ns / len(block.samples))
        self._samples += len(block.samples)
        if len(self._intervals) < INTERVALS_MIN or self._samples < SAMPLES_MIN:
            return None
        rates_hz = self._rates_hz()
        self.is_right = any(abs(rate - self._rate_hz) <= TOLERANCE * self._rate_hz for rate in rates_hz)
        return None if self.is_right else rates_hz[0]

    def _rates_hz(self) -> list[float]:
        intervals = np.sort(self._intervals)
        # One that was seen: between two rates, half and half, the mean of the middle two would be near neither.
        shares = intervals / intervals[len(intervals) // 2]
        return [NS_PER_S / float(intervals[(shares <= most) & (shares >= 1 / most)].mean()) for most in LIMITS]


class Verdict(Enum):
    """What becomes of samples, by the rate at which they come."""

    TAKEN = auto()
    LOST = auto()
    """The rate is wrong, now: like a loss of the source. Those that follow wait for another verdict."""
    AWAITED = auto()
    """Thrown away: the rate is being measured anew, or waited for."""
    BACK = auto()
    """The next ones begin a new signal, at `RateGuard.rate_hz`."""
    REFUSED = auto()
    """The source never had the stated rate, and nothing was said of another."""


class RateGuard:
    """Judges the samples of one source by their rate. Not thread-safe.

    Args:
        wanted_hz: what a signal is resampled to; None where another rate than the stated one is refused.
    """

    def __init__(self, wanted_hz: float | None) -> None:
        self._wanted_hz = wanted_hz
        self._was_right = False
        self._is_doubtful = False
        self._watch = RateWatch(0.0)
        self.rate_hz = 0.0
        """As stated, or as measured last."""
        self.seen_hz = 0.0
        """The wrong one, for people."""

    @property
    def is_refusal(self) -> bool:
        """Whether the source would be refused if it ended now."""
        return self._is_doubtful and self._wanted_hz is None and not self._was_right

    def begin(self, rate_hz: float) -> None:
        """Begin with a source that was opened, of this stated rate."""
        self.rate_hz = rate_hz
        self._watch = RateWatch(rate_hz)
        self._is_doubtful = False

    def judge(self, block: Block) -> Verdict:
        """Return what is to become of these samples."""
        seen_hz = self._watch.see(block)
        if seen_hz is not None:
            self.seen_hz = seen_hz
        if not self._is_doubtful:
            self._was_right |= self._watch.is_right
            if seen_hz is None:
                return Verdict.TAKEN
            # Measured anew, with no sample from before a change. And a sender that stamps what it sends, and had
            # held it back, is not refused for one burst.
            self.begin(self.rate_hz)
            self._is_doubtful = True
            return Verdict.LOST
        if self._watch.is_right:
            self.begin(self.rate_hz)
            return Verdict.BACK
        if seen_hz is None:
            return Verdict.AWAITED
        if self._wanted_hz is not None:
            self.begin(self._wanted_hz * float(Fraction(seen_hz / self._wanted_hz).limit_denominator(RATIO_MAX)))
            return Verdict.BACK
        return Verdict.AWAITED if self._was_right else Verdict.REFUSED
