"""A V4L2 camera."""

from __future__ import annotations

import os
from pathlib import Path

import cv2

from agent.clock import NS_PER_S, Clock
from agent.core.backlog import BacklogClock
from agent.errors import TransientError
from agent.frame import Capture
from agent.sources.opencv import Decoding, grab


class CameraSource:
    """See `interfaces.Source`.

    Args:
        device: /dev/video0, a by-id path, or an index.
        clock: stamps frames when the driver hands them over, before they are decoded.
        width: pixels to ask for; None for the camera's own; the same for `height`.
        height: see `width`.
        fps: rate to ask for; None for the camera's own.
        pixel_format: four letters, such as MJPG; None for the camera's own.
    """

    def __init__(
        self,
        device: str,
        clock: Clock,
        *,
        width: int | None,
        height: int | None,
        fps: float | None,
        pixel_format: str | None = None,
    ) -> None:
        self._device = f"/dev/video{device}" if device.isdigit() else device
        self._clock = clock
        self._wishes = {
            # First: a driver's sizes and rates depend on it.
            cv2.CAP_PROP_FOURCC: None if pixel_format is None else cv2.VideoWriter.fourcc(*pixel_format),
            cv2.CAP_PROP_FRAME_WIDTH: width,
            cv2.CAP_PROP_FRAME_HEIGHT: height,
            cv2.CAP_PROP_FPS: fps,
            # One buffer: the driver's default of four hands over frames up to three periods old.
            cv2.CAP_PROP_BUFFERSIZE: 1,
        }
        self._capture: cv2.VideoCapture | None = None
        self._decoding = Decoding()
        self._backlog = BacklogClock(None if fps is None else NS_PER_S / fps)

    def open(self) -> None:
        """See `Source.open`; every failure may pass: a cable, a hub, another program."""
        if not Path(self._device).exists():
            raise TransientError(f"{self._device}: there is no such device: is the camera plugged in?")
        if not os.access(self._device, os.R_OK | os.W_OK):
            raise TransientError(f"{self._device}: no permission: add the agent's user to the group 'video'")
        capture = cv2.VideoCapture(self._device, cv2.CAP_V4L2)
        if not capture.isOpened():
            capture.release()
            raise TransientError(f"{self._device}: is not a camera, or another program uses it")
        for wish, value in self._wishes.items():
            if value is not None:
                capture.set(wish, value)
        self._capture = capture
        self._backlog.restart()

    def read(self) -> Capture | None:
        """See `Source.read`."""
        assert self._capture is not None
        arrived_ns = grab(self._capture, self._clock, f"{self._device}: gave no frame")
        return self._decoding.retrieve(self._capture, self._backlog.captured_at_ns(arrived_ns))

    def close(self) -> None:
        """See `Source.close`."""
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    def interrupt(self) -> None:
        """See `Source.interrupt`: a blocked V4L2 read ends by itself within OpenCV's 10 s select."""
