"""What stands before and behind a network, and whether both fit it."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from agent.decoders.options import DecoderInput
from agent.engine.session import OrtEngine
from agent.engine.trial import Extras, TensorShape
from agent.errors import ConfigError
from agent.interfaces import Decoder, Placement, Preprocess, TensorSpec
from agent.models.extra_inputs import build_extras, build_stamp, size_of
from agent.models.golden import read_picture
from agent.models.manifest import MANIFEST_NAME, Manifest, load_labels, variants_of
from agent.models.preprocess import build_preprocess
from agent.models.signal import SignalSpec, build_signal_preprocess
from agent.models.state import StateStore

DECODERS = {
    "ssd": "agent.decoders.ssd:SsdDecoder",
    "yolo": "agent.decoders.yolo:YoloDecoder",
    "tfod": "agent.decoders.tfod:TfodDecoder",
    "gfl": "agent.decoders.gfl:GflDecoder",
    "anchors": "agent.decoders.anchors:AnchorsDecoder",
    "classification": "agent.decoders.classification:ClassificationDecoder",
    "segmentation": "agent.decoders.segmentation:SegmentationDecoder",
    "pose": "agent.decoders.pose:PoseDecoder",
    "ctc": "agent.decoders.ctc:CtcDecoder",
    "embedding": "agent.decoders.numbers:EmbeddingDecoder",
    "regression": "agent.decoders.numbers:RegressionDecoder",
    "anomaly": "agent.decoders.numbers:AnomalyDecoder",
    "raw": "agent.decoders.raw:RawDecoder",
}


def input_shape(manifest: Manifest) -> TensorShape:
    """Return the tensor that a frame becomes: of a picture, or of a window of a signal."""
    if manifest.signal is not None:
        return TensorShape(manifest.signal.name, "float32", manifest.signal.shape)
    spec = manifest.input
    assert spec is not None  # The manifest's own check.
    channels = 1 if spec.color == "GRAY" else 3
    plane = (spec.height, spec.width)
    shape = (1, *plane, channels) if spec.layout == "NHWC" else (1, channels, *plane)
    return TensorShape(spec.name, spec.dtype, shape)


def fed_shape(folder: Path, manifest: Manifest) -> TensorShape:
    """Return the tensor that a frame becomes, with the sizes that the warm-up gives beside it."""
    shape = input_shape(manifest)
    if not manifest.sizes:
        return shape
    spec, window = manifest.input, manifest.signal
    height, width = (spec.height, spec.width) if spec is not None else (1, window.context + window.length)  # type: ignore[union-attr]
    source_height, source_width = height, width
    if manifest.golden is not None and manifest.golden.image is not None:
        with contextlib.suppress(ConfigError):  # Of a picture that cannot be read the load tells.
            source_height, source_width = read_picture(folder / manifest.golden.image).shape[:2]
    placement = Placement(1.0, 1.0, 0.0, 0.0, width, height, source_width, source_height)
    return replace(shape, sizes={name: size_of(kind, placement) for name, kind in manifest.sizes.items()})


def extras_of(manifest: Manifest) -> Extras:
    """Return what a model's networks take beside the frame, whatever its shape."""
    constants = {name: value if isinstance(value, tuple) else (value,) for name, value in manifest.constants.items()}
    return Extras(constants, {} if manifest.state is None else manifest.state.tensors)


def networks_of(manifest: Manifest) -> str:
    """Return a digest that tells a model's networks, their sizes and their constants from others."""
    parts: list[Any] = [
        (name, own.model.sha256.lower(), list(input_shape(own).shape)) for name, own in variants_of(manifest)
    ]
    if manifest.constants:
        parts.append(sorted(manifest.constants.items()))
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def build_steps(folder: Path, manifest: Manifest, engine: OrtEngine) -> tuple[Preprocess, Decoder]:
    """Return what stands before and behind a network, after checking that both fit it.

    Raises:
        ConfigError: the manifest and the network do not agree, or the labels are wrong.
    """
    place = str(folder / MANIFEST_NAME)
    _check_names(manifest, engine.inputs, place)
    given = DecoderInput(
        place=place,
        options=manifest.decoder,
        outputs=engine.outputs,
        labels=None if manifest.labels is None else load_labels(folder, manifest.labels),
        first_id=0 if manifest.labels is None else manifest.labels.first_id,
    )
    return _build_preprocess(manifest, engine.inputs, place), build_decoder(given)


def _build_preprocess(manifest: Manifest, inputs: Sequence[TensorSpec], place: str) -> Preprocess:
    extras = build_extras(manifest.constants, manifest.sizes, inputs, place)
    stamp = build_stamp(manifest.times, inputs, place)
    if manifest.signal is None:
        assert manifest.input is not None  # The manifest's own check.
        _check_picture(manifest, inputs, place)
        return build_preprocess(manifest.input, extras, stamp)
    _check_signal(manifest.signal, inputs, place)
    return build_signal_preprocess(manifest.signal, extras, stamp)


def build_memory(folder: Path, manifest: Manifest, engine: OrtEngine) -> StateStore | None:
    """Return what carries a model's state from frame to frame; None for one that has none."""
    if manifest.state is None:
        return None
    return StateStore(manifest.state, engine.inputs, engine.outputs, str(folder / MANIFEST_NAME))


def build_decoder(given: DecoderInput) -> Decoder:
    """Return the decoder that `[decoder] name` says.

    Raises:
        ConfigError: there is none of that name, or it does not fit the options, the outputs or the labels.
    """
    name = given.options.get("name")
    if name not in DECODERS:
        raise ConfigError(f"{given.place}: [decoder] name {name!r}: known are {', '.join(DECODERS)}")
    module, _, attribute = DECODERS[name].partition(":")
    decoder: Decoder = getattr(importlib.import_module(module), attribute)(given)
    return decoder


def _check_names(manifest: Manifest, inputs: Sequence[TensorSpec], place: str) -> None:
    """Refuse a manifest that does not say where each of the network's inputs comes from."""
    section, spec = ("signal", manifest.signal) if manifest.signal is not None else ("input", manifest.input)
    assert spec is not None  # The manifest's own check.
    state = () if manifest.state is None else manifest.state.tensors
    described = [spec.name, *manifest.constants, *manifest.sizes, *manifest.times, *state]
    if sorted(described) != sorted(known.name for known in inputs):
        raise ConfigError(
            f"{place}: [{section}] describes {', '.join(map(repr, described))}; the model takes "
            f"{', '.join(map(str, inputs))}: the others stand under [constants], [sizes], [times] or "
            "[state]"
        )


def _check_picture(manifest: Manifest, inputs: Sequence[TensorSpec], place: str) -> None:
    spec, shape = manifest.input, input_shape(manifest).shape
    assert spec is not None  # The manifest's own check.
    wanted = next(known for known in inputs if known.name == spec.name)
    if not wanted.fits(np.dtype(spec.dtype), shape):
        seen = ", ".join(map(str, inputs))
        raise ConfigError(f"{place}: [input] makes {spec.dtype}{list(shape)} ({spec.layout}); the model takes {seen}")


def _check_signal(spec: SignalSpec, inputs: Sequence[TensorSpec], place: str) -> None:
    wanted = next(known for known in inputs if known.name == spec.name)
    if not wanted.fits(np.dtype(np.float32), spec.shape):
        raise ConfigError(
            f"{place}: [signal] makes float32{list(spec.shape)} ({spec.layout}); the model takes {wanted}"
        )
