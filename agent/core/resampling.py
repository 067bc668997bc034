"""A signal of one rate becomes the same signal at another, as it comes."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import numpy.typing as npt

from agent.frame import Samples

ZERO_CROSSINGS = 16
"""Of the sinc on each side: the stop band is 70 dB down and the pass band reaches 0.9 of the lower rate's half."""

KAISER_BETA = 8.0
"""Of the window over the sinc (Kaiser 1974; Oppenheim and Schafer, Discrete-Time Signal Processing, 7.5)."""

PASS_BAND = 0.9
"""Cut-off as a share of the lower rate's half, so that the transition ends before what would fold back."""

PHASES_MAX = 1000
"""44,100 to 16,000 Hz takes 160. More would be rates that hardly differ, where a table of filters is too large."""


class Resampler:
    """Polyphase filter with a windowed sinc; one input, one output, in order. Not thread-safe.

    Args:
        from_hz: rate of the samples that come.
        to_hz: rate of those that are wanted.
        channels: of each sample.

    Raises:
        ValueError: the rates have no ratio of small integers.
    """

    def __init__(self, from_hz: float, to_hz: float, channels: int) -> None:
        ratio = Fraction(to_hz).limit_denominator(10_000) / Fraction(from_hz).limit_denominator(10_000)
        if ratio.numerator > PHASES_MAX:
            raise ValueError(f"{from_hz:g} Hz to {to_hz:g} Hz is {ratio}, more than {PHASES_MAX} filters")
        self._up, self._down = ratio.numerator, ratio.denominator
        self._filters = _filters(self._up, self._down)
        self._half = self._filters.shape[1] // 2
        self._channels = channels
        self._next_output = 0
        self._history: Samples
        self.reset()

    def reset(self) -> None:
        """Begin a new signal: zeros came before it."""
        self._next_output = 0
        self._history = np.zeros((self._half - 1, self._channels), np.float32)

    def push(self, samples: Samples) -> tuple[Samples, float]:
        """Return what these samples complete, float32 [outputs, channels], and its lag.

        The lag is how many input samples lie between the last output and the last input: the filter looks ahead.
        """
        held = np.concatenate([self._history, samples])
        # Output k stands at input position k * down / up; it needs `half` samples on each side of it.
        last = len(held) - self._filters.shape[1]
        count = max(0, ((last + 1) * self._up - 1 - self._next_output) // self._down + 1) if last >= 0 else 0
        positions = self._next_output + np.arange(count, dtype=np.int64) * self._down
        starts, phases = np.divmod(positions, self._up)
        rows = held[starts[:, None] + np.arange(self._filters.shape[1])]
        outputs = np.einsum("kt,ktc->kc", self._filters[phases], rows, dtype=np.float32)
        self._next_output += count * self._down
        whole, self._next_output = divmod(self._next_output, self._up)
        # Input position 0 is row half - 1 of `held`.
        lag = len(held) - self._half - (positions[-1] / self._up if count else 0.0)
        self._history = held[whole:]
        return outputs, float(lag)


def _filters(up: int, down: int) -> npt.NDArray[np.float32]:
    """Return float32 [phases, taps]; each row sums to 1, so that a constant stays one exactly."""
    stretch = max(1.0, down / up)
    half = int(np.ceil(ZERO_CROSSINGS * stretch))
    offsets = np.arange(-half + 1, half + 1)[None, :] - np.arange(up)[:, None] / up
    cut = PASS_BAND / stretch
    window = np.i0(KAISER_BETA * np.sqrt(np.maximum(0.0, 1 - (offsets / half) ** 2)))
    taps = np.sinc(offsets * cut) * window
    filters: npt.NDArray[np.float32] = (taps / taps.sum(axis=1, keepdims=True)).astype(np.float32)
    return filters
