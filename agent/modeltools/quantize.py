"""Quantises a model and keeps the result only when it is proven: fp32 is the truth, held-out samples the judge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx

from agent.clock import Clock
from agent.engine.session import OrtEngine
from agent.fitting import build_steps
from agent.frame import Tensor
from agent.interfaces import Preprocess
from agent.loading import try_variants
from agent.modeltools.dynamic import dynamic_layers, quantize_dynamically
from agent.modeltools.dynamic_error import measure_dynamic_layers
from agent.modeltools.fold import fold, outputs_read
from agent.modeltools.folder import choose_golden, new_folder, write_model
from agent.modeltools.held_out import play_held_out, player_of
from agent.modeltools.judge import Candidate, Feed, Method, choose_method, is_worth_a_try, judge
from agent.modeltools.layer_error import SAMPLES_MAX, LayerError, measure_layers
from agent.modeltools.material import Material, gather
from agent.modeltools.measure import (
    Sample,
    measure_accuracy,
    measure_kernels,
    measure_latency,
)
from agent.modeltools.original import Original, read_original
from agent.modeltools.progress import Stage
from agent.modeltools.qdq import quantize_qdq
from agent.modeltools.report import Report
from agent.modeltools.task import Task

NETWORK_NAME = "model.onnx"


@dataclass(slots=True, eq=False)
class _Bench:
    """All that stands still while one int8 network after another is made and measured.

    Attributes:
        folded: the float network without what does not serve.
        feeds: some inputs of the calibration, for the layers' errors.
    """

    task: Task
    clock: Clock
    stage: Stage
    original: Original
    method: Method
    material: Material
    engine: OrtEngine
    preprocess: Preprocess
    samples: list[Sample]
    folded: Path
    feeds: list[Mapping[str, Tensor]] = field(default_factory=list)


def quantize(task: Task, clock: Clock, stage: Stage) -> Report:
    """Quantise, measure, and write a model folder when every bound holds.

    Raises:
        ConfigError: the model, the pictures or the output cannot be used.
        OSError: the disk is full.
    """
    target = task.target
    with new_folder(target) as folder:
        work = folder / ".work"
        original = read_original(task.path, work)
        method = choose_method(task, original)
        engine = original.load()
        preprocess, _ = build_steps(original.folder, original.manifest, engine)
        material = gather(task, original.manifest, is_dynamic=method.is_dynamic)
        kept = outputs_read(original.manifest, [spec.name for spec in engine.outputs])
        held = play_held_out(original, material, engine, preprocess, kept, stage)
        original, material = replace(original, notes=(*original.notes, *held.notes)), held.material
        folding = fold(original.file, original.bytes_total, kept, work / "folded.onnx")
        bench = _Bench(
            task, clock, stage, original, method, material, engine, preprocess, held.samples, work / "folded.onnx"
        )
        candidates, layers = _search(bench)
        report = judge(task, original, method, material, folding, candidates, layers)
        if not report.failed:
            report = _write(bench, report, candidates[-1], held.sides_px, (folder, target))
    return report


def _search(bench: _Bench) -> tuple[list[Candidate], tuple[LayerError, ...] | None]:
    """Make int8 networks until one is accurate: 1, 2, 4, ... of the worst layers in float, to the stated number."""
    candidates = [_candidate(bench, ())]
    layers: tuple[LayerError, ...] | None = None
    if bench.task.is_per_layer:
        layers = _layers(bench, candidates[0])
    count = 0
    while is_worth_a_try(bench.task, bench.original, candidates[-1]):
        layers = layers or _layers(bench, candidates[0])
        most = min(bench.task.keep_float_max, len(layers))
        if count >= most:
            break
        count = min(most, count * 2 or 1)
        candidates.append(_candidate(bench, tuple(layer.name for layer in layers[:count])))
    return candidates, layers


def _layers(bench: _Bench, candidate: Candidate) -> tuple[LayerError, ...]:
    if bench.method.is_dynamic:
        every = max(1, len(bench.samples) // SAMPLES_MAX)
        feeds = [sample.inputs for sample in bench.samples[::every][:SAMPLES_MAX]]
        advance = bench.stage("layers", len(dynamic_layers(onnx.load(bench.folded))))
        return measure_dynamic_layers(bench.folded, candidate.file, bench.method.preset, feeds, advance)
    advance = bench.stage("layers", len(bench.feeds))
    return measure_layers(bench.folded, candidate.file, bench.feeds, advance)


def _candidate(bench: _Bench, kept_float: tuple[str, ...]) -> Candidate:
    """Make one int8 network and measure it."""
    file = bench.folded.with_name(f"int8-{len(kept_float)}.onnx")
    if bench.method.is_dynamic:
        quantize_dynamically(bench.folded, file, bench.method.preset, kept_float)
    else:
        feeds = _feeds(bench)
        quantize_qdq(bench.folded, file, feeds, bench.method.preset, excluded=kept_float, is_folded=True)
    engine = OrtEngine(file, threads=1, sha256=None)
    player = player_of(bench.original, engine)
    advance = bench.stage("comparing", len(bench.samples))
    accuracy, payloads = measure_accuracy(bench.original.metric, player, bench.samples, advance)
    kernels = None
    if not bench.method.is_dynamic:
        plain = OrtEngine(file, threads=1, sha256=None, is_optimized=False)
        kernels = measure_kernels(engine, plain, bench.samples)
    bench.stage("timing", 1)()
    fp32_ms, int8_ms = measure_latency([bench.engine, engine], bench.samples[0].inputs, bench.clock)
    return Candidate(
        file, engine.sha256, accuracy, payloads, kernels, file.stat().st_size, fp32_ms, int8_ms, kept_float
    )


def _feeds(bench: _Bench) -> Iterator[Feed]:
    """Yield the inputs that fix the ranges, with the state that the original makes; keep some for the layers."""
    count = bench.material.calibration_count
    every = max(1, count // SAMPLES_MAX)
    advance = bench.stage("calibrating", count)
    is_stateful = bench.original.manifest.state is not None
    player = player_of(bench.original, bench.engine)
    bench.feeds.clear()
    for index, item in enumerate(bench.material.calibration()):
        inputs, placement = bench.preprocess(item.content)
        if is_stateful:
            inputs = dict(player.play(inputs, placement, follows=item.follows).inputs)
        if index % every == 0 and len(bench.feeds) < SAMPLES_MAX:
            bench.feeds.append(inputs)
        yield inputs
        advance()


def _write(
    bench: _Bench, report: Report, candidate: Candidate, sides_px: list[int], folders: tuple[Path, Path]
) -> Report:
    """Write the model's folder and prove it as the agent would; take all of it away again when that fails."""
    folder, target = folders
    original, samples = bench.original, bench.samples
    golden = None
    if original.manifest.golden is None:
        if bench.material.picture is None:
            report = replace(report, notes=(*report.notes, "the original has no golden recording, so int8 has none"))
        else:
            chosen = choose_golden([sample.payload for sample in samples], candidate.payloads, sides_px)
            if chosen is not None:
                golden = (chosen, bench.material.picture(chosen.index))
            elif original.manifest.task != "segmentation":
                return _refused(report, "no held-out picture comes out alike, so that none can be the golden sample")
            else:  # A cell at the edge of a mask changes its run lengths; the agent says at start what is missing.
                report = replace(report, notes=(*report.notes, "no mask comes out alike: there is no golden sample"))
    candidate.file.rename(folder / NETWORK_NAME)
    write_model(folder, (original.folder, original.manifest), candidate.sha256, golden, _comments(report))
    bench.stage("verifying", 1)()
    problems = [text for attempt in try_variants(folder, 1, bench.clock)[1] for text in attempt.problems]
    if problems:
        for file in folder.iterdir():
            if file.is_file():
                file.unlink()
        return _refused(report, *(text.replace(str(folder), str(target)) for text in problems))
    return replace(report, output=str(target))


def _comments(report: Report) -> list[str]:
    accuracy = report.accuracy
    kind = "int8, QDQ, per channel" if report.method == "static" else "int8, dynamic, per channel"
    return [
        f"Written by edgebeat model quantize from {Path(report.model).name}: {kind}.",
        f"Preset {report.preset} ({report.preset_why}), {report.evidence}.",
        f"Against fp32: {accuracy.metric} {accuracy.value:.4f}, size {report.size_ratio:.3f}, "
        f"latency {report.latency_ratio:.2f}.",
        *report.notes,
    ]


def _refused(report: Report, *failures: str) -> Report:
    return replace(report, failed=(*report.failed, *failures))
