"""Loads a model folder and proves it on this device before it may serve."""

from __future__ import annotations

import importlib
import json
import logging
import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from agent.clock import NEVER_NS, Clock
from agent.decoders.options import DecoderInput
from agent.engine.budget import Need
from agent.engine.prepare import Network, Prepared, Workshop
from agent.engine.process import give_back
from agent.engine.session import OrtEngine
from agent.engine.trial import TensorShape
from agent.errors import ConfigError, PermanentError
from agent.frame import Pixels, Tensor
from agent.interfaces import Decoder, Engine, LoadedModel, Preprocess, Variant
from agent.models.golden import differences, read_picture
from agent.models.manifest import FULL, MANIFEST_NAME, InputSpec, Manifest, load_expected, load_labels, load_manifest
from agent.models.preprocess import build_preprocess
from agent.result import Payload
from agent.settings import ModelSettings

log = logging.getLogger(__name__)

DECODERS = {
    "ssd": "agent.decoders.ssd:SsdDecoder",
    "classification": "agent.decoders.classification:ClassificationDecoder",
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


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the networks of a model folder are loaded; the empty one takes them as they are and keeps them all.

    Attributes:
        prepared: by file name, from `survey`.
        input_bytes_max: of one run, by file name.
        keeps_all: False to drop each variant from memory once it is verified, but for the model itself.
    """

    prepared: Mapping[str, Prepared] = field(default_factory=dict)
    input_bytes_max: Mapping[str, int] = field(default_factory=dict)
    keeps_all: bool = True


def survey(settings: ModelSettings, workshop: Workshop) -> tuple[Need, dict[str, Prepared]]:
    """Try every network of a model folder in a child process, and load none.

    Returns:
        What each variant costs, and how each network is loaded, by file name.

    Raises:
        ConfigError: the folder, its manifest or one of its networks cannot be used.
    """
    folder, manifest = load_manifest(settings.path)
    shapes: dict[str, list[TensorShape]] = {}
    owners: dict[str, tuple[str, Manifest]] = {}
    for name, own in _variants(manifest):
        shapes.setdefault(own.model.path, []).append(_input_shape(own.input))
        owners.setdefault(own.model.path, (name, own))
    prepared, costs, problems = {}, {}, []
    for path, (name, own) in owners.items():
        network = Network(folder / path, own.model.sha256, tuple(shapes[path]), own.model.external_data)
        try:
            prepared[path] = workshop.prepare(network)
        except ConfigError as error:
            problems += error.problems
        else:
            costs[name] = prepared[path].cost
    if problems:
        raise ConfigError(problems)
    return Need(settings.name, costs), prepared


def load_model(settings: ModelSettings, threads: int, clock: Clock, recipe: Recipe | None = None) -> LoadedModel:
    """Load a model folder with its variants, warm each and check its golden sample.

    Raises:
        ConfigError: everything that is wrong with the folder, its networks or what they make of the sample.
    """
    manifest, attempts = try_variants(settings.path, threads, clock, recipe)
    # Variants share labels and sample, so that one mistake would be told once for each of them.
    problems = list(dict.fromkeys(problem for attempt in attempts for problem in attempt.problems))
    if problems:
        raise ConfigError(problems)
    variants = tuple(attempt.variant for attempt in attempts if attempt.variant is not None)
    return LoadedModel(settings.name, manifest.version, manifest.task, variants)


def try_variants(
    path: Path, threads: int, clock: Clock, recipe: Recipe | None = None
) -> tuple[Manifest, list[Attempt]]:
    """Try the model itself and each of its variants, whatever becomes of the others.

    Raises:
        ConfigError: there is no folder, or its manifest is wrong.
    """
    recipe = recipe or Recipe()
    folder, manifest = load_manifest(path)
    attempts: list[Attempt] = []
    engines: dict[str, OrtEngine] = {}
    for name, own in _variants(manifest):
        file = folder / own.model.path
        try:
            engine = engines.get(own.model.path) or load_engine(folder, own, threads, recipe)
            variant = load_variant(name, folder, own, engine, clock)
        except ConfigError as error:
            attempts.append(Attempt(name, file, None, tuple(error.problems)))
            continue
        engines.setdefault(own.model.path, engine)
        attempts.append(Attempt(name, file, variant))
        if not recipe.keeps_all:
            engine.release()
            give_back()
    if not recipe.keeps_all:
        attempts[0] = _loaded_again(attempts[0])
    return manifest, attempts


def _loaded_again(attempt: Attempt) -> Attempt:
    """Return the model itself, in memory again after its variants had it for themselves."""
    variant = attempt.variant
    if variant is None:
        return attempt
    try:
        variant.engine.run(variant.warm_inputs, variant.engine.new_abort())
    except PermanentError as error:
        return Attempt(attempt.name, attempt.file, None, (f"{attempt.file}: {error}",))
    return attempt


def load_engine(folder: Path, manifest: Manifest, threads: int, recipe: Recipe) -> OrtEngine:
    """Load the network that a manifest describes.

    Raises:
        ConfigError: it cannot be used, or does not end.
    """
    network = manifest.model
    file = folder / network.path
    prepared = recipe.prepared.get(network.path)

    def load() -> OrtEngine:
        return OrtEngine(
            file,
            threads=threads,
            sha256=network.sha256,
            external=network.external_data,
            setup=None if prepared is None else prepared.setup,
            compiled=None if prepared is None else prepared.compiled,
            input_bytes_max=recipe.input_bytes_max.get(network.path),
        )

    return within(LOAD_LIMIT_S, f"{file}: loading", load)


def load_variant(name: str, folder: Path, manifest: Manifest, engine: OrtEngine, clock: Clock) -> Variant:
    """Warm a network in the way that a manifest describes and check its golden sample.

    Args:
        name: of the variant.
        folder: where the manifest's files are.
        manifest: of the model itself, or what `Manifest.variant` makes of it.
        engine: its network.
        clock: times the warm-up.

    Raises:
        ConfigError: anything that is wrong with it.
    """
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


def _variants(manifest: Manifest) -> list[tuple[str, Manifest]]:
    """Return name and manifest of the model itself and of each of its variants."""
    return [(FULL, manifest), *((spec.name, manifest.variant(spec)) for spec in manifest.variants)]


def _input_shape(spec: InputSpec) -> TensorShape:
    channels = 1 if spec.color == "GRAY" else 3
    plane = (spec.height, spec.width)
    shape = (1, *plane, channels) if spec.layout == "NHWC" else (1, channels, *plane)
    return TensorShape(spec.name, spec.dtype, shape)


def build_steps(folder: Path, manifest: Manifest, engine: OrtEngine) -> tuple[Preprocess, Decoder]:
    """Return what stands before and behind a network, after checking that both fit it.

    Raises:
        ConfigError: the manifest and the network do not agree, or the labels are wrong.
    """
    place = str(folder / MANIFEST_NAME)
    _check_input(manifest.input, engine, place)
    given = DecoderInput(
        place=place,
        options=manifest.decoder,
        outputs=engine.outputs,
        labels=None if manifest.labels is None else load_labels(folder, manifest.labels),
        first_id=0 if manifest.labels is None else manifest.labels.first_id,
    )
    return build_preprocess(manifest.input), _build_decoder(given)


def _build_decoder(given: DecoderInput) -> Decoder:
    name = given.options.get("name")
    if name not in DECODERS:
        raise ConfigError(f"{given.place}: [decoder] name {name!r}: known are {', '.join(DECODERS)}")
    module, _, attribute = DECODERS[name].partition(":")
    decoder: Decoder = getattr(importlib.import_module(module), attribute)(given)
    return decoder


def _check_input(spec: InputSpec, engine: OrtEngine, place: str) -> None:
    shape = _input_shape(spec).shape
    seen = ", ".join(map(str, engine.inputs))
    if len(engine.inputs) != 1 or engine.inputs[0].name != spec.name:
        raise ConfigError(f"{place}: [input] describes {spec.name!r}; the model takes {seen}")
    wanted = engine.inputs[0]
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
