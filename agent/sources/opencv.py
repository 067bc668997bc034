"""What the OpenCV sources share: opening with bounded waits, and one frame with its stamp."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

import cv2
import numpy as np

from agent.buffers import BUFFERS
from agent.clock import Clock
from agent.errors import PermanentError, TransientError
from agent.frame import Capture

OPEN_TIMEOUT_MS = 5_000
READ_TIMEOUT_MS = 2_500
"""A stream that sends nothing for once or twice this long is lost: OpenCV may read once more (measured: 2.5 s, and
10 s at 5,000). Its own default is 30 s."""

_BOUNDED = (
    cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
    OPEN_TIMEOUT_MS,
    cv2.CAP_PROP_READ_TIMEOUT_MSEC,
    READ_TIMEOUT_MS,
    # One decoder thread: more would leave the thread budget, and each holds back one more frame.
    cv2.CAP_PROP_N_THREADS,
    1,
)


class _Openings:
    """OpenCV takes FFmpeg's options from the environment alone: those that open at a time must want the same."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._changed = threading.Condition()
        self._options = ""
        self._opening = 0

    @contextlib.contextmanager
    def using(self, options: str) -> Iterator[None]:
        """Let a source open with these options; wait for those that open with others, 5 s at most."""
        # Whoever waits holds the turn, so that others cannot go on opening before it.
        with self._turn, self._changed:
            while self._opening and self._options != options:
                self._changed.wait()
            self._options = options
            self._opening += 1
            if options:
                os.environ[_OPTIONS] = options
        try:
            yield
        finally:
            with self._changed:
                self._opening -= 1
                if not self._opening:
                    os.environ.pop(_OPTIONS, None)
                self._changed.notify_all()


_OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
os.environ.pop(_OPTIONS, None)  # Each source says what it wants.
_openings = _Openings()


def open_with_ffmpeg(place: str, options: str = "") -> cv2.VideoCapture | None:
    """Open a file or URL; None when FFmpeg refuses it or nothing answers in time.

    Args:
        place: path or URL.
        options: of FFmpeg, as OpenCV reads them: `name;value|name;value`.
    """
    with _openings.using(options):
        capture = cv2.VideoCapture(place, cv2.CAP_FFMPEG, _BOUNDED)
    if capture.isOpened():
        return capture
    capture.release()
    return None


class Decoding:
    """Decodes the grabbed frames of one source into memory that is used again (`Buffers`). The source's thread."""

    def __init__(self) -> None:
        self._shape: tuple[int, ...] | None = None

    def retrieve(self, capture: cv2.VideoCapture, captured_at_ns: int) -> Capture:
        """Decode the grabbed frame.

        Raises:
            PermanentError: the frame cannot be decoded or has no pixels, or there is no memory for it.
        """
        try:
            # OpenCV makes an array of its own where the frame has another shape.
            image = None if self._shape is None else BUFFERS.take(self._shape, np.uint8)
            decoded, pixels = capture.retrieve(image)
        except (cv2.error, MemoryError) as error:
            raise PermanentError(f"frame could not be decoded: {error or 'out of memory'}") from error
        if not decoded or pixels is None or pixels.size == 0:
            raise PermanentError("frame could not be decoded or has no pixels")
        # A JPEG as it came is a row of bytes, and each has its own length.
        self._shape = pixels.shape if pixels.ndim == 3 else None
        return Capture(captured_at_ns, pixels)


def grab(capture: cv2.VideoCapture, clock: Clock, lost: str) -> int:
    """Wait for the next frame of a live source and return its stamp, taken before it is decoded.

    Raises:
        TransientError: nothing came.
    """
    if not capture.grab():
        raise TransientError(lost)
    return clock.now_ns()
