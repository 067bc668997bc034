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
from agent.engine.session import OrtEngine
from agent.errors import ConfigError, PermanentError
from agent.frame import Pixels, Tensor
from agent.interfaces import Decoder, Engine, LoadedModel, Placement, Preprocess, Variant
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

    Raises:
        ConfigError: there is no folder, or its manifest is wrong.
    """
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
        warm_inputs, placement, payload, fastest_ns = within(
            WARM_UP_LIMIT_S, f"{folder}: the warm-up", lambda: _warm_up(engine, preprocess, decoder, picture, clock)
        )
    except PermanentError as error:
        raise ConfigError(f"{folder}: fails on its warm-up frame: {error}") from error
    compare = _golden_comparison(folder, manifest)
    if compare is None:
        return Variant(name, engine.sha256, preprocess, engine, decoder, warm_inputs, fastest_ns)
    _check_golden(folder, manifest, compare(payload))

    def judge(outputs: list[Tensor]) -> list[str]:
        return compare(decoder.decode(outputs, placement))

    return Variant(name, engine.sha256, preprocess, engine, decoder, warm_inputs, fastest_ns, judge)


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


def _golden_picture(folder: Path, manifest: Manifest) -> Pixels:
    if manifest.golden is not None:
        return read_picture(folder / manifest.golden.image)
    log.warning("%s: has no [golden] sample: nothing proves that the model works on this device", folder)
    return np.zeros((manifest.input.height, manifest.input.width, 3), np.uint8)


def _warm_up(
    engine: Engine, preprocess: Preprocess, decoder: Decoder, picture: Pixels, clock: Clock
) -> tuple[dict[str, Tensor], Placement, Payload, int]:
    """Run a real-shaped frame through the whole path; return what came of it and the fastest time."""
    fastest_ns = NEVER_NS
    for _ in range(WARM_UP_RUNS):
        started_ns = clock.now_ns()
        inputs, placement = preprocess(picture)
        payload = decoder.decode(engine.run(inputs, engine.new_abort()), placement)
        fastest_ns = min(fastest_ns, clock.now_ns() - started_ns)
    return inputs, placement, payload, fastest_ns


def _golden_comparison(folder: Path, manifest: Manifest) -> Callable[[Payload], list[str]] | None:
    """Return what compares a payload with the golden one, as it would be published; None without a sample."""
    golden = manifest.golden
    if golden is None:
        return None
    expected = load_expected(folder, golden)
    return lambda payload: differences(expected, json.loads(json.dumps(payload)), golden.tolerance)


def _check_golden(folder: Path, manifest: Manifest, found: list[str]) -> None:
    if not found:
        return
    assert manifest.golden is not None
    sample = manifest.golden.image
    raise ConfigError(
        [
            f"{folder}: {manifest.model.path} does not reproduce its golden sample {sample} on this device, so its "
            "results cannot be trusted (an int8 model quantised for another CPU does this):",
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
