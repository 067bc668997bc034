"""An RTSP or HTTP stream, through OpenCV's FFmpeg."""

from __future__ import annotations

import re

import cv2

from agent.clock import Clock
from agent.core.backlog import BacklogClock
from agent.errors import TransientError
from agent.frame import Capture
from agent.sources.opencv import Decoding, grab, open_with_ffmpeg
from agent.sources.pictures import decode_picture

LOOK_US = 500_000
"""What FFmpeg may look at of a stream before it gives frames; its own 5 s make each opening 3 s long."""
LOOK_LONG_US = 5_000_000
"""For the next try, where that was too short: a camera that sends its picture size with each key frame only."""

PARSED_CODECS = frozenset({"h264", "avc1", "hevc", "hev1", "hvc1", "h265"})
"""FFmpeg gives a frame of these when the next one begins: measured, 105 ms after it was made at 10 fps, 39 at 30."""


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
        self._looks_long = False
        self._comes_late = False
        self._is_jpeg = False
        self._before_ns: int | None = None
        self._capture: cv2.VideoCapture | None = None
        self._decoding = Decoding()
        self._backlog = BacklogClock()

    def open(self) -> None:
        """See `Source.open`."""
        self._backlog.restart()
        self._before_ns = None
        look_us = LOOK_LONG_US if self._looks_long else LOOK_US
        began_ns = self._clock.now_ns()
        # nobuffer: what FFmpeg read to look at the stream is not given to us later, up to 3 s old, as if it were new.
        options = f"rtsp_transport;{self._transport}|fflags;nobuffer|analyzeduration;{look_us}"
        self._capture = open_with_ffmpeg(self._url, options)
        if self._capture is None:
            # One that answered at all, and was looked at for too short a time or for nothing.
            took_ns = self._clock.now_ns() - began_ns
            self._looks_long = took_ns > LOOK_US * 1000 and not self._looks_long
            raise TransientError(f"{self._name}: does not answer, or sends nothing that FFmpeg can read")
        fourcc = int(self._capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little").decode("latin-1").lower()
        self._comes_late = self._url.startswith("rtsp") and fourcc in PARSED_CODECS
        # Each JPEG as it came: its size is looked at before it is decoded, and a damaged one is one frame.
        is_jpeg = self._url.startswith("http") and fourcc == "mjpg"
        self._is_jpeg = is_jpeg and self._capture.set(cv2.CAP_PROP_FORMAT, -1)

    def read(self) -> Capture | None:
        """See `Source.read`: FFmpeg gives up after `READ_TIMEOUT_MS` without data."""
        assert self._capture is not None
        arrived_ns = grab(self._capture, self._clock, f"{self._name}: the stream ended or stalled")
        captured_at_ns = self._backlog.captured_at_ns(arrived_ns)
        if self._comes_late:
            # It was complete when the frame before it was given to us.
            before_ns, self._before_ns = self._before_ns, captured_at_ns
            captured_at_ns = captured_at_ns if before_ns is None else before_ns
        capture = self._decoding.retrieve(self._capture, captured_at_ns)
        return capture._replace(pixels=decode_picture(capture.pixels.tobytes())) if self._is_jpeg else capture

    def close(self) -> None:
        """See `Source.close`."""
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    def interrupt(self) -> None:
        """See `Source.interrupt`: a blocked read ends by itself after `READ_TIMEOUT_MS`."""


def without_credentials(url: str) -> str:
    """Return the URL as it may be logged."""
    return re.sub(r"//[^/@]*@", "//", url)
