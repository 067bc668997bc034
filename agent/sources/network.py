"""An RTSP or HTTP stream, through OpenCV's FFmpeg."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Iterator

import cv2

from agent.clock import Clock
from agent.core.backlog import BacklogClock
from agent.errors import TransientError
from agent.frame import Capture
from agent.sources.opencv import grab, open_with_ffmpeg, retrieve


class NetworkSource:
    """See `interfaces.Source`.

    Args:
        url: rtsp://, rtsps://, http:// or https://; may hold credentials, which are never logged.
        clock: stamps frames when they arrive.
        transport: of RTSP: `tcp`, or `udp` where packets may be lost on the way.
    """

    def __init__(self, url: str, clock: Clock, *, transport: str = "tcp") -> None:
        self._url = url
        self._name = without_credentials(url)
        self._clock = clock
        self._transport = transport
        self._capture: cv2.VideoCapture | None = None
        self._backlog = BacklogClock()

    def open(self) -> None:
        """See `Source.open`."""
        self._backlog = BacklogClock()
        with _openings.using(self._transport):
            self._capture = open_with_ffmpeg(self._url)
        if self._capture is None:
            raise TransientError(f"{self._name}: does not answer, or sends nothing that FFmpeg can read")

    def read(self) -> Capture | None:
        """See `Source.read`: FFmpeg gives up after `READ_TIMEOUT_MS` without data."""
        assert self._capture is not None
        arrived_ns = grab(self._capture, self._clock, f"{self._name}: the stream ended or stalled")
        return retrieve(self._capture, self._backlog.captured_at_ns(arrived_ns))

    def close(self) -> None:
        """See `Source.close`."""
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    def interrupt(self) -> None:
        """See `Source.interrupt`: a blocked read ends by itself after `READ_TIMEOUT_MS`."""


class _Openings:
    """OpenCV takes FFmpeg's options from the environment alone: those that open at a time must want the same."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._transport = ""
        self._opening = 0

    @contextlib.contextmanager
    def using(self, transport: str) -> Iterator[None]:
        """Let a source open with this transport; wait for those that open with another one."""
        with self._changed:
            while self._opening and self._transport != transport:
                self._changed.wait()
            self._transport = transport
            self._opening += 1
            os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = f"rtsp_transport;{transport}"
        try:
            yield
        finally:
            with self._changed:
                self._opening -= 1
                self._changed.notify_all()


_openings = _Openings()


def without_credentials(url: str) -> str:
    """Return the URL as it may be logged."""
    return re.sub(r"//[^/@]*@", "//", url)
