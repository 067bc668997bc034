"""A stream's settings and its model's signal become its source."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from agent.clock import NEVER_NS, NS_PER_MS, NS_PER_S, Clock
from agent.errors import ConfigError, PermanentError
from agent.interfaces import LoadedModel, SampleSource, Signal, SignalForm, Source
from agent.settings import MqttSettings, SamplesSettings, Settings, StreamSettings
from agent.sources.pictures import SUFFIXES

if TYPE_CHECKING:  # A stream of pictures needs nothing of a signal's.
    from agent.core.samples import Codec

log = logging.getLogger(__name__)

SOURCES = {
    "camera": "agent.sources.camera:CameraSource",
    "network": "agent.sources.network:NetworkSource",
    "video_file": "agent.sources.video_file:VideoFileSource",
    "gated": "agent.sources.still:GatedSource",
    "still_gate": "agent.sources.still:StillGate",
    "guarded": "agent.sources.guarded:GuardedSource",
    "image_folder": "agent.sources.image_folder:ImageFolderSource",
    "synthetic_pictures": "agent.sources.synthetic:SyntheticPictures",
    "synthetic_samples": "agent.sources.synthetic:SyntheticSamples",
    "subscription": "agent.sources.mqtt:Subscription",
    "mqtt_pictures": "agent.sources.mqtt:MqttPictures",
    "mqtt_samples": "agent.sources.mqtt:MqttSamples",
    "wav": "agent.sources.wav:WavSource",
    "replay": "agent.sources.replay:ReplaySource",
    "byte_stream": "agent.sources.byte_stream:ByteStreamSource",
    "standard_input": "agent.sources.standard_input:StandardInput",
    "serial_line": "agent.sources.serial_line:SerialLine",
    "recorder": "agent.sources.alsa:Recorder",
    "iio": "agent.sources.iio:IioSource",
    "windowed": "agent.sources.windowed:WindowedSource",
}

NETWORK_SCHEMES = ("rtsp", "rtsps", "http", "https")
TIME_UNITS_NS = {"s": NS_PER_S, "ms": NS_PER_MS, "us": 1000, "ns": 1}

JITTER_NS = 250 * NS_PER_MS
"""Samples whose only time is their arrival may come in bunches: USB, MQTT and pipes hold them at times."""

SERIAL_SILENCE_S = 30.0
"""A sensor on a line speaks at its rate; slower ones are given ten periods."""


def build_source(
    stream: StreamSettings, clock: Clock, signal: Signal | None = None, mqtt: MqttSettings | None = None
) -> Source:
    """Return the source that a stream names.

    Args:
        stream: its settings.
        clock: the agent's.
        signal: what its model takes; None for pictures.
        mqtt: the agent's broker, for `mqtt:TOPIC`.

    Raises:
        ConfigError: nothing that we know, a file that is not there, or a signal that the model cannot take.
    """
    mqtt = mqtt or MqttSettings()
    try:
        _check_silence(stream)
        if signal is None:
            return _gated(_pictures(stream, clock, mqtt), stream)
        return _signal(stream, clock, signal, mqtt)
    except (ConfigError, PermanentError) as error:
        raise ConfigError(f"streams.{stream.name}: {error}") from None


def build_sources(
    settings: Settings, models: Mapping[str, LoadedModel], clock: Clock, *, must_all_be_known: bool
) -> dict[str, Source]:
    """Return the sources of all streams that are on and whose model is there, by stream.

    Raises:
        ConfigError: one of them is nothing that we know, where `must_all_be_known`; else the others go on without it.
    """
    sources: dict[str, Source] = {}
    for stream in settings.streams:
        if stream.model not in models or not stream.enabled:
            continue
        try:
            sources[stream.name] = build_source(stream, clock, models[stream.model].signal, settings.mqtt)
        except ConfigError as error:
            if must_all_be_known:
                raise
            log.error("left out: %s", error)
    return sources


def has_time_outs(stream: StreamSettings) -> bool:
    """Return whether each call of a stream's source ends by itself, whatever became of the device.

    Those of cameras do within 10 s (V4L2's select), those of network streams within 5 s (`sources/opencv.py`).
    """
    text = stream.source
    return _is_camera(text) or text.partition("://")[0] in NETWORK_SCHEMES


def _is_camera(text: str) -> bool:
    """Return whether a source's text is a V4L2 device: an index, /dev/video0, or a link as in /dev/v4l/by-id."""
    return text.isdigit() or text.startswith("/dev/")


def _gated(source: Source, stream: StreamSettings) -> Source:
    if stream.changed_share_min is None:
        return source
    gated: Source = _load("gated")(source, _load("still_gate")(stream.changed_share_min))
    return gated


def _pictures(stream: StreamSettings, clock: Clock, mqtt: MqttSettings) -> Source:
    text, is_paced = stream.source, stream.mode == "live"
    if stream.samples is not None:
        raise ConfigError(f"samples is for signals, and {stream.model} takes pictures: leave it out")
    size = {"width": stream.width, "height": stream.height, "fps": stream.fps}
    source: Source
    if _is_camera(text):
        wishes = {**size, "pixel_format": stream.pixel_format}
        source = _load("guarded")(lambda: _load("camera")(text, clock, **wishes), stream.name)
    elif text.partition("://")[0] in NETWORK_SCHEMES:
        source = _load("guarded")(lambda: _load("network")(text, clock, transport=stream.transport), stream.name)
    elif text == "synthetic:":
        source = _load("synthetic_pictures")(clock, is_paced=is_paced, **size)
    elif (topic := _topic(text, mqtt)) is not None:
        source = _load("mqtt_pictures")(_subscription(topic, stream, clock))
    else:
        path = _existing(text, stream)
        options = {"is_paced": is_paced, "repeat": stream.repeat, "fps": stream.fps}
        if path.suffix.lower() in (".wav", ".csv", ".ndjson", ".jsonl"):
            raise ConfigError(f"source {text!r} is a signal, and {stream.model} takes pictures")
        if path.suffix.lower() in SUFFIXES:
            raise ConfigError(f"source {text!r} is one picture: name its folder")
        source = _load("image_folder" if path.is_dir() else "video_file")(path, clock, **options)
    return source


def _signal(stream: StreamSettings, clock: Clock, signal: Signal, mqtt: MqttSettings) -> Source:
    from agent.core.conversion import Converter, Plan
    from agent.core.windows import window_policy

    if stream.changed_share_min is not None:
        raise ConfigError(f"changed_share_min is for pictures, and {stream.model} takes a signal: leave it out")
    settings = stream.samples or SamplesSettings()
    plan = Plan(
        channels=settings.channels,
        mix=settings.mix,
        scale=settings.scale,
        units=settings.units,
        resamples=settings.on_rate == "resample",
    )
    samples, form, has_time = _samples(stream, settings, clock, signal, mqtt)
    Converter(form, signal, plan)  # Refuses at the start what the source would be refused for when it is opened.
    gap_ns = round(NS_PER_S / signal.rate_hz / 2)
    if not has_time:
        # In every_frame mode the reader waits for the model, so that arrival tells nothing.
        gap_ns = JITTER_NS + round(3 * NS_PER_S / signal.rate_hz) if stream.mode == "live" else NEVER_NS
    policy = window_policy(
        signal,
        gap_ns=gap_ns if settings.gap_ms is None else round(settings.gap_ms * NS_PER_MS),
        fill_samples=int(settings.fill_ms * signal.rate_hz / 1000),
    )
    windowed: Source = _load("windowed")(samples, stream.source, signal, plan, policy, has_time=has_time)
    return windowed


def _samples(
    stream: StreamSettings, settings: SamplesSettings, clock: Clock, signal: Signal, mqtt: MqttSettings
) -> tuple[SampleSource, SignalForm, bool]:
    """Return the source of samples, what it gives, and whether its samples carry their time."""
    from agent.core.samples import RawCodec, SenderTime

    text, is_paced = stream.source, stream.mode == "live"
    kind, _, rest = text.partition(":")
    rate_hz, block_s = settings.rate_hz or signal.rate_hz, signal.hop / signal.rate_hz
    has_time = settings.time_key is not None
    form = _form(settings, signal, rate_hz)
    reading = {
        "new_codec": _codec(settings, settings.format or ("csv" if text.lower().endswith(".csv") else "json"), form),
        "new_time": partial(SenderTime, is_wall=settings.time_base == "wall") if has_time else None,
        "form": form,
    }
    source: SampleSource
    if text == "-":
        source = _load("byte_stream")(_load("standard_input")(), clock, **reading, silence_s=stream.silence_s)
    elif kind == "serial":
        silence_s = stream.silence_s or max(SERIAL_SILENCE_S, 10 / rate_hz)
        source = _load("byte_stream")(_serial_line(rest, settings.baud), clock, **reading, silence_s=silence_s)
    elif kind == "alsa":
        sound = _sound_form(settings, signal, rate_hz)
        recorder = _load("recorder")(rest, rate_hz=rate_hz, channels=len(sound.channels), block_s=block_s)
        codec = partial(RawCodec, "int16", len(sound.channels))
        form = sound
        source = _load("byte_stream")(recorder, clock, new_codec=codec, new_time=None, form=form)
    elif kind == "iio":
        source = _load("iio")(rest, form.channels, rate_hz, clock)
    elif (topic := _topic(text, mqtt)) is not None:
        source = _load("mqtt_samples")(_subscription(topic, stream, clock), clock, **reading)
    elif text == "synthetic:":
        form = SignalForm(rate_hz, signal.channels)
        source = _load("synthetic_samples")(clock, is_paced=is_paced, form=form, block_s=block_s)
        has_time = True
    else:
        source, form = _signal_file(stream, clock, reading, block_s)
        has_time = True
    return source, form, has_time


def _signal_file(
    stream: StreamSettings, clock: Clock, reading: dict[str, Any], block_s: float
) -> tuple[SampleSource, SignalForm]:
    file = _existing(stream.source, stream)
    options = {"is_paced": stream.mode == "live", "repeat": stream.repeat}
    if file.suffix.lower() == ".wav":
        source: SampleSource = _load("wav")(file, clock, block_s=block_s, **options)
        # Its header is read now, so that a wrong rate is refused before anything starts.
        source.open()
        form = source.form()
        source.close()
        return source, form
    if file.is_dir() or file.suffix.lower() not in (".csv", ".ndjson", ".jsonl"):
        raise ConfigError(
            f"source {stream.source!r} is no .wav, .csv, .ndjson or .jsonl, and the model takes a signal"
        )
    del reading["new_time"]
    return _load("replay")(file, clock, **reading, **options), reading["form"]


def _form(settings: SamplesSettings, signal: Signal, rate_hz: float) -> SignalForm:
    """Return what a source gives that names its channels, or sends numbers in an order."""
    if settings.format == "raw":
        return _sound_form(settings, signal, rate_hz)
    return SignalForm(rate_hz, settings.channels or signal.channels)


def _sound_form(settings: SamplesSettings, signal: Signal, rate_hz: float) -> SignalForm:
    count = settings.source_channels or len(signal.channels)
    return SignalForm(rate_hz, tuple(str(number) for number in range(1, count + 1)))


def _codec(settings: SamplesSettings, name: str, form: SignalForm) -> Callable[[], Codec]:
    from agent.core.samples import CsvCodec, JsonCodec, RawCodec

    if name == "raw":
        return partial(RawCodec, settings.dtype, len(form.channels), settings.layout)
    codec = JsonCodec if name == "json" else CsvCodec
    return partial(codec, form.channels, settings.time_key, TIME_UNITS_NS[settings.time_unit])


def _subscription(topic: tuple[MqttSettings, str], stream: StreamSettings, clock: Clock) -> Any:
    return _load("subscription")(*topic, clock, waits=stream.mode == "every_frame", silence_s=stream.silence_s)


def _check_silence(stream: StreamSettings) -> None:
    is_heard = stream.source == "-" or stream.source.startswith(("mqtt:", "mqtts:", "serial:"))
    if stream.silence_s is not None and not is_heard:
        raise ConfigError(
            f"silence_s is for mqtt:, serial: and standard input; source {stream.source!r} has a limit of its own "
            "or ends: leave it out"
        )


def _serial_line(device: str, baud: int) -> Any:
    try:
        return _load("serial_line")(device, baud)
    except ImportError as error:
        raise ConfigError("serial lines need the extra `serial`: pip install 'edgebeat[serial]'") from error


def _topic(text: str, mqtt: MqttSettings) -> tuple[MqttSettings, str] | None:
    """Return the broker and the topic of `mqtt:TOPIC` or `mqtt://HOST:PORT/TOPIC`; None for another source."""
    if text.startswith(("mqtt://", "mqtts://")):
        parts = urlsplit(text)
        own = MqttSettings(
            url=f"{parts.scheme}://{parts.netloc}", protocol=mqtt.protocol, keepalive_s=mqtt.keepalive_s
        )
        topic = text.split("/", 3)[3] if text.count("/") >= 3 else ""
    elif text.startswith("mqtt:"):
        own, topic = mqtt, text.removeprefix("mqtt:")
        if own.url == "embedded":
            raise ConfigError("source mqtt: needs a broker's URL: the embedded one starts after the sources")
    else:
        return None
    levels = topic.removeprefix("$share/").split("/")
    if not topic or "" in levels[:1] or "#" in topic[:-1] or (topic.startswith("$share/") and len(levels) < 2):
        raise ConfigError(f"source {text!r} names no topic, such as mqtt:sensors/+/accel or mqtt:$share/group/frames")
    return own, topic


def _existing(text: str, stream: StreamSettings) -> Path:
    path = Path(text)
    if not path.exists():
        raise ConfigError(
            f"source {text!r} is no file (looked in {Path.cwd()}), and nothing else that {stream.model} can take: "
            "docs/sources.md lists what there is"
        )
    return path


def _load(name: str) -> Any:
    module, _, attribute = SOURCES[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
