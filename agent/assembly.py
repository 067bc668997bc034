"""Builds the adapters that the settings name, and proves each model on this device before it may serve."""

from __future__ import annotations

import importlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from agent.clock import NS_PER_MS, Clock
from agent.core.scheduler import Overflow, StreamPolicy
from agent.decoders.options import DecoderInput
from agent.engine.session import OrtEngine
from agent.errors import ConfigError, PermanentError
from agent.frame import Pixels
from agent.interfaces import Decoder, LoadedModel, Source
from agent.models.golden import differences, read_picture
from agent.models.manifest import MANIFEST_NAME, InputSpec, Manifest, load_expected, load_labels, load_manifest
from agent.models.preprocess import build_preprocess
from agent.settings import ModelSettings, StreamSettings

log = logging.getLogger(__name__)

DECODERS = {
    "ssd": "agent.decoders.ssd:SsdDecoder",
    "classification": "agent.decoders.classification:ClassificationDecoder",
    "raw": "agent.decoders.raw:RawDecoder",
}

SOURCES = {
    "camera": "agent.sources.camera:CameraSource",
    "network": "agent.sources.network:NetworkSource",
    "video_file": "agent.sources.video_file:VideoFileSource",
}

WARM_UP_RUNS = 3
"""The first run allocates the arena, the second settles it; the third shows a steady service time."""

QUEUE_FRAMES_EVERY_FRAME = 4
"""Enough that decoding and inference overlap: 4 frames of 1080p are 25 MB."""


def load_model(settings: ModelSettings, threads: int) -> LoadedModel:
    """Load a model folder, warm it and check its golden sample.

    Raises:
        ConfigError: anything that is wrong with the folder, the network or what it makes of the sample.
    """
    folder, manifest = load_manifest(settings.path)
    engine = OrtEngine(folder / manifest.model.path, threads=threads, sha256=manifest.model.sha256)
    place = str(folder / MANIFEST_NAME)
    _check_input(manifest.input, engine, place)
    given = DecoderInput(
        place=place,
        options=manifest.decoder,
        outputs=engine.outputs,
        labels=None if manifest.labels is None else load_labels(folder, manifest.labels),
        first_id=0 if manifest.labels is None else manifest.labels.first_id,
    )
    model = LoadedModel(
        name=settings.name,
        version=manifest.version,
        task=manifest.task,
        sha256=engine.sha256,
        preprocess=build_preprocess(manifest.input),
        engine=engine,
        decoder=_build_decoder(given),
    )
    _warm_up(model, folder, manifest)
    return model


def build_source(stream: StreamSettings, clock: Clock) -> Source:
    """Return the source that a stream names.

    Raises:
        ConfigError: nothing that we know, or a file that is not there.
    """
    text = stream.source
    if text.isdigit() or text.startswith("/dev/"):
        camera: Source = _load(SOURCES["camera"])(
            text, clock, width=stream.width, height=stream.height, fps=stream.fps
        )
        return camera
    if text.partition("://")[0] in ("rtsp", "rtsps", "http", "https"):
        network: Source = _load(SOURCES["network"])(text, clock)
        return network
    file = Path(text)
    if not file.is_file():
        raise ConfigError(
            f"streams.{stream.name}: source {text!r} is no file (looked in {Path.cwd()}), and neither /dev/video*, "
            "a camera's number, rtsp:// nor http://"
        )
    video: Source = _load(SOURCES["video_file"])(
        file, clock, is_paced=stream.mode == "live", repeat=stream.repeat, fps=stream.fps
    )
    return video


def stream_policy(stream: StreamSettings) -> StreamPolicy:
    """Return how the scheduler treats a stream."""
    is_live = stream.mode == "live"
    queue_frames = stream.queue_frames or (1 if is_live else QUEUE_FRAMES_EVERY_FRAME)
    overflow = Overflow.BLOCK
    if is_live:
        overflow = Overflow.SUPERSEDE if queue_frames == 1 else Overflow.DROP_OLDEST
    return StreamPolicy(
        budget_ns=None if stream.budget_ms is None else int(stream.budget_ms * NS_PER_MS),
        queue_frames=queue_frames,
        overflow=overflow,
        late_is_published=stream.on_late == "mark",
    )


def _load(reference: str) -> Any:
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


def _build_decoder(given: DecoderInput) -> Decoder:
    name = given.options.get("name")
    if name not in DECODERS:
        raise ConfigError(f"{given.place}: [decoder] name {name!r}: known are {', '.join(DECODERS)}")
    decoder: Decoder = _load(DECODERS[name])(given)
    return decoder


def _check_input(spec: InputSpec, engine: OrtEngine, place: str) -> None:
    channels = 1 if spec.color == "GRAY" else 3
    plane = (spec.height, spec.width)
    shape = (1, *plane, channels) if spec.layout == "NHWC" else (1, channels, *plane)
    seen = ", ".join(map(str, engine.inputs))
    if len(engine.inputs) != 1 or engine.inputs[0].name != spec.name:
        raise ConfigError(f"{place}: [input] describes {spec.name!r}; the model takes {seen}")
    wanted = engine.inputs[0]
    fits = len(wanted.shape) == 4 and all(
        size is None or size == own for size, own in zip(wanted.shape, shape, strict=True)
    )
    if wanted.dtype != np.dtype(spec.dtype) or not fits:
        raise ConfigError(f"{place}: [input] makes {spec.dtype}{list(shape)} ({spec.layout}); the model takes {seen}")


def _warm_up(model: LoadedModel, folder: Path, manifest: Manifest) -> None:
    """Run real-shaped frames through the whole path and compare the golden sample's payload."""
    golden = manifest.golden
    if golden is None:
        log.warning("%s: has no [golden] sample: nothing proves that the model works on this device", model.name)
        picture: Pixels = np.zeros((manifest.input.height, manifest.input.width, 3), np.uint8)
    else:
        picture = read_picture(folder / golden.image)
    try:
        for _ in range(WARM_UP_RUNS):
            inputs, placement = model.preprocess(picture)
            payload = model.decoder.decode(model.engine.run(inputs, model.engine.new_abort()), placement)
    except PermanentError as error:
        raise ConfigError(f"{folder}: fails on its warm-up frame: {error}") from error
    if golden is None:
        return
    # Through JSON, so that what is compared is what would be published.
    found = differences(load_expected(folder, golden), json.loads(json.dumps(payload)), golden.tolerance)
    if found:
        raise ConfigError(
            [
                f"{folder}: does not reproduce its golden sample {golden.image} on this device, so its results "
                "cannot be trusted (an int8 model quantised for another kind of CPU does this):",
                *(f"  {text}" for text in found[:10]),
            ]
        )
