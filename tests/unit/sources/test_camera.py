"""A V4L2 camera, with OpenCV's capture played: what it is asked for, and how it vanishes and returns."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from agent.clock import NS_PER_MS
from agent.core.backoff import Backoff
from agent.core.policy import Overflow, StreamPolicy
from agent.errors import PermanentError, TransientError
from agent.frame import Pixels
from agent.loops.capture import CaptureLoop
from agent.loops.inbox import Inbox
from agent.sources.camera import CameraSource
from tests.fakes import PICTURE, ManualClock

WISHES: dict[str, Any] = {"width": None, "height": None, "fps": None}


class PlayedCamera:
    """Stands in for `cv2.VideoCapture`; everything is shared by its openings."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.opened: list[tuple[Any, ...]] = []
        self.wishes: list[tuple[int, float]] = []
        self.is_there = True
        self.frames_left: int | None = None
        """None for always more."""
        self.released = 0
        self.pixels: Pixels | None = PICTURE

    def __call__(self, *place: Any) -> PlayedCamera:
        self.opened.append(place)
        return self

    def isOpened(self) -> bool:  # noqa: N802  OpenCV's name.
        return self.is_there

    def set(self, wish: int, value: float) -> bool:
        self.wishes.append((wish, value))
        return False  # A driver may refuse each of them.

    def grab(self) -> bool:
        self.clock.ns += 100 * NS_PER_MS
        if self.frames_left is not None:
            self.frames_left -= 1
        return self.is_there and (self.frames_left is None or self.frames_left >= 0)

    def retrieve(self, _image: Pixels | None = None) -> tuple[bool, Pixels | None]:
        return self.pixels is not None, self.pixels

    def release(self) -> None:
        self.released += 1


@pytest.fixture
def camera(monkeypatch: pytest.MonkeyPatch) -> PlayedCamera:
    played = PlayedCamera(ManualClock())
    monkeypatch.setattr(cv2, "VideoCapture", played)
    return played


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """A link as in /dev/v4l/by-id, to a device that is there."""
    (tmp_path / "video3").touch()
    link = tmp_path / "usb-cam-index0"
    link.symlink_to(tmp_path / "video3")
    return link


def test_the_format_is_asked_for_before_the_size_and_the_rate(camera: PlayedCamera, device: Path) -> None:
    """Which sizes and rates there are depends on it. The device is opened by the name that was given."""
    source = CameraSource(str(device), camera.clock, width=1920, height=1080, fps=30, pixel_format="MJPG")
    source.open()
    assert camera.opened == [(str(device), cv2.CAP_V4L2)]
    assert camera.wishes == [
        (cv2.CAP_PROP_FOURCC, int.from_bytes(b"MJPG", "little")),
        (cv2.CAP_PROP_FRAME_WIDTH, 1920),
        (cv2.CAP_PROP_FRAME_HEIGHT, 1080),
        (cv2.CAP_PROP_FPS, 30),
        (cv2.CAP_PROP_BUFFERSIZE, 1),
    ]


def test_a_camera_is_asked_for_nothing_that_nobody_wished(camera: PlayedCamera, device: Path) -> None:
    """But for one buffer: more would hold old frames."""
    CameraSource(str(device), camera.clock, **WISHES).open()
    assert camera.wishes == [(cv2.CAP_PROP_BUFFERSIZE, 1)]


def test_an_index_is_a_device(camera: PlayedCamera) -> None:
    """As OpenCV counts them."""
    with pytest.raises(TransientError, match=r"/dev/video977: there is no such device"):
        CameraSource("977", camera.clock, **WISHES).open()


def test_a_device_that_another_program_uses_is_given_back(camera: PlayedCamera, device: Path) -> None:
    """Nothing of it stays open while it is tried again."""
    camera.is_there = False
    with pytest.raises(TransientError, match="another program uses it"):
        CameraSource(str(device), camera.clock, **WISHES).open()
    assert camera.released == 1


def test_a_device_that_vanishes_and_returns_is_one_loss(camera: PlayedCamera, device: Path) -> None:
    """Its link goes with it. It is asked for everything anew, and its first frame follows nothing."""
    source = CameraSource(str(device), camera.clock, width=640, height=None, fps=10)
    inbox = Inbox({"s": StreamPolicy(None, 1000, Overflow.DROP_OLDEST)}, camera.clock)
    events: list[str] = []
    backoff = Backoff(rng=random.Random(0))

    def report(event: str, body: Any) -> None:
        events.append(event)
        if event == "source_back":
            loop.stop()

    loop = CaptureLoop("s", source, inbox, camera.clock, report, backoff)
    next_wait_ns = backoff.next_wait_ns
    tries = 0

    def plug_in_later() -> int:
        nonlocal tries
        tries += 1
        if tries == 1:
            device.unlink()
        if tries == 4:
            device.symlink_to(device.parent / "video3")
            camera.frames_left = None
        return next_wait_ns()

    backoff.next_wait_ns = plug_in_later  # type: ignore[method-assign]
    camera.frames_left = 5
    loop.run()
    assert events == ["source_lost", "source_back"]
    assert (len(camera.opened), tries) == (2, 4)
    asked_for = [(cv2.CAP_PROP_FRAME_WIDTH, 640), (cv2.CAP_PROP_FPS, 10), (cv2.CAP_PROP_BUFFERSIZE, 1)]
    assert camera.wishes == asked_for * 2
    figures = inbox.snapshot()["s"]
    assert figures["ledger"]["captured"] == 6
    assert (figures["source_losses"], figures["gaps"]) == (1, 1)


def test_a_frame_without_pixels_is_one_failure(camera: PlayedCamera, device: Path) -> None:
    """A cable that is bent now and then; the next frame is served."""
    source = CameraSource(str(device), camera.clock, **WISHES)
    source.open()
    camera.pixels = None
    with pytest.raises(PermanentError, match="could not be decoded or has no pixels"):
        source.read()
    camera.pixels = PICTURE
    capture = source.read()
    assert capture is not None
    assert np.array_equal(capture.pixels, PICTURE)
