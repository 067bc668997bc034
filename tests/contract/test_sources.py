"""One suite over every source that can be had without a device: open, read, end, close."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from agent.clock import NS_PER_S, SystemClock
from agent.errors import PermanentError, TransientError
from agent.interfaces import Source
from agent.sources.camera import CameraSource
from agent.sources.network import NetworkSource, without_credentials
from agent.sources.video_file import VideoFileSource
from tests.fakes import ManualClock
from tests.mjpeg import MjpegServer
from tests.paths import CLIP, CLIP_FRAMES


@pytest.fixture
def camera_on_the_net() -> Iterator[MjpegServer]:
    """A camera that sends MJPEG over HTTP."""
    with MjpegServer() as server:
        yield server


def video(
    file: Path = CLIP, *, paced: bool = False, repeat: bool = False, fps: float | None = None
) -> VideoFileSource:
    """Open nothing yet: a file source on the real clock."""
    return VideoFileSource(file, SystemClock(), is_paced=paced, repeat=repeat, fps=fps)


@pytest.fixture(params=["file", "paced file", "http"])
def source(request: pytest.FixtureRequest, camera_on_the_net: MjpegServer) -> Source:
    """Each kind of source, ready to open."""
    makers: dict[str, Callable[[], Source]] = {
        "file": video,
        "paced file": lambda: video(paced=True, fps=200),
        "http": lambda: NetworkSource(camera_on_the_net.url, SystemClock()),
    }
    return makers[request.param]()


def test_frames_are_stamped_and_shaped(source: Source) -> None:
    """uint8 BGR pixels, and stamps that rise and are not in the future."""
    source.open()
    try:
        captures = [source.read() for _ in range(3)]
    finally:
        source.close()
    stamps = [capture.captured_at_ns for capture in captures if capture is not None]
    assert len(stamps) == 3
    assert stamps == sorted(stamps)
    assert stamps[-1] <= SystemClock().now_ns()
    for capture in captures:
        assert capture is not None
        assert capture.pixels.dtype == np.uint8
        assert capture.pixels.ndim == 3
        assert capture.pixels.shape[2] == 3


def test_a_frame_belongs_to_its_receiver(source: Source) -> None:
    """Later reads never write into an earlier frame."""
    source.open()
    try:
        first = source.read()
        assert first is not None
        kept = first.pixels.copy()
        for _ in range(3):
            source.read()
        np.testing.assert_array_equal(first.pixels, kept)
    finally:
        source.close()


def test_close_may_come_twice_and_open_again(source: Source) -> None:
    """The loop closes after a loss and opens anew."""
    source.open()
    source.close()
    source.close()
    source.open()
    assert source.read() is not None
    source.close()


def test_a_file_ends_after_its_last_frame() -> None:
    """None, and every frame was delivered."""
    source = video()
    source.open()
    count = 0
    while source.read() is not None:
        count += 1
    source.close()
    assert count == CLIP_FRAMES


def test_a_repeated_file_goes_on() -> None:
    """After the last frame comes the first."""
    source = video(repeat=True)
    source.open()
    frames = [source.read() for _ in range(CLIP_FRAMES + 1)]
    source.close()
    assert frames[0] is not None
    assert frames[-1] is not None
    np.testing.assert_array_equal(frames[0].pixels, frames[-1].pixels)


def test_a_paced_file_keeps_its_rate_in_virtual_time() -> None:
    """Frame k is due k periods after the first."""
    clock = ManualClock()
    source = VideoFileSource(CLIP, clock, is_paced=True, repeat=False, fps=None)
    source.open()
    stamps = [capture.captured_at_ns for _ in range(20) if (capture := source.read()) is not None]
    source.close()
    assert [stamp - stamps[0] for stamp in stamps] == [index * NS_PER_S // 10 for index in range(20)]


def test_a_paced_file_skips_what_nobody_could_take() -> None:
    """A reader that was away for a second misses frames, as at a camera; it does not fall behind."""
    clock = ManualClock()
    source = VideoFileSource(CLIP, clock, is_paced=True, repeat=False, fps=None)
    source.open()
    read = 0
    while source.read() is not None:
        read += 1
        if read == 10:
            clock.ns += NS_PER_S
    source.close()
    assert CLIP_FRAMES - 10 <= read <= CLIP_FRAMES - 8


def test_interrupt_ends_a_wait() -> None:
    """SIGTERM does not wait for the next frame of a slow file."""
    source = video(paced=True, fps=0.05)
    source.open()
    assert source.read() is not None
    threading.Timer(0.05, source.interrupt).start()
    assert source.read() is None
    source.close()


def test_an_unreadable_clip_is_a_permanent_error(tmp_path: Path) -> None:
    """It will not become readable: no back-off, and the file is named."""
    nonsense = tmp_path / "clip.mp4"
    nonsense.write_bytes(b"not a video" * 1000)
    with pytest.raises(PermanentError, match=r"clip\.mp4: is not a video"):
        video(nonsense).open()


def test_a_truncated_clip_gives_what_it_has_or_is_refused(tmp_path: Path) -> None:
    """Half of a file: its frames, or one clear error; never a hang."""
    half = tmp_path / "half.avi"
    writer = cv2.VideoWriter(str(half), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for level in range(50):
        writer.write(np.full((48, 64, 3), level, np.uint8))
    writer.release()
    half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])
    source = video(half)
    source.open()
    count = 0
    while source.read() is not None:
        count += 1
    source.close()
    assert 0 < count < 50


def test_an_absent_camera_may_come_later(tmp_path: Path) -> None:
    """Absent, and present but no camera: both are transient and say what to do."""
    options = {"width": None, "height": None, "fps": None}
    with pytest.raises(TransientError, match="is the camera plugged in"):
        CameraSource(str(tmp_path / "video9"), SystemClock(), **options).open()
    (tmp_path / "video9").write_bytes(b"")
    with pytest.raises(TransientError, match="is not a camera"):
        CameraSource(str(tmp_path / "video9"), SystemClock(), **options).open()


def test_an_absent_stream_may_come_later_and_credentials_stay_secret() -> None:
    """Nothing listens there; the text names the host and not the password."""
    source = NetworkSource("http://user:secret@127.0.0.1:9/x", SystemClock())
    with pytest.raises(TransientError, match=r"http://127.0.0.1:9/x: does not answer") as caught:
        source.open()
    assert "secret" not in str(caught.value)
    assert without_credentials("rtsp://a:b@h/p@q") == "rtsp://h/p@q"


def test_a_stream_that_ends_is_lost(camera_on_the_net: MjpegServer) -> None:
    """The server hangs up: a transient error, not an end."""
    source = NetworkSource(camera_on_the_net.url, SystemClock())
    source.open()
    assert source.read() is not None
    camera_on_the_net.hang_up()

    def read_on() -> None:
        while True:
            source.read()

    with pytest.raises(TransientError, match="the stream ended or stalled"):
        read_on()
    source.close()
