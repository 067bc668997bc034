"""Loads a model folder and proves it on this device before it may serve."""

from __future__ import annotations

import json
import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from agent.clock import NEVER_NS, Clock
from agent.engine.budget import Need
from agent.engine.digest import sha256_of
from agent.engine.prepare import Network, Prepared, Workshop
from agent.engine.process import give_back
from agent.engine.session import OrtEngine, SessionSetup
from agent.engine.trial import Description, TensorShape, describe
from agent.errors import ConfigError, Harm, PermanentError
from agent.fitting import build_memory, build_steps, extras_of, fed_shape
from agent.frame import Content, Frame, Tensor
from agent.interfaces import Abort, Decoder, Engine, LoadedModel, Memory, Placement, Preprocess, Variant
from agent.models.golden import differences, read_picture
from agent.models.manifest import (
    FULL,
    MANIFEST_NAME,
    Manifest,
    is_bare,
    load_expected,
    load_manifest,
    variants_of,
    with_size,
)
from agent.result import Payload
from agent.settings import ModelSettings

log = logging.getLogger(__name__)

T = TypeVar("T")

LOAD_LIMIT_S = 300.0
"""For creating one session: a 100 MB network on a slow SD card takes a minute."""

WARM_UP_LIMIT_S = 60.0
"""For the warm-up of one variant: three runs of 20 s are beyond any use."""

END_LIMIT_S = 5.0
"""For a run that is asked to end: ONNX Runtime looks before each operator, and in the body of a Loop too."""

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
        harm: see `ConfigError`.
    """

    name: str
    file: Path
    variant: Variant | None
    problems: tuple[str, ...] = ()
    harm: Harm | None = None


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the networks of a model folder are loaded; the empty one takes them as they are and keeps them all.

    Attributes:
        described: folder and manifest, where `survey` read or guessed them already.
        prepared: by file name, from `survey`.
        input_bytes_max: of one run, by file name.
        keeps_all: False to drop each variant from memory once it is verified, but for the model itself, and later
            the one that is left for another.
        first: the heaviest variant that is loaded.
        refused: why a network is not to be loaded at all, by file name: the child process that tried it did not live.
    """

    described: tuple[Path, Manifest] | None = None
    prepared: Mapping[str, Prepared] = field(default_factory=dict)
    input_bytes_max: Mapping[str, int] = field(default_factory=dict)
    keeps_all: bool = True
    first: str = FULL
    refused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Conduct:
    """How a model is run.

    Attributes:
        setup: of its sessions; None for the workshop's own.
        first: the heaviest variant that is loaded.
        size: width and height of `first`, pixels, where model.toml does not hold it: the model on another input.
    """

    setup: SessionSetup | None = None
    first: str = FULL
    size: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Surveyed:
    """What is known of a model before it is loaded.

    Attributes:
        folder: of the model.
        manifest: its own, or what a network without one seems to be.
        need: what each variant costs.
        prepared: how each network is loaded, by file name.
        conduct: how it is run.
    """

    folder: Path
    manifest: Manifest
    need: Need
    prepared: Mapping[str, Prepared]
    conduct: Conduct = field(default_factory=Conduct)


def survey(
    settings: ModelSettings, workshop: Workshop, decide: Callable[[Manifest], Conduct] = lambda _: Conduct()
) -> Surveyed:
    """Try every network of a model folder in a child process, and load none.

    Args:
        settings: of the model.
        workshop: tries them.
        decide: how the model with this manifest is to be run.

    Raises:
        ConfigError: the folder, its manifest or one of its networks cannot be used.
    """
    folder, manifest = read_model(settings.path, workshop.describe)
    conduct = decide(manifest)
    if conduct.size is not None:
        manifest = with_size(manifest, conduct.first, conduct.size)
    shapes: dict[str, list[TensorShape]] = {}
    owners: dict[str, tuple[str, Manifest]] = {}
    for name, own in variants_of(manifest, conduct.first):
        shapes.setdefault(own.model.path, []).append(fed_shape(folder, own))
        owners.setdefault(own.model.path, (name, own))
    prepared, costs, errors = {}, {}, []
    for path, (name, own) in owners.items():
        network = Network(
            folder / path, own.model.sha256, tuple(shapes[path]), own.model.external_data, extras_of(manifest)
        )
        try:
            prepared[path] = workshop.prepare(network, conduct.setup)
        except ConfigError as error:
            errors.append(error)
        else:
            costs[name] = prepared[path].cost
    if errors:
        raise ConfigError.joined(errors)
    return Surveyed(folder, manifest, Need(settings.name, costs), prepared, conduct)


def digests(path: Path) -> set[str]:
    """Return the SHA-256 of every network of a model, in lower case, without loading any.

    Raises:
        ConfigError: there is no such model, or its manifest is wrong.
    """
    return {sha256_of(path)} if is_bare(path) else load_manifest(path)[1].digests()


def read_model(path: Path, describe_network: Callable[[Path], Description] = describe) -> tuple[Path, Manifest]:
    """Return a model's folder and manifest; a network without model.toml is taken as it seems to be.

    Args:
        path: of the folder or the network.
        describe_network: looks into a network in a child process.

    Raises:
        ConfigError: there is no folder, its manifest is wrong, or nothing that we know fits a network without one.
    """
    if not is_bare(path):
        return load_manifest(path)
    # With a manifest nobody guesses: what is unused is not imported.
    from agent.models.assumed import draft_manifest, names_beside
    from agent.models.clues import parse_metadata
    from agent.models.guess import guess

    found = describe_network(path)
    guessed = guess(found.inputs, found.outputs, parse_metadata(found.metadata), {}, names_beside(path))
    if guessed.obstacles:
        seen = f"takes {', '.join(map(str, found.inputs))} and gives {', '.join(map(str, found.outputs))}"
        advice = f"write a {MANIFEST_NAME} beside it: docs/models.md tells how"
        raise ConfigError(
            [f"{path}: {seen}", *(f"{path}: {text}" for text in guessed.obstacles), f"{path}: {advice}"]
        )
    log.warning("%s: has no %s beside it and is taken for this: %s", path, MANIFEST_NAME, "; ".join(guessed.why))
    return path.parent, draft_manifest(path, sha256_of(path), guessed, found.metadata, {}, labels_are_inline=True)


def load_model(settings: ModelSettings, threads: int, clock: Clock, recipe: Recipe | None = None) -> LoadedModel:
    """Load a model folder with its variants, warm each and check its golden sample.

    Raises:
        ConfigError: everything that is wrong with the folder, its networks or what they make of the sample.
    """
    manifest, attempts = try_variants(settings.path, threads, clock, recipe)
    # Variants share labels and sample, so that one mistake would be told once for each of them.
    errors = [ConfigError(list(one.problems), one.harm) for one in attempts if one.problems]
    if errors:
        raise ConfigError.joined(errors)
    variants = tuple(attempt.variant for attempt in attempts if attempt.variant is not None)
    signal = None if manifest.signal is None else manifest.signal.describe()
    is_stateful = manifest.state is not None
    keeps_all = recipe is None or recipe.keeps_all
    return LoadedModel(settings.name, manifest.version, manifest.task, variants, signal, is_stateful, keeps_all)


def try_variants(
    path: Path, threads: int, clock: Clock, recipe: Recipe | None = None
) -> tuple[Manifest, list[Attempt]]:
    """Try the model itself and each of its variants, whatever becomes of the others.

    Raises:
        ConfigError: see `read_model`.
    """
    recipe = recipe or Recipe()
    folder, manifest = recipe.described or read_model(path)
    attempts: list[Attempt] = []
    engines: dict[str, OrtEngine] = {}
    for name, own in variants_of(manifest, recipe.first):
        file = folder / own.model.path
        if why := recipe.refused.get(own.model.path):
            attempts.append(Attempt(name, file, None, why))
            continue
        try:
            engine = engines.get(own.model.path) or load_engine(folder, own, threads, recipe)
            variant = load_variant(name, folder, own, engine, clock)
        except ConfigError as error:
            attempts.append(Attempt(name, file, None, tuple(error.problems), error.harm))
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
    memory = build_memory(folder, manifest, engine)
    contents = golden_contents(folder, manifest)
    runs = Runs(engine.new_abort)
    try:
        warm_inputs, placement, payload, fastest_ns = within(
            WARM_UP_LIMIT_S,
            f"{folder}: the warm-up",
            lambda: _warm_up(engine, preprocess, decoder, memory, contents, clock, runs),
            runs.end,
        )
    except PermanentError as error:
        raise ConfigError(f"{folder}: fails on its warm-up frame: {error}") from error
    # A fresh one: what the sample left behind is none of a stream's past.
    memory = build_memory(folder, manifest, engine)
    compare = _golden_comparison(folder, manifest)
    judge: Callable[[list[Tensor]], list[str]] | None = None
    if compare is not None:
        _check_golden(folder, manifest, compare(payload))

        def judge(outputs: list[Tensor]) -> list[str]:
            return compare(decoder.decode(outputs, placement))

    return Variant(
        name, engine.sha256, preprocess, engine, decoder, warm_inputs, _blank(manifest), fastest_ns, judge, memory
    )


def _blank(manifest: Manifest) -> Content:
    """Return what a frame may be: black and small, or silence."""
    if manifest.signal is None:
        return np.zeros((64, 64, 3), np.uint8)
    return np.zeros((manifest.signal.context + manifest.signal.length, len(manifest.signal.channels)), np.float32)


def golden_contents(folder: Path, manifest: Manifest) -> list[Content]:
    """Return the golden picture, or the windows of the golden recording; without a sample, something of its shape."""
    golden = manifest.golden
    if golden is not None and golden.image is not None:
        return [read_picture(folder / golden.image)]
    if golden is not None and golden.recording is not None and manifest.signal is not None:
        from agent.models.recording import golden_windows  # With the codecs of signals.

        return list(golden_windows(folder / golden.recording, manifest.signal))
    log.warning("%s: has no [golden] sample: nothing proves that the model works on this device", folder)
    if manifest.input is not None:
        return [np.zeros((manifest.input.height, manifest.input.width, 3), np.uint8)]
    return [_blank(manifest)]


def _warm_up(
    engine: Engine,
    preprocess: Preprocess,
    decoder: Decoder,
    memory: Memory | None,
    contents: Sequence[Content],
    clock: Clock,
    runs: Runs,
) -> tuple[dict[str, Tensor], Placement, Payload, int]:
    """Run real-shaped frames through the whole path; return what came of the last one and the fastest time.

    One frame is run `WARM_UP_RUNS` times; several, the windows of a recording, once each in their order.
    """
    fastest_ns = NEVER_NS
    shown = contents if len(contents) > 1 else [*contents] * WARM_UP_RUNS
    for number, content in enumerate(shown, start=1):
        frame = Frame("", number, 0, NEVER_NS, content, follows=len(contents) > 1)
        started_ns = clock.now_ns()
        inputs, placement = preprocess(content)
        if memory is not None:
            inputs |= memory.recall(frame)
        if number == 2:
            # With a memory pattern the first run takes its activations one by one and the next ones a single block:
            # 17 MiB beside 13 for the default model, of which the former would stay unused.
            engine.shrink()
        outputs = engine.run(inputs, runs.new_abort())
        if memory is not None:
            memory.remember(frame, outputs)
        payload = decoder.decode(outputs, placement)
        fastest_ns = min(fastest_ns, clock.now_ns() - started_ns)
        del outputs  # They lie in the arena: the next run would go around them, with 3 MiB of the default model.
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
    sample = manifest.golden.image or manifest.golden.recording
    raise ConfigError(
        [
            f"{folder}: {manifest.model.path} does not reproduce its golden sample {sample} on this device, so its "
            "results cannot be trusted (an int8 model quantised for another CPU does this):",
            *(f"  {text}" for text in found[:10]),
        ]
    )


class Runs:
    """The runs of one thread, one after the other, for another thread to end.

    Args:
        new_abort: of the engine.
    """

    def __init__(self, new_abort: Callable[[], Abort]) -> None:
        self._new_abort = new_abort
        self._abort: Abort | None = None
        self._is_over = False

    def new_abort(self) -> Abort:
        """Return the means to stop the next run; it is stopped already once the runs were ended."""
        abort = self._abort = self._new_abort()
        # `end` looks the other way round, so that one of the two threads sees the other.
        if self._is_over:
            abort.set()
        return abort

    def end(self) -> None:
        """Stop the run of the moment, and each that would follow. Any thread."""
        self._is_over = True
        if (abort := self._abort) is not None:
            abort.set()


def within(limit_s: float, what: str, body: Callable[[], T], end: Callable[[], None] | None = None) -> T:
    """Return what `body` returns, in a thread of its own that is left behind when it takes too long.

    A network may hold an endless loop, and native code cannot be interrupted but where it looks for that itself.

    Args:
        limit_s: for the body.
        what: it does, for the error.
        body: to be run.
        end: asks it to end, which it is given `END_LIMIT_S` for: what goes on for ever takes a whole core.

    Raises:
        ConfigError: it took longer than `limit_s`.
    """
    outcome: queue.SimpleQueue[tuple[T | None, Exception | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            outcome.put((body(), None))
        except Exception as error:  # noqa: BLE001  A thread's entry: the caller raises it again.
            outcome.put((None, error))

    thread = threading.Thread(target=run, name="load", daemon=True)
    thread.start()
    try:
        result, error = outcome.get(timeout=limit_s)
    except queue.Empty:
        if end is not None:
            end()
            thread.join(END_LIMIT_S)
        text = f"{what} did not end within {limit_s:g} s: the network may hold an endless loop"
        raise ConfigError(text, "hangs") from None
    if error is not None:
        raise error
    return result  # type: ignore[return-value]  # None only where T is None.
