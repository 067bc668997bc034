"""Loads a model folder and proves it on this device before it may serve."""

from __future__ import annotations

import importlib
import json
import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from agent.clock import NEVER_NS, Clock
from agent.decoders.options import DecoderInput
from agent.engine.session import OrtEngine, file_sha256
from agent.errors import ConfigError, PermanentError
from agent.frame import Pixels, Tensor
from agent.interfaces import Decoder, Engine, LoadedModel, Preprocess, Variant
from agent.models.assumed import draft_manifest, names_beside
from agent.models.clues import parse_metadata
from agent.models.extra_inputs import build_extras, build_stamp
from agent.models.golden import differences, read_picture
from agent.models.guess import guess
from agent.models.manifest import (
    FULL,
    MANIFEST_NAME,
    Manifest,
    is_bare,
    load_expected,
    load_labels,
    load_manifest,
)
from agent.models.preprocess import build_preprocess
from agent.result import Payload
from agent.settings import ModelSettings

log = logging.getLogger(__name__)

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

T = TypeVar("T")

LOAD_LIMIT_S = 300.0
"""For creating one session: a 100 MB network on a slow SD card takes a minute."""

WARM_UP_LIMIT_S = 60.0
"""For the warm-up of one variant: three runs of 20 s are beyond any use."""

WARM_UP_RUNS = 3
"""The first run allocates the arena, the second settles it; the third shows a steady service time."""


@dataclass(frozen=True, slots=True, eq=False)
class Attempt:
    """What became of one variant of a model folder.

    Attributes:
        name: `full` for the model itself, then those of the manifest.
        file: its network.
        variant: verified and warm; None when it is refused.
        problems: why it is refused, one line each.
    """

    name: str
    file: Path
    variant: Variant | None
    problems: tuple[str, ...] = ()


def load_model(settings: ModelSettings, threads: int, clock: Clock) -> LoadedModel:
    """Load a model folder with its variants, warm each and check its golden sample.

    Raises:
        ConfigError: everything that is wrong with the folder, its networks or what they make of the sample.
    """
    manifest, attempts = try_variants(settings.path, threads, clock)
    # Variants share labels and sample, so that one mistake would be told once for each of them.
    problems = list(dict.fromkeys(problem for attempt in attempts for problem in attempt.problems))
    if problems:
        raise ConfigError(problems)
    variants = tuple(attempt.variant for attempt in attempts if attempt.variant is not None)
    return LoadedModel(settings.name, manifest.version, manifest.task, variants)


def try_variants(path: Path, threads: int, clock: Clock) -> tuple[Manifest, list[Attempt]]:
    """Try the model itself and each of its variants, whatever becomes of the others.

    A network without model.toml is taken as it seems to be, and what was assumed is said in the log.

    Raises:
        ConfigError: there is no folder, its manifest is wrong, or nothing that we know fits a network without one.
    """
    if is_bare(path):
        return _try_bare(path, threads, clock)
    folder, manifest = load_manifest(path)
    attempts: list[Attempt] = []
    engines: dict[str, Engine] = {}
    for name, own in [(FULL, manifest), *((spec.name, manifest.variant(spec)) for spec in manifest.variants)]:
        file = folder / own.model.path
        try:
            variant = load_variant(name, folder, own, threads, clock, engines.get(own.model.path))
        except ConfigError as error:
            attempts.append(Attempt(name, file, None, tuple(error.problems)))
        else:
            engines.setdefault(own.model.path, variant.engine)
            attempts.append(Attempt(name, file, variant))
    return manifest, attempts


def digests(path: Path) -> set[str]:
    """Return the SHA-256 of every network of a model, in lower case, without loading any.

    Raises:
        ConfigError: there is no such model, or its manifest is wrong.
    """
    return {file_sha256(path)} if is_bare(path) else load_manifest(path)[1].digests()


def _try_bare(file: Path, threads: int, clock: Clock) -> tuple[Manifest, list[Attempt]]:
    """Take a network without model.toml as its metadata, names and shapes say."""
    engine = within(LOAD_LIMIT_S, f"{file}: loading", lambda: OrtEngine(file, threads=threads, sha256=None))
    guessed = guess(engine.inputs, engine.outputs, parse_metadata(engine.metadata), {}, names_beside(file))
    if guessed.obstacles:
        seen = f"takes {', '.join(map(str, engine.inputs))} and gives {', '.join(map(str, engine.outputs))}"
        advice = f"write a {MANIFEST_NAME} beside it: docs/models.md tells how"
        raise ConfigError(
            [f"{file}: {seen}", *(f"{file}: {text}" for text in guessed.obstacles), f"{file}: {advice}"]
        )
    manifest = draft_manifest(file, engine.sha256, guessed, engine.metadata, labels_are_inline=True)
    log.warning("%s: has no %s beside it and is taken for this: %s", file, MANIFEST_NAME, "; ".join(guessed.why))
    try:
        variant = load_variant(FULL, file.parent, manifest, threads, clock, engine)
    except ConfigError as error:
        return manifest, [Attempt(FULL, file, None, tuple(error.problems))]
    return manifest, [Attempt(FULL, file, variant)]


def load_variant(
    name: str, folder: Path, manifest: Manifest, threads: int, clock: Clock, engine: Engine | None = None
) -> Variant:
    """Load the network that a manifest describes, warm it and check its golden sample.

    Args:
        name: of the variant.
        folder: where the manifest's files are.
        manifest: of the model itself, or what `Manifest.variant` makes of it.
        threads: for one run.
        clock: times the warm-up.
        engine: the network where it is loaded already, as for a variant that only has another size.

    Raises:
        ConfigError: anything that is wrong with it.
    """
    if not isinstance(engine, OrtEngine):
        file, sha256 = folder / manifest.model.path, manifest.model.sha256
        engine = within(LOAD_LIMIT_S, f"{file}: loading", lambda: OrtEngine(file, threads=threads, sha256=sha256))
    preprocess, decoder = build_steps(folder, manifest, engine)
    picture = _golden_picture(folder, manifest)
    try:
        warm_inputs, payload, fastest_ns = within(
            WARM_UP_LIMIT_S, f"{folder}: the warm-up", lambda: _warm_up(engine, preprocess, decoder, picture, clock)
        )
    except PermanentError as error:
        raise ConfigError(f"{folder}: fails on its warm-up frame: {error}") from error
    _check_golden(folder, manifest, payload)
    return Variant(name, engine.sha256, preprocess, engine, decoder, warm_inputs, fastest_ns)


def build_steps(folder: Path, manifest: Manifest, engine: OrtEngine) -> tuple[Preprocess, Decoder]:
    """Return what stands before and behind a network, after checking that both fit it.

    Raises:
        ConfigError: the manifest and the network do not agree, or the labels are wrong.
    """
    place = str(folder / MANIFEST_NAME)
    _check_input(manifest, engine, place)
    given = DecoderInput(
        place=place,
        options=manifest.decoder,
        outputs=engine.outputs,
        labels=None if manifest.labels is None else load_labels(folder, manifest.labels),
        first_id=0 if manifest.labels is None else manifest.labels.first_id,
    )
    extras = build_extras(manifest.constants, manifest.sizes, engine.inputs, place)
    stamp = build_stamp(manifest.times, engine.inputs, place)
    return build_preprocess(manifest.input, extras, stamp), build_decoder(given)


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


def _check_input(manifest: Manifest, engine: OrtEngine, place: str) -> None:
    spec = manifest.input
    channels = 1 if spec.color == "GRAY" else 3
    plane = (spec.height, spec.width)
    shape = (1, *plane, channels) if spec.layout == "NHWC" else (1, channels, *plane)
    seen = ", ".join(map(str, engine.inputs))
    described = [spec.name, *manifest.constants, *manifest.sizes, *manifest.times]
    if sorted(described) != sorted(known.name for known in engine.inputs):
        names = ", ".join(map(repr, described))
        raise ConfigError(
            f"{place}: [input] describes {names}; the model takes {seen}: what is no picture stands under "
            "[constants], [sizes] or [times]"
        )
    wanted = next(known for known in engine.inputs if known.name == spec.name)
    fits = len(wanted.shape) == 4 and all(
        size is None or size == own for size, own in zip(wanted.shape, shape, strict=True)
    )
    if wanted.dtype != np.dtype(spec.dtype) or not fits:
        raise ConfigError(f"{place}: [input] makes {spec.dtype}{list(shape)} ({spec.layout}); the model takes {seen}")


def _golden_picture(folder: Path, manifest: Manifest) -> Pixels:
    if manifest.golden is not None:
        return read_picture(folder / manifest.golden.image)
    log.warning("%s: has no [golden] sample: nothing proves that the model works on this device", folder)
    return np.zeros((manifest.input.height, manifest.input.width, 3), np.uint8)


def _warm_up(
    engine: Engine, preprocess: Preprocess, decoder: Decoder, picture: Pixels, clock: Clock
) -> tuple[dict[str, Tensor], Payload, int]:
    """Run a real-shaped frame through the whole path; return its inputs, its payload and the fastest time."""
    fastest_ns = NEVER_NS
    for _ in range(WARM_UP_RUNS):
        started_ns = clock.now_ns()
        inputs, placement = preprocess(picture)
        payload = decoder.decode(engine.run(inputs, engine.new_abort()), placement)
        fastest_ns = min(fastest_ns, clock.now_ns() - started_ns)
    return inputs, payload, fastest_ns


def _check_golden(folder: Path, manifest: Manifest, payload: Payload) -> None:
    """Compare what the model made of its golden picture, as it would be published."""
    golden = manifest.golden
    if golden is None:
        return
    found = differences(load_expected(folder, golden), json.loads(json.dumps(payload)), golden.tolerance)
    if found:
        raise ConfigError(
            [
                f"{folder}: {manifest.model.path} does not reproduce its golden sample {golden.image} on this "
                "device, so its results cannot be trusted (an int8 model quantised for another CPU does this):",
                *(f"  {text}" for text in found[:10]),
            ]
        )


def within(limit_s: float, what: str, body: Callable[[], T]) -> T:
    """Return what `body` returns, in a thread of its own that is left behind when it takes too long.

    A network may hold an endless loop, and native code cannot be interrupted.

    Raises:
        ConfigError: it took longer than `limit_s`.
    """
    outcome: queue.SimpleQueue[tuple[T | None, Exception | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            outcome.put((body(), None))
        except Exception as error:  # noqa: BLE001  A thread's entry: the caller raises it again.
            outcome.put((None, error))

    threading.Thread(target=run, name="load", daemon=True).start()
    try:
        result, error = outcome.get(timeout=limit_s)
    except queue.Empty:
        raise ConfigError(f"{what} did not end within {limit_s:g} s: the network may hold an endless loop") from None
    if error is not None:
        raise error
    return result  # type: ignore[return-value]  # None only where T is None.
