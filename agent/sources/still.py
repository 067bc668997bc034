"""Leaves out pictures in which nothing changed."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from agent.clock import NS_PER_S
from agent.frame import Capture, Content
from agent.interfaces import Source

CELLS = (64, 48)
"""Width and height of the small picture that is compared: someone 40 m away still covers some of its cells."""
LEVELS = 12
"""A cell changed when its grey level did by more: twice what a cheap sensor's noise does at night."""
STILL_MAX_NS = 5 * NS_PER_S
"""After so long one frame passes all the same, so that results say that the camera lives."""


class StillGate:
    """Compares each frame with the last one that passed, so that slow changes add up. 0.25 ms for 1080p.

    Args:
        changed_share_min: share of the picture that must have changed, above 0 to 1.
    """

    def __init__(self, changed_share_min: float) -> None:
        self._share_min = changed_share_min
        self._passed: npt.NDArray[np.uint8] | None = None
        self._passed_at_ns = 0

    def is_still(self, pixels: Content, captured_at_ns: int) -> bool:
        """Return whether a frame may be left out; one that may not is what the next are compared with."""
        small = cv2.resize(pixels, CELLS, interpolation=cv2.INTER_LINEAR)
        grey = small if small.ndim == 2 else cv2.cvtColor(small, cv2.COLOR_BGR2GRAY)
        # A blur of 3 x 3 cells takes away the noise of single pixels, which INTER_LINEAR picks.
        grey = cv2.blur(grey, (3, 3))
        is_fresh = self._passed is not None and captured_at_ns - self._passed_at_ns < STILL_MAX_NS
        if is_fresh and self._passed is not None:
            changed = np.count_nonzero(cv2.absdiff(grey, self._passed) > LEVELS)
            if changed < self._share_min * grey.size:
                return True
        self._passed, self._passed_at_ns = np.asarray(grey, np.uint8), captured_at_ns
        return False


class GatedSource:
    """See `interfaces.Source`: frames of another source, those without a change marked as such."""

    def __init__(self, source: Source, gate: StillGate) -> None:
        self._source = source
        self._gate = gate
        self.open, self.close, self.interrupt = source.open, source.close, source.interrupt

    def read(self) -> Capture | None:
        """See `Source.read`."""
        capture = self._source.read()
        if capture is None or capture.pixels.size == 0:
            return capture
        return capture._replace(is_still=self._gate.is_still(capture.pixels, capture.captured_at_ns))
