"""Loads a model folder and proves it on this device before it may serve."""

from __future__ import annotations

import importlib
import json
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from agent.clock import NEVER_NS, Clock
from agent.decoders.options import DecoderInput
from agent.engine.session import OrtEngine
from agent.errors import ConfigError, PermanentError
from agent.frame import Content, Frame, Tensor
from agent.interfaces import Decoder, Engine, LoadedModel, Memory, Preprocess, TensorSpec, Variant
from agent.models.golden import differences, read_picture
from agent.models.manifest import FULL, MANIFEST_NAME, InputSpec, Manifest, load_expected, load_labels, load_manifest
from agent.models.preprocess import build_preprocess
from agent.models.recording import golden_windows
from agent.models.signal import SignalSpec, build_signal_preprocess
from agent.models.state import StateStore, constant_tensors, with_constants
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
    signal = None if manifest.signal is None else manifest.signal.describe()
    is_stateful = manifest.state is not None
    return LoadedModel(settings.name, manifest.version, manifest.task, variants, signal, is_stateful)


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
    memory = _build_memory(folder, manifest, engine)
    contents = _golden_contents(folder, manifest)
    try:
        warm_inputs, payload, fastest_ns = within(
            WARM_UP_LIMIT_S,
            f"{folder}: the warm-up",
            lambda: _warm_up(engine, preprocess, decoder, memory, contents, clock),
        )
    except PermanentError as error:
        raise ConfigError(f"{folder}: fails on its warm-up frame: {error}") from error
    _check_golden(folder, manifest, payload)
    # A fresh one: what the sample left behind is none of a stream's past.
    memory = _build_memory(folder, manifest, engine)
    return Variant(name, engine.sha256, preprocess, engine, decoder, warm_inputs, fastest_ns, memory)


def build_steps(folder: Path, manifest: Manifest, engine: OrtEngine) -> tuple[Preprocess, Decoder]:
    """Return what stands before and behind a network, after checking that both fit it.

    Raises:
        ConfigError: the manifest and the network do not agree, or the labels are wrong.
    """
    place = str(folder / MANIFEST_NAME)
    constants = constant_tensors(manifest.constants, engine.inputs, place)
    fed = {*constants, *(() if manifest.state is None else manifest.state.tensors)}
    inputs = tuple(spec for spec in engine.inputs if spec.name not in fed)
    if manifest.signal is not None:
        _check_signal(manifest.signal, inputs, place)
        preprocess = build_signal_preprocess(manifest.signal)
    else:
        assert manifest.input is not None  # The manifest's own check.
        _check_input(manifest.input, inputs, place)
        preprocess = build_preprocess(manifest.input)
    given = DecoderInput(
        place=place,
        options=manifest.decoder,
        outputs=engine.outputs,
        labels=None if manifest.labels is None else load_labels(folder, manifest.labels),
        first_id=0 if manifest.labels is None else manifest.labels.first_id,
    )
    return with_constants(preprocess, constants), _build_decoder(given)


def _build_memory(folder: Path, manifest: Manifest, engine: OrtEngine) -> StateStore | None:
    if manifest.state is None:
        return None
    return StateStore(manifest.state, engine.inputs, engine.outputs, str(folder / MANIFEST_NAME))


def _build_decoder(given: DecoderInput) -> Decoder:
    name = given.options.get("name")
    if name not in DECODERS:
        raise ConfigError(f"{given.place}: [decoder] name {name!r}: known are {', '.join(DECODERS)}")
    module, _, attribute = DECODERS[name].partition(":")
    decoder: Decoder = getattr(importlib.import_module(module), attribute)(given)
    return decoder


def _check_signal(spec: SignalSpec, inputs: Sequence[TensorSpec], place: str) -> None:
    seen = ", ".join(map(str, inputs))
    if len(inputs) != 1 or inputs[0].name != spec.name:
        raise ConfigError(
            f"{place}: [signal] describes {spec.name!r}; beside state and constants the model takes {seen}"
        )
    wanted = inputs[0]
    fits = len(wanted.shape) == len(spec.shape) and all(
        size in (None, own) for size, own in zip(wanted.shape, spec.shape, strict=True)
    )
    if wanted.dtype != np.float32 or not fits:
        raise ConfigError(
            f"{place}: [signal] makes float32{list(spec.shape)} ({spec.layout}); the model takes {seen}"
        )


def _check_input(spec: InputSpec, inputs: Sequence[TensorSpec], place: str) -> None:
    channels = 1 if spec.color == "GRAY" else 3
    plane = (spec.height, spec.width)
    shape = (1, *plane, channels) if spec.layout == "NHWC" else (1, channels, *plane)
    seen = ", ".join(map(str, inputs))
    if len(inputs) != 1 or inputs[0].name != spec.name:
        raise ConfigError(f"{place}: [input] describes {spec.name!r}; the model takes {seen}")
    wanted = inputs[0]
    fits = len(wanted.shape) == 4 and all(
        size is None or size == own for size, own in zip(wanted.shape, shape, strict=True)
    )
    if wanted.dtype != np.dtype(spec.dtype) or not fits:
        raise ConfigError(f"{place}: [input] makes {spec.dtype}{list(shape)} ({spec.layout}); the model takes {seen}")


def _golden_contents(folder: Path, manifest: Manifest) -> list[Content]:
    """Return the golden picture, or the windows of the golden recording; without a sample, something of its shape."""
    golden = manifest.golden
    if golden is not None and golden.image is not None:
        return [read_picture(folder / golden.image)]
    if golden is not None and golden.recording is not None and manifest.signal is not None:
        return list(golden_windows(folder / golden.recording, manifest.signal))
    log.warning("%s: has no [golden] sample: nothing proves that the model works on this device", folder)
    if manifest.input is not None:
        return [np.zeros((manifest.input.height, manifest.input.width, 3), np.uint8)]
    assert manifest.signal is not None
    return [np.zeros((manifest.signal.context + manifest.signal.length, len(manifest.signal.channels)), np.float32)]


def _warm_up(
    engine: Engine,
    preprocess: Preprocess,
    decoder: Decoder,
    memory: Memory | None,
    contents: Sequence[Content],
    clock: Clock,
) -> tuple[dict[str, Tensor], Payload, int]:
    """Run real-shaped frames through the whole path; return the last inputs, the last payload and the fastest time.

    One frame is run `WARM_UP_RUNS` times; several, the windows of a recording, once each in their order.
    """
    fastest_ns = NEVER_NS
    runs = contents if len(contents) > 1 else [*contents] * WARM_UP_RUNS
    for number, content in enumerate(runs, start=1):
        frame = Frame("", number, 0, NEVER_NS, content, follows=len(contents) > 1)
        started_ns = clock.now_ns()
        inputs, placement = preprocess(content)
        if memory is not None:
            inputs |= memory.recall(frame)
        outputs = engine.run(inputs, engine.new_abort())
        if memory is not None:
            memory.remember(frame, outputs)
        payload = decoder.decode(outputs, placement)
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
                f"{folder}: {manifest.model.path} does not reproduce its golden sample "
                f"{golden.image or golden.recording} on this device, so its results cannot be trusted (an int8 model "
                "quantised for another CPU does this):",
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
