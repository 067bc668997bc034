"""One suite over every source that can be had without a device: open, read, end, close."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import cv2
import numpy as np
import pytest

from agent.clock import NS_PER_MS, NS_PER_S, SystemClock
from agent.errors import PermanentError, TransientError
from agent.interfaces import Signal, Source
from agent.settings import MqttSettings, StreamSettings
from agent.sinks.embedded import free_ports
from agent.sources.alsa import Recorder
from agent.sources.camera import CameraSource
from agent.sources.mqtt import Subscription
from agent.sources.network import NetworkSource, without_credentials
from agent.sources.standard_input import StandardInput
from agent.sources.video_file import VideoFileSource
from agent.sourcing import build_source
from tests.broker import MOSQUITTO, Broker, needs_mosquitto, wait_until
from tests.fakes import ManualClock
from tests.mjpeg import MjpegServer
from tests.paths import CLIP, CLIP_FRAMES, SPEECH
from tests.rtsp import NO_SERVER, has_server, rtsp_camera
from tests.senders import Feeder, IioTree, Publisher, SerialPair, fake_recorder

WATCH = Signal(rate_hz=100, channels=("x", "y"), units=(), length=2, hop=2, context=0)
SOUND = Signal(rate_hz=16_000, channels=("mono",), units=(), length=512, hop=512, context=64)


def built(
    source: object, signal: Signal | None = None, *, mqtt: MqttSettings | None = None, **settings: object
) -> Source:
    """Build a source as the agent does."""
    stream = StreamSettings.model_validate({"name": "s", "source": str(source), "model": "m", **settings})
    return build_source(stream, SystemClock(), signal, mqtt)


def _jpeg(number: int) -> bytes:
    encoded, jpeg = cv2.imencode(".jpg", np.full((48, 64, 3), number % 256, np.uint8))
    assert encoded
    return jpeg.tobytes()


def _file(stack: ExitStack, folder: Path) -> Source:
    return video()


def _paced_file(stack: ExitStack, folder: Path) -> Source:
    return video(paced=True, fps=200)


def _http(stack: ExitStack, folder: Path) -> Source:
    return NetworkSource(stack.enter_context(MjpegServer()).url, SystemClock())


def _v4l2(stack: ExitStack, folder: Path) -> Source:
    devices = sorted(Path("/dev").glob("video*"))
    if not devices:
        pytest.skip("this kernel has no V4L2 device: modprobe vivid, where it may be loaded")
    return built(devices[0])


def _guarded_http(stack: ExitStack, folder: Path) -> Source:
    return built(stack.enter_context(MjpegServer()).url)


def _image_folder(stack: ExitStack, folder: Path) -> Source:
    for number in range(6):
        (folder / f"{number}.jpg").write_bytes(_jpeg(number))
    return built(folder, mode="every_frame")


def _synthetic(stack: ExitStack, folder: Path) -> Source:
    return built("synthetic:", fps=200)


def _synthetic_signal(stack: ExitStack, folder: Path) -> Source:
    return built("synthetic:", WATCH)


def _wav(stack: ExitStack, folder: Path) -> Source:
    return built(SPEECH, SOUND)


def _replay(stack: ExitStack, folder: Path) -> Source:
    file = folder / "watch.csv"
    file.write_text("t,x,y\n" + "".join(f"{100 + number / 100},{number},-1\n" for number in range(40)))
    return built(file, WATCH, samples={"time_key": "t"})


def _serial(stack: ExitStack, folder: Path) -> Source:
    pair = SerialPair()
    stack.callback(pair.close)
    stack.enter_context(Feeder(lambda number: pair.write(b"1.5,2.5\r\n")))
    return built(f"serial:{pair.device}", WATCH, samples={"format": "csv"})


def _iio(stack: ExitStack, folder: Path, *, has_buffer: bool) -> Source:
    tree = IioTree(folder, has_buffer=has_buffer)
    stack.callback(tree.close)
    if has_buffer:
        stack.enter_context(Feeder(lambda number: tree.push(number, 0, SystemClock().wall_ns())))
    source = built("iio:imu", WATCH, samples={"channels": ["accel_x", "accel_y"]})
    source._samples._sysfs, source._samples._dev = tree.sysfs, tree.dev  # type: ignore[attr-defined]
    return source


def _iio_polled(stack: ExitStack, folder: Path) -> Source:
    return _iio(stack, folder, has_buffer=False)


def _iio_buffer(stack: ExitStack, folder: Path) -> Source:
    return _iio(stack, folder, has_buffer=True)


def _alsa(stack: ExitStack, folder: Path) -> Source:
    source = built("alsa:null", SOUND)
    program = fake_recorder(folder, "while :; do head -c 1024 /dev/zero; sleep 0.01; done")
    source._samples._transport = Recorder(  # type: ignore[attr-defined]
        "null", rate_hz=16_000, channels=1, block_s=0.032, program=program
    )
    return source


def _stdin_lines(stack: ExitStack, feed: Callable[[int], bytes], signal: Signal = WATCH, **samples: object) -> Source:
    ours, theirs = os.pipe()
    stack.callback(os.close, theirs)
    stack.enter_context(Feeder(lambda number: os.write(theirs, feed(number))))
    source = built("-", signal, samples=samples)
    # The test's own standard input is not its to read.
    source._samples._transport = StandardInput(ours)  # type: ignore[attr-defined]
    stack.callback(os.close, ours)
    return source


def _stdin(stack: ExitStack, folder: Path) -> Source:
    return _stdin_lines(stack, lambda _: b'{"x": 1, "y": 2}\n')


def _stdin_csv(stack: ExitStack, folder: Path) -> Source:
    return _stdin_lines(stack, lambda number: b"y,x\n" if number == 0 else b"2,1\n", format="csv")


def _stdin_raw(stack: ExitStack, folder: Path) -> Source:
    # Pieces that end in the middle of a sample.
    piece = np.zeros(341, "<i2").tobytes() + b"\0"
    return _stdin_lines(stack, lambda _: piece, SOUND, format="raw", dtype="int16")


def _serial_json(stack: ExitStack, folder: Path) -> Source:
    pair = SerialPair()
    stack.callback(pair.close)
    stack.enter_context(Feeder(lambda number: pair.write(b'{"x": 1, "y": 2.5}\r\n')))
    return built(f"serial:{pair.device}", WATCH)


def _replay_ndjson(stack: ExitStack, folder: Path) -> Source:
    file = folder / "watch.ndjson"
    lines = (json.dumps({"t": 100 + number / 100, "x": number, "y": -1}) for number in range(40))
    file.write_text("\n".join(lines))
    return built(file, WATCH, samples={"time_key": "t"})


def _alsa_null(stack: ExitStack, folder: Path) -> Source:
    if shutil.which("arecord") is None:
        pytest.skip("arecord is not installed: apt-get install alsa-utils")
    return built("alsa:null", SOUND)


def _rtsp(stack: ExitStack, transport: str) -> Source:
    if not has_server():
        pytest.skip(NO_SERVER)
    (port,) = free_ports(1)
    stack.enter_context(rtsp_camera(port, 256))
    return built(f"rtsp://127.0.0.1:{port}/camera", transport=transport)


def _rtsp_tcp(stack: ExitStack, folder: Path) -> Source:
    return _rtsp(stack, "tcp")


def _rtsp_udp(stack: ExitStack, folder: Path) -> Source:
    return _rtsp(stack, "udp")


def _mqtt(stack: ExitStack, folder: Path, topic: str, payload: bytes) -> MqttSettings:
    broker = stack.enter_context(Broker(folder))
    publisher = stack.enter_context(Publisher(broker.port))
    stack.enter_context(Feeder(lambda _: publisher.publish(topic, payload)))
    return MqttSettings(url=broker.url)


def _mqtt_pictures(stack: ExitStack, folder: Path) -> Source:
    return built("mqtt:cameras/a", mqtt=_mqtt(stack, folder, "cameras/a", _jpeg(7)))


def _mqtt_json(stack: ExitStack, folder: Path) -> Source:
    return built("mqtt:watch/+", WATCH, mqtt=_mqtt(stack, folder, "watch/a", b'{"x": 1, "y": [2]}'))


def _mqtt_raw(stack: ExitStack, folder: Path) -> Source:
    broker = _mqtt(stack, folder, "watch/a", np.zeros((4, 2), "<f4").tobytes())
    return built("mqtt:watch/a", WATCH, mqtt=broker, samples={"format": "raw", "dtype": "float32"})


def _mqtt_png(stack: ExitStack, folder: Path) -> Source:
    encoded, png = cv2.imencode(".png", np.full((48, 64, 3), 9, np.uint8))
    assert encoded
    return built("mqtt:cameras/a", mqtt=_mqtt(stack, folder, "cameras/a", png.tobytes()))


def _mqtt_int16(stack: ExitStack, folder: Path) -> Source:
    broker = _mqtt(stack, folder, "watch/a", np.full((2, 4), 100, "<i2").tobytes())
    raw = {"format": "raw", "dtype": "int16", "layout": "planar"}
    return built("mqtt:watch/a", WATCH, mqtt=broker, samples=raw)


MAKERS: dict[str, Callable[[ExitStack, Path], Source]] = {
    "file": _file,
    "paced file": _paced_file,
    "http": _http,
    "v4l2": _v4l2,
    "guarded http": _guarded_http,
    "image folder": _image_folder,
    "synthetic pictures": _synthetic,
    "synthetic signal": _synthetic_signal,
    "wav": _wav,
    "replay": _replay,
    "replay of ndjson": _replay_ndjson,
    "standard input": _stdin,
    "standard input of csv": _stdin_csv,
    "standard input of raw numbers": _stdin_raw,
    "serial": _serial,
    "serial json": _serial_json,
    "iio polled": _iio_polled,
    "iio buffer": _iio_buffer,
    "alsa": _alsa,
    "alsa null": _alsa_null,
    "rtsp over tcp": _rtsp_tcp,
    "rtsp over udp": _rtsp_udp,
    "mqtt pictures": _mqtt_pictures,
    "mqtt json": _mqtt_json,
    "mqtt raw": _mqtt_raw,
    "mqtt int16": _mqtt_int16,
    "mqtt png": _mqtt_png,
}


@pytest.fixture(params=list(MAKERS))
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Source]:
    """Each kind of source, ready to open."""
    if request.param.startswith("mqtt") and MOSQUITTO is None:
        pytest.skip("mosquitto is not installed: apt-get install mosquitto")
    with ExitStack() as stack:
        source = MAKERS[request.param](stack, tmp_path)
        yield source
        source.close()


def video(
    file: Path = CLIP, *, paced: bool = False, repeat: bool = False, fps: float | None = None
) -> VideoFileSource:
    """Open nothing yet: a file source on the real clock."""
    return VideoFileSource(file, SystemClock(), is_paced=paced, repeat=repeat, fps=fps)


def test_frames_are_stamped_and_shaped(source: Source) -> None:
    """uint8 BGR pixels or a float32 window, and stamps that are not in the future; those of pictures rise."""
    source.open()
    captures = [source.read() for _ in range(3)]
    now_ns = SystemClock().now_ns()
    stamps = [capture.captured_at_ns for capture in captures if capture is not None]
    assert len(stamps) == 3
    assert all(now_ns - 60 * NS_PER_S < stamp <= now_ns for stamp in stamps)
    for capture in captures:
        assert capture is not None
        if capture.pixels.dtype == np.uint8:
            assert capture.pixels.ndim == 3
            assert capture.pixels.shape[2] == 3
            assert stamps == sorted(stamps)
        else:
            assert capture.pixels.dtype == np.float32
            assert capture.pixels.shape in ((2, 2), (576, 1))
            assert np.isfinite(capture.pixels).all()


def test_a_frame_belongs_to_its_receiver(source: Source) -> None:
    """Later reads never write into an earlier frame."""
    source.open()
    first = source.read()
    assert first is not None
    kept = first.pixels.copy()
    for _ in range(3):
        source.read()
    np.testing.assert_array_equal(first.pixels, kept)


def test_close_may_come_twice_and_open_again(source: Source) -> None:
    """The loop closes after a loss and opens anew; a signal then begins anew as well."""
    source.open()
    source.close()
    source.close()
    source.open()
    capture = source.read()
    assert capture is not None
    assert capture.follows == (capture.pixels.dtype == np.uint8)


def test_an_interrupted_source_ends(source: Source) -> None:
    """The stop of an agent waits for no frame. OpenCV's reads end with the next frame, or their own time limit."""
    source.open()
    assert source.read() is not None
    source.interrupt()
    if isinstance(source, NetworkSource):
        assert source.read() is not None
    else:
        # At most what was read already: a full pipe of sound is 64 windows.
        assert any(source.read() is None for _ in range(66))


@pytest.fixture
def camera_on_the_net() -> Iterator[MjpegServer]:
    """A camera that sends MJPEG over HTTP."""
    with MjpegServer() as server:
        yield server


def test_a_file_ends_after_its_last_frame() -> None:
    """None, and every frame was delivered."""
    source = video()
    source.open()
    count = 0
    while source.read() is not None:
        count += 1
    source.close()
    assert count == CLIP_FRAMES


def test_a_file_loses_nothing_beside_a_stream(camera_on_the_net: MjpegServer) -> None:
    """FFmpeg's options for a stream are the process's, and would cost a file its first frame."""
    stream = NetworkSource(camera_on_the_net.url, SystemClock())
    stream.open()
    source = video()
    source.open()
    count = 0
    while source.read() is not None:
        count += 1
    source.close()
    stream.close()
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


def test_a_file_that_cannot_be_decoded_at_its_rate_runs_slower() -> None:
    """Every frame takes two periods: each second one is delivered, for as long as it goes, and none is waited for."""
    clock = ManualClock()
    source = VideoFileSource(CLIP, clock, is_paced=True, repeat=True, fps=1000.0)
    source.open()
    assert source._capture is not None
    capture, decoded = source._capture, 0

    class SlowDecoder:
        """Takes 2 ms a frame."""

        def grab(self) -> bool:
            nonlocal decoded
            decoded += 1
            clock.ns += 2 * NS_PER_MS
            return capture.grab()

        def __getattr__(self, name: str) -> object:
            return getattr(capture, name)

    source._capture = SlowDecoder()  # type: ignore[assignment]
    delivered = [source.read() for _ in range(20)]
    source.close()
    assert None not in delivered
    assert decoded <= 2 * len(delivered)


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


def subscription_of(source: Source) -> Subscription:
    """Return what an `mqtt:` source of samples hears."""
    found = source._samples._subscription  # type: ignore[attr-defined]  # Of one kind of source alone.
    assert isinstance(found, Subscription)
    return found


@needs_mosquitto
def test_messages_that_come_too_fast_are_dropped_and_each_is_counted(tmp_path: Path) -> None:
    """Live: the newest 64 stay, the next one says that something is missing before it, each drop is one error."""
    with Broker(tmp_path) as broker, Publisher(broker.port) as publisher:
        source = built("mqtt:watch", WATCH, mqtt=MqttSettings(url=broker.url))
        source.open()
        for number in range(100):
            publisher.publish_and_wait("watch", json.dumps({"x": [number, number], "y": [0, 0]}))
        publisher.publish_and_wait("watch", b"bad")
        subscription = subscription_of(source)
        wait_until(lambda: subscription._dropped == 37, "the last message")
        seen, dropped, bad = [], 0, 0
        while not bad:
            try:
                capture = source.read()
            except PermanentError as error:
                dropped += "a message was dropped" in str(error)
                bad += "is not JSON" in str(error)
            else:
                assert capture is not None
                seen.append((int(capture.pixels[0, 0]), capture.follows))
        source.close()
    assert dropped == 100 + 1 - 64
    assert [number for number, _ in seen] == list(range(37, 100))
    assert [follows for _, follows in seen] == [False] + [True] * 62


@needs_mosquitto
def test_a_broker_that_is_gone_is_a_loss_and_its_return_a_return(tmp_path: Path) -> None:
    """As with a camera: transient, and open works again."""
    with Broker(tmp_path) as broker:
        source = built("mqtt:watch", WATCH, mqtt=MqttSettings(url=broker.url))
        source.open()
        broker.kill()
        with pytest.raises(TransientError, match="the connection was lost"):
            source.read()
        source.close()
        with pytest.raises(TransientError, match="cannot connect"):
            source.open()
        source.close()
        broker.start()
        source.open()
        source.close()


@needs_mosquitto
def test_a_topic_that_falls_silent_is_lost_and_misses_nothing(tmp_path: Path) -> None:
    """The connection stays: what comes between the loss and the next opening is read after it."""
    with Broker(tmp_path) as broker, Publisher(broker.port) as publisher:
        source = built("mqtt:watch", WATCH, mqtt=MqttSettings(url=broker.url), silence_s=1)
        source.open()
        with pytest.raises(TransientError, match="watch: no message for 1 s"):
            source.read()
        source.close()
        publisher.publish_and_wait("watch", json.dumps({"x": [1, 2], "y": [0, 0]}))
        source.open()
        capture = source.read()
        assert capture is not None
        assert capture.pixels[:, 0].tolist() == [1, 2]
        source.close()
        subscription = subscription_of(source)
        assert subscription._client is None
        assert broker.log.read_text().count("as edgebeat-source-") == 1


@needs_mosquitto
def test_a_broker_that_goes_while_its_topic_is_silent_is_a_loss(tmp_path: Path) -> None:
    """A connection that was kept is not believed for ever: the next reading tells, another opening connects anew."""
    with Broker(tmp_path) as broker:
        source = built("mqtt:watch", WATCH, mqtt=MqttSettings(url=broker.url), silence_s=2)
        source.open()
        with pytest.raises(TransientError, match="no message for 2 s"):
            source.read()
        source.close()
        broker.kill()
        source.open()
        with pytest.raises(TransientError, match="the connection was lost"):
            source.read()
        source.close()
        with pytest.raises(TransientError, match="cannot connect"):
            source.open()
        source.close()
