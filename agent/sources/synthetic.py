"""A pattern that needs no device: to see what a machine can do, and that everything behind the source works."""

from __future__ import annotations

import numpy as np

from agent.clock import NS_PER_S, Clock
from agent.frame import Block, Capture, Pixels
from agent.interfaces import SignalForm
from agent.sources.pacing import Pacer

WIDTH, HEIGHT, FPS = 640, 480, 10.0
"""What a plain camera gives."""
SQUARE = 8
"""The moving square is an eighth of the picture's lower side."""
CYCLE_S = 4.0
"""One round of the square."""


class SyntheticPictures:
    """See `interfaces.Source`: grey levels from left to right, with a white square that goes round.

    Args:
        clock: paces and stamps.
        is_paced: at `fps`; else as fast as they are consumed.
        width: pixels; None for 640.
        height: pixels; None for 480.
        fps: None for 10.
    """

    def __init__(
        self, clock: Clock, *, is_paced: bool, width: int | None, height: int | None, fps: float | None
    ) -> None:
        self._pacer = Pacer(clock, is_paced=is_paced)
        self._width, self._height, self._fps = width or WIDTH, height or HEIGHT, fps or FPS
        levels = np.linspace(16, 160, self._width, dtype=np.uint8)
        self._background: Pixels = np.ascontiguousarray(
            np.broadcast_to(levels[:, None], (self._height, self._width, 3))
        )
        self._number = 0

    def open(self) -> None:
        """See `Source.open`."""
        self._pacer.restart()
        self._number = 0

    def read(self) -> Capture | None:
        """See `Source.read`; it never ends by itself."""
        captured_at_ns, _ = self._pacer.wait(round(self._number * NS_PER_S / self._fps))
        if self._pacer.is_interrupted:
            return None
        pixels = self._background.copy()
        side = max(1, min(self._width, self._height) // SQUARE)
        angle = 2 * np.pi * self._number / (self._fps * CYCLE_S)
        left = round((self._width - side) * (0.5 + 0.5 * np.cos(angle)))
        top = round((self._height - side) * (0.5 + 0.5 * np.sin(angle)))
        pixels[top : top + side, left : left + side] = 255
        self._number += 1
        return Capture(captured_at_ns, pixels)

    def close(self) -> None:
        """See `Source.close`."""

    def interrupt(self) -> None:
        """See `Source.interrupt`."""
        self._pacer.interrupt()


class SyntheticSamples:
    """See `interfaces.SampleSource`: a sine of 1 Hz in each channel, each a little behind the one before.

    Args:
        clock: paces and stamps.
        is_paced: in real time; else as fast as they are consumed.
        form: what it gives.
        block_s: how much to deliver at a time, s.
    """

    def __init__(self, clock: Clock, *, is_paced: bool, form: SignalForm, block_s: float) -> None:
        self._pacer = Pacer(clock, is_paced=is_paced)
        self._form = form
        self._block_samples = max(1, round(block_s * form.rate_hz))
        self._samples = 0

    def open(self) -> None:
        """See `Source.open`."""
        self._pacer.restart()
        self._samples = 0

    def form(self) -> SignalForm:
        """See `SampleSource.form`."""
        return self._form

    def read(self) -> Block | None:
        """See `SampleSource.read`; it never ends by itself."""
        first = self._samples
        self._samples += self._block_samples
        at_ns = round(self._samples * NS_PER_S / self._form.rate_hz)
        captured_at_ns, follows = self._pacer.wait(at_ns)
        if self._pacer.is_interrupted:
            return None
        seconds = np.arange(first, self._samples)[:, None] / self._form.rate_hz
        lags = np.arange(len(self._form.channels))[None, :] / 16
        samples = np.sin(2 * np.pi * (seconds - lags)).astype(np.float32)
        return Block(captured_at_ns, samples, at_ns, follows and first > 0)

    def close(self) -> None:
        """See `Source.close`."""

    def interrupt(self) -> None:
        """See `Source.interrupt`."""
        self._pacer.interrupt()
