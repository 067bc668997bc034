"""A video file: paced as a camera in live mode, as fast as it is consumed otherwise."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import cv2

from agent.clock import NS_PER_S, Clock
from agent.errors import PermanentError
from agent.frame import Capture
from agent.sources.opencv import Decoding, open_with_ffmpeg

log = logging.getLogger(__name__)

FPS_ASSUMED = 25.0
"""For a file that states no usable rate."""


class VideoFileSource:
    """See `interfaces.Source`.

    Args:
        file: any container that FFmpeg reads.
        clock: paces and stamps.
        is_paced: deliver each frame when it is due; a reader that falls behind misses frames as it would at a
            camera, instead of falling behind for ever.
        repeat: start again at the end.
        fps: rate to pace at; None for the file's own.
    """

    def __init__(self, file: Path, clock: Clock, *, is_paced: bool, repeat: bool, fps: float | None) -> None:
        self._file = file
        self._clock = clock
        self._is_paced = is_paced
        self._repeat = repeat
        self._fps_asked = fps
        self._interrupted = threading.Event()
        self._capture: cv2.VideoCapture | None = None
        self._decoding = Decoding()
        self._interval_ns = 0
        self._due_ns: int | None = None
        self._frames_read = 0

    def open(self) -> None:
        """See `Source.open`; a file that cannot be opened now is not expected to become readable."""
        self._capture = open_with_ffmpeg(str(self._file))
        if self._capture is None:
            raise PermanentError(f"{self._file}: is not a video that FFmpeg can read")
        stated = self._capture.get(cv2.CAP_PROP_FPS)
        fps = self._fps_asked or (stated if 0.1 <= stated <= 1000 else FPS_ASSUMED)
        self._interval_ns = int(NS_PER_S / fps)
        self._frames_read = 0

    def read(self) -> Capture | None:
        """See `Source.read`."""
        assert self._capture is not None
        captured_at_ns = self._wait_until_due() if self._is_paced else self._clock.now_ns()
        if self._interrupted.is_set() or not self._grab():
            return None
        return self._decoding.retrieve(self._capture, captured_at_ns)

    def close(self) -> None:
        """See `Source.close`."""
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    def interrupt(self) -> None:
        """See `Source.interrupt`: ends a wait for the next frame's time."""
        self._interrupted.set()

    def _grab(self) -> bool:
        """Advance one frame; at the end start again where asked to. Return whether there is a frame."""
        assert self._capture is not None
        if self._capture.grab():
            self._frames_read += 1
            return True
        if self._frames_read == 0:
            raise PermanentError(f"{self._file}: holds no frame that can be decoded")
        announced = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        if self._frames_read < announced:
            # Said once for each pass: a damaged tail, or a header that promises more than there is.
            log.warning("%s: ended after %d of %d frames", self._file, self._frames_read, announced)
        if not self._repeat:
            return False
        self.close()
        self.open()
        if not self._capture.grab():
            return False
        self._frames_read = 1
        return True

    def _wait_until_due(self) -> int:
        """Wait for the next frame's time and return it; skip frames that nobody could have waited for.

        One that is skipped must be decoded all the same. Where that takes longer than the time that it makes up for,
        the file goes on from where it is: it runs slower than it should, instead of being decoded for nobody.
        """
        assert self._capture is not None
        now_ns = self._clock.now_ns()
        if self._due_ns is None:
            self._due_ns = now_ns
            return now_ns
        self._due_ns += self._interval_ns
        begun_ns, made_up_ns = now_ns, 0
        while self._due_ns + self._interval_ns < now_ns and self._capture.grab():
            self._due_ns += self._interval_ns
            self._frames_read += 1
            made_up_ns += self._interval_ns
            if self._clock.now_ns() - begun_ns > made_up_ns:
                self._due_ns = self._clock.now_ns()
                break
        if self._due_ns > now_ns:
            self._clock.wait(self._interrupted, self._due_ns - now_ns)
        return self._clock.now_ns()
