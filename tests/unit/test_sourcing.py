"""A stream's source text and its model's signal become the right source, or one clear refusal."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.clock import SystemClock
from agent.errors import ConfigError
from agent.interfaces import Signal
from agent.settings import MqttSettings, StreamSettings
from agent.sources.camera import CameraSource
from agent.sources.guarded import GuardedSource
from agent.sources.image_folder import ImageFolderSource
from agent.sources.mqtt import MqttPictures
from agent.sources.network import NetworkSource
from agent.sources.synthetic import SyntheticPictures
from agent.sources.video_file import VideoFileSource
from agent.sources.windowed import WindowedSource
from agent.sourcing import build_source, has_time_outs
from tests.paths import CLIP, SPEECH

VOICE = Signal(rate_hz=16_000, channels=("mono",), units=(), length=512, hop=512, context=64)
WATCH = Signal(rate_hz=50, channels=("x", "y"), units=("m/s2",), length=25, hop=25, context=0)


def stream(source: object, **changes: object) -> StreamSettings:
    """Build a stream's settings."""
    values = {"name": "s", "source": str(source), "model": "m"}
    return StreamSettings.model_validate(values | changes)


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("/dev/video7", CameraSource),
        ("0", CameraSource),
        ("/dev/v4l/by-id/cam", CameraSource),
        ("rtsp://u:p@h/x", NetworkSource),
        ("http://h/x", NetworkSource),
        (CLIP, VideoFileSource),
        (CLIP.parent, ImageFolderSource),
        ("synthetic:", SyntheticPictures),
        ("mqtt:cameras/+/jpeg", MqttPictures),
        ("mqtt:$share/g/cameras/+/jpeg", MqttPictures),
        ("mqtt://other:1883/cameras/a", MqttPictures),
    ],
)
def test_sources_of_pictures_are_told_apart_by_their_text(source: object, kind: type) -> None:
    """A device, a number, a URL, a file, a folder, a topic."""
    built = build_source(stream(source), SystemClock())
    assert isinstance(built._make() if isinstance(built, GuardedSource) else built, kind)


@pytest.mark.parametrize("source", ["0", "/dev/video0", "/dev/v4l/by-id/usb-cam-index0", "rtsp://h/x", "https://h/x"])
def test_calls_of_cameras_and_streams_end_by_themselves(source: str) -> None:
    """So that one that does not is a hang, whatever name the device goes by."""
    assert has_time_outs(stream(source))


@pytest.mark.parametrize("source", [CLIP, "-", "synthetic:", "mqtt:cameras/a", "serial:/dev/ttyUSB0", "alsa:default"])
def test_calls_of_what_may_be_silent_do_not(source: object) -> None:
    """A topic without a message, or a slow file, hangs not."""
    assert not has_time_outs(stream(source))


@pytest.mark.parametrize(
    "source", [SPEECH, "-", "serial:/dev/ttyUSB0", "iio:imu", "alsa:default", "mqtt:sensors/a", "synthetic:"]
)
def test_sources_of_signals_become_windows(source: object) -> None:
    """Whatever the samples come from."""
    assert isinstance(build_source(stream(source), SystemClock(), VOICE), WindowedSource)


def test_what_cannot_be_a_source_is_refused(tmp_path: Path) -> None:
    """With the stream, what was looked for, and what to do."""
    picture, table = tmp_path / "a.png", tmp_path / "a.csv"
    picture.touch()
    table.touch()
    refused: list[tuple[StreamSettings, Signal | None, str]] = [
        (stream("nothing.mp4"), None, r"streams\.s: source 'nothing\.mp4' is no file"),
        (stream(SPEECH), None, "is a signal, and m takes pictures"),
        (stream(picture), None, "is one picture: name its folder"),
        (stream(CLIP), VOICE, "no .wav, .csv, .ndjson or .jsonl, and the model takes a signal"),
        (stream(CLIP, samples={"rate_hz": 5}), None, "samples is for signals"),
        (stream(SPEECH, changed_share_min=0.1), VOICE, "changed_share_min is for pictures"),
        (stream(CLIP, silence_s=5), None, "silence_s is for mqtt:, serial: and standard input"),
        (stream("alsa:default", silence_s=5), VOICE, "has a limit of its own"),
        (stream("mqtt:"), None, "names no topic"),
        (stream("mqtt:a/#/b"), None, "names no topic"),
        (stream("mqtt:$share/g"), None, "names no topic"),
        (stream(SPEECH), WATCH, "has 1 channel .1., the model takes 2"),
        (stream("-", samples={"rate_hz": 8_000}), VOICE, "gives 8000 samples a second, the model takes 16000"),
        (stream(table, samples={"units": ["deg/s"]}), WATCH, "gives 'deg/s', the model takes 'm/s2'"),
        (stream(table, samples={"channels": ["x"]}), WATCH, "samples.channels names 1, the model takes 2"),
        (stream("-", samples={"rate_hz": 44_101, "on_rate": "resample"}), VOICE, "cannot be resampled"),
    ]
    for settings, signal, reason in refused:
        with pytest.raises(ConfigError, match=reason):
            build_source(settings, SystemClock(), signal)


@pytest.mark.parametrize(
    ("source", "changes", "rate_hz", "silence_s"),
    [
        ("serial:/dev/ttyUSB0", {}, 50, 30),
        ("serial:/dev/ttyUSB0", {}, 0.1, 100),
        ("serial:/dev/ttyUSB0", {"silence_s": 2}, 50, 2),
        ("-", {}, 50, None),
        ("-", {"silence_s": 2}, 50, 2),
    ],
)
def test_how_long_a_source_may_be_silent(
    source: str, changes: dict[str, object], rate_hz: float, silence_s: float | None
) -> None:
    """A sensor on a line speaks at its rate; a pipe's writer may have nothing to say."""
    signal = Signal(rate_hz=rate_hz, channels=("x", "y"), units=(), length=2, hop=2, context=0)
    built = build_source(stream(source, **changes), SystemClock(), signal)
    assert built._samples._silence_s == silence_s  # type: ignore[attr-defined]


def test_the_embedded_broker_is_no_source() -> None:
    """It starts after the sources."""
    with pytest.raises(ConfigError, match="needs a broker's URL"):
        build_source(stream("mqtt:a"), SystemClock(), None, MqttSettings(url="embedded"))
