"""A signal becomes windows of the length that a model takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from agent.clock import NS_PER_S
from agent.frame import Block, Samples
from agent.interfaces import Signal


@dataclass(frozen=True, slots=True)
class WindowPolicy:
    """How a signal is cut.

    Attributes:
        rate_hz: of the samples that come.
        channels: of each sample.
        length: new samples in a window, at least 1.
        hop: from the start of one window to that of the next, 1 to `length`.
        context: samples before the new ones that the model sees again; zeros where there are none yet.
        gap_ns: a sample that comes so much later than it should follows a gap.
        fill_samples: a gap of at most so many samples is bridged by a straight line; a longer one, or one of unknown
            length, starts anew.
    """

    rate_hz: float
    channels: int
    length: int
    hop: int
    context: int = 0
    gap_ns: int = NS_PER_S
    fill_samples: int = 0

    @property
    def period_ns(self) -> float:
        """From one sample to the next."""
        return NS_PER_S / self.rate_hz


def window_policy(signal: Signal, *, gap_ns: int, fill_samples: int) -> WindowPolicy:
    """Return how a source's signal is cut for a model; see `WindowPolicy`."""
    return WindowPolicy(
        rate_hz=signal.rate_hz,
        channels=len(signal.channels),
        length=signal.length,
        hop=signal.hop,
        context=signal.context,
        gap_ns=gap_ns,
        fill_samples=fill_samples,
    )


class Window(NamedTuple):
    """One window.

    Attributes:
        captured_at_ns: of its last sample.
        samples: float32 [context + length, channels], owned by the receiver.
        follows: False for the first one after a gap or a `reset`.
    """

    captured_at_ns: int
    samples: Samples
    follows: bool


class Windower:
    """Cuts one signal. A window is complete with its last sample, so it is never younger than that sample.

    Not thread-safe; one capture thread owns it.
    """

    def __init__(self, policy: WindowPolicy) -> None:
        self._policy = policy
        self._buffer: Samples = np.zeros((policy.context + policy.length, policy.channels), np.float32)
        self._held = policy.context
        self._last_ns: int | None = None
        self._last_sample = self._buffer[0]
        self._follows = True
        self.gaps = 0
        """Gaps after which it started anew."""
        self.untold = 0
        """Those of them that no window tells of: another gap came before the next window was complete."""
        self.filled = 0
        """Samples that were put into short gaps."""

    def push(self, block: Block) -> list[Window]:
        """Add consecutive samples and return the windows that they complete.

        Args:
            block: float32 [samples, channels].
        """
        samples = block.samples
        assert samples.shape[1] == self._policy.channels, samples.shape
        bridge = self._mind_the_gap(block)
        if len(bridge):
            samples = np.concatenate([bridge, samples])
        self._last_ns, self._last_sample = _time_ns(block), block.samples[-1]
        windows: list[Window] = []
        used = 0
        while used < len(samples):
            taken = min(len(samples) - used, len(self._buffer) - self._held)
            self._buffer[self._held : self._held + taken] = samples[used : used + taken]
            self._held += taken
            used += taken
            if self._held == len(self._buffer):
                captured_at_ns = block.captured_at_ns - round((len(samples) - used) * self._policy.period_ns)
                windows.append(Window(captured_at_ns, self._buffer.copy(), self._follows))
                self._follows = True
                self._held -= self._policy.hop
                self._buffer[: self._held] = self._buffer[self._policy.hop :].copy()
        return windows

    def reset(self) -> None:
        """Forget what was not used yet: the next sample begins a new signal."""
        self._buffer[: self._policy.context] = 0
        self._held = self._policy.context
        self._last_ns = None
        self._follows = False

    def _start_anew(self) -> None:
        self.gaps += 1
        self.untold += not self._follows
        self.reset()

    def _mind_the_gap(self, block: Block) -> Samples:
        """Start anew after a gap, or return float32 [samples, channels] that bridge it."""
        nothing = block.samples[:0]
        if self._last_ns is None:
            return nothing
        if not block.follows:
            self._start_anew()
            return nothing
        late_ns = _time_ns(block) - len(block.samples) * self._policy.period_ns - self._last_ns
        has_restarted = block.time_ns is not None and late_ns < -self._policy.gap_ns - NS_PER_S
        if late_ns <= self._policy.gap_ns and not has_restarted:
            return nothing
        missing = round(late_ns / self._policy.period_ns)
        if not 0 < missing <= self._policy.fill_samples:  # Below 0: the sender's clock was started anew.
            self._start_anew()
            return nothing
        self.filled += missing
        share = np.arange(1, missing + 1, dtype=np.float32)[:, None] / np.float32(missing + 1)
        bridge: Samples = self._last_sample + share * (block.samples[0] - self._last_sample)
        return bridge


def _time_ns(block: Block) -> int:
    return block.captured_at_ns if block.time_ns is None else block.time_ns
