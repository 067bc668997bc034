"""Quantises a model and keeps the result only when it is proven: fp32 is the truth, held-out pictures the judge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from agent.clock import Clock
from agent.engine.session import OrtEngine
from agent.errors import ConfigError, PermanentError
from agent.fitting import build_steps
from agent.frame import Pixels
from agent.interfaces import Decoder, Preprocess
from agent.loading import LOAD_LIMIT_S, WARM_UP_LIMIT_S, try_variants, within
from agent.models.assumed import labels_of
from agent.models.manifest import MANIFEST_NAME, Manifest, load_manifest
from agent.modeltools.folder import choose_golden, new_folder, write_model
from agent.modeltools.inspect import inspect
from agent.modeltools.measure import (
    ACCURACY_MIN,
    COSINE_MIN,
    EVIDENCE_MIN,
    KERNELS_MIN,
    Accuracy,
    Sample,
    measure_accuracy,
    measure_kernels,
    measure_latency,
    run,
)
from agent.modeltools.network import all_nodes, read_network
from agent.modeltools.pictures import Place, Split, read, split
from agent.modeltools.qdq import Feed, Preset, preset_of_this_cpu, quantize_qdq
from agent.modeltools.report import Report

SIZE_MAX = 0.6
"""Default: int8 is about 0.25 to 0.3 of fp32; above 0.6 most of the network stayed in float."""

LATENCY_MAX = 1.5
"""Default: a smaller model may be worth some time, half as much again is not."""

NETWORK_NAME = "model.onnx"

Advance = Callable[[], None]
Stage = Callable[[str, int], Advance]
"""Begins a stage of so many steps; what it returns is called after each."""


@dataclass(frozen=True, slots=True)
class Task:
    """What was asked for.

    Attributes:
        path: a model folder, or an .onnx file.
        calibrate: folder of pictures, or a clip.
        held_out: the same, to measure with; None to take every second picture of `calibrate`.
        preset: None for the one of this CPU.
        output: folder to write; None for the model's name with `-int8` beside it.
        pictures_max: of both sets together.
        accuracy_min: None for the task's default.
        kernels_min: cosine of int8 as this CPU computes it with the same network in float arithmetic.
        size_max: int8's bytes over fp32's.
        latency_max: int8's median over fp32's.
    """

    path: Path
    calibrate: Path
    held_out: Path | None = None
    preset: Preset | None = None
    output: Path | None = None
    pictures_max: int = 200
    accuracy_min: float | None = None
    kernels_min: float = KERNELS_MIN
    size_max: float = SIZE_MAX
    latency_max: float = LATENCY_MAX


@dataclass(frozen=True, slots=True, eq=False)
class _Original:
    """The fp32 model: its network, the folder with its labels, and what model.toml says or would say."""

    file: Path
    folder: Path
    manifest: Manifest
    bytes_total: int
    notes: tuple[str, ...]


def quantize(task: Task, clock: Clock, stage: Stage) -> Report:
    """Quantise, measure, and write a model folder when every bound holds.

    Raises:
        ConfigError: the model, the pictures or the output cannot be used.
        OSError: the disk is full.
    """
    base = task.path if task.path.is_dir() else task.path.with_suffix("")
    target = task.output or base.resolve().with_name(f"{base.resolve().name}-int8")
    with new_folder(target) as folder:
        work = folder / ".work"
        original = _original(task.path, work)
        stated = original.manifest.model
        load = partial(OrtEngine, original.file, threads=1, sha256=stated.sha256, external=stated.external_data)
        if original.manifest.signal is not None:
            raise ConfigError(f"{original.file}: takes a signal: quantize measures models of pictures only")
        load = partial(OrtEngine, original.file, threads=1, sha256=original.manifest.model.sha256)
        engine = within(LOAD_LIMIT_S, f"{original.file}: loading", load)
        preprocess, decoder = build_steps(original.folder, original.manifest, engine)
        pictures = split(task.calibrate, task.held_out, task.pictures_max)
        samples, sides_px = _samples(original.file, pictures, engine, preprocess, decoder, stage)
        preset = task.preset or preset_of_this_cpu()
        advance = stage("calibrating", len(pictures.calibration))
        quantize_qdq(original.file, work / NETWORK_NAME, _feeds(pictures, preprocess, advance), preset)
        candidate = OrtEngine(work / NETWORK_NAME, threads=1, sha256=None)
        advance = stage("comparing", len(samples))
        accuracy, payloads = measure_accuracy(original.manifest.task, candidate, decoder, samples, advance)
        plain = OrtEngine(work / NETWORK_NAME, threads=1, sha256=None, is_optimized=False)
        kernels = measure_kernels(candidate, plain, samples)
        stage("timing", 1)()
        latencies_ms = measure_latency([engine, candidate], samples[0].inputs, clock)
        report = _judge(
            task, original, preset, pictures, (accuracy, kernels), (work / NETWORK_NAME).stat().st_size, latencies_ms
        )
        if report.failed:
            return report
        golden = None
        if original.manifest.golden is None:
            chosen = choose_golden([sample.payload for sample in samples], payloads, sides_px)
            if chosen is None:
                return _refused(report, "no held-out picture comes out alike, so that none can be the golden sample")
            golden = (chosen, _pixels(pictures.held_out[chosen.index]))
        (work / NETWORK_NAME).rename(folder / NETWORK_NAME)
        write_model(folder, (original.folder, original.manifest), candidate.sha256, golden, _comments(report))
        stage("verifying", 1)()
        problems = [text for attempt in try_variants(folder, 1, clock)[1] for text in attempt.problems]
        if problems:
            for file in folder.iterdir():
                if file.is_file():
                    file.unlink()
            return _refused(report, *(text.replace(str(folder), str(target)) for text in problems))
    return replace(report, output=str(target))


def _original(path: Path, work: Path) -> _Original:
    """Return the fp32 model; a file without model.toml is taken as `model inspect` would describe it."""
    beside = path if path.is_dir() else path.parent
    if path.is_dir() or (beside / MANIFEST_NAME).exists():
        folder, manifest = load_manifest(path)
        file, notes = folder / manifest.model.path, []
        if manifest.variants:
            notes.append(f"{len(manifest.variants)} variant(s) of the original are not taken over")
    else:
        found = inspect(path)
        if found.problems or found.manifest is None:
            raise ConfigError(list(found.problems) or [f"{path}: {text}" for text in found.guess.obstacles])
        file, folder, manifest = path, work, found.manifest
        (work / "labels.txt").write_text("".join(f"{label}\n" for label in labels_of(found.guess)), encoding="utf-8")
        notes = [f"without model.toml, this was assumed: {text}" for text in found.guess.why]
    network = read_network(file)
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in all_nodes(network.proto)):
        raise ConfigError(f"{file}: is quantised already: give the float network")
    return _Original(file, folder, manifest, network.file_bytes + sum(network.external.values()), tuple(notes))


def _samples(
    file: Path, pictures: Split, engine: OrtEngine, preprocess: Preprocess, decoder: Decoder, stage: Stage
) -> tuple[list[Sample], list[int]]:
    """Run the original on the held-out pictures; return also each picture's longer side."""
    samples, sides_px = [], []
    advance = stage("original", len(pictures.held_out))
    for place, pixels in read(pictures.held_out):
        try:
            one = partial(run, engine, decoder, *preprocess(pixels))
            samples.append(within(WARM_UP_LIMIT_S, f"{file}: {place.file.name}", one))
        except PermanentError as error:
            raise ConfigError(f"{file}: fails on {place.file}: {error}") from error
        sides_px.append(max(pixels.shape[:2]))
        advance()
    return samples, sides_px


def _feeds(pictures: Split, preprocess: Preprocess, advance: Advance) -> Any:
    for _, pixels in read(pictures.calibration):
        inputs: Feed = preprocess(pixels)[0]
        yield inputs
        advance()


def _pixels(place: Place) -> Pixels:
    return next(pixels for _, pixels in read((place,)))


def _judge(
    task: Task,
    original: _Original,
    preset: Preset,
    pictures: Split,
    agreement: tuple[Accuracy, float],
    int8_bytes: int,
    latencies_ms: list[float],
) -> Report:
    accuracy, kernels = agreement
    accuracy_min = (
        ACCURACY_MIN.get(original.manifest.task, COSINE_MIN) if task.accuracy_min is None else task.accuracy_min
    )
    size_ratio = int8_bytes / original.bytes_total
    fp32_ms, int8_ms = latencies_ms
    latency_ratio = int8_ms / fp32_ms
    is_for_here = preset == preset_of_this_cpu()
    failed, notes = [], list(original.notes)
    if accuracy.value < accuracy_min:
        failed.append(f"{accuracy.metric} is {accuracy.value:.4f}, the bound is {accuracy_min:g}: {accuracy.detail}")
    if accuracy.failures:
        failed.append(f"int8 gives no valid numbers on {accuracy.failures} of {accuracy.pictures} pictures")
    if kernels < task.kernels_min:
        failed.append(
            f"int8 as this CPU computes it has a cosine of {kernels:.4f} with the same network in float arithmetic, "
            f"the bound is {task.kernels_min:g}: its kernels saturate here, as weights of 8 bits do without VNNI"
        )
    if size_ratio > task.size_max:
        failed.append(f"int8 has {size_ratio:.3f} of fp32's bytes, the bound is {task.size_max:g}")
    if is_for_here and latency_ratio > task.latency_max:
        failed.append(f"int8 takes {latency_ratio:.2f} of fp32's time, the bound is {task.latency_max:g}")
    if latency_ratio >= 1:
        notes.append(f"int8 is not faster here: {latency_ratio:.2f} of fp32's time; only its size is gained")
    if not is_for_here:
        notes.append(f"preset {preset.name} is for another CPU than this one: measure again there")
    if accuracy.evidence < EVIDENCE_MIN:
        notes.append(f"weak evidence: the accuracy rests on {accuracy.evidence} of at least {EVIDENCE_MIN}")
    if task.held_out is None:
        notes.append("calibration and judgement share a source: --held-out with other pictures is the honest measure")
    return Report(
        model=str(original.file),
        task=original.manifest.task,
        preset=preset.name,
        preset_why=preset.why,
        calibration_pictures=len(pictures.calibration),
        accuracy=accuracy,
        accuracy_min=accuracy_min,
        kernels=round(kernels, 4),
        kernels_min=task.kernels_min,
        fp32_bytes=original.bytes_total,
        int8_bytes=int8_bytes,
        size_ratio=round(size_ratio, 4),
        size_max=task.size_max,
        fp32_ms=round(fp32_ms, 3),
        int8_ms=round(int8_ms, 3),
        latency_ratio=round(latency_ratio, 3),
        latency_max=task.latency_max if is_for_here else None,
        failed=tuple(failed),
        notes=tuple(notes),
        output=None,
    )


def _comments(report: Report) -> list[str]:
    accuracy = report.accuracy
    return [
        f"Written by edgebeat model quantize from {Path(report.model).name}: int8, QDQ, per channel.",
        f"Preset {report.preset} ({report.preset_why}), {report.calibration_pictures} pictures to calibrate.",
        f"Against fp32 on {accuracy.pictures} other pictures: {accuracy.metric} {accuracy.value:.4f}, "
        f"size {report.size_ratio:.3f}, latency {report.latency_ratio:.2f}.",
        *report.notes,
    ]


def _refused(report: Report, *failures: str) -> Report:
    return replace(report, failed=(*report.failed, *failures))
