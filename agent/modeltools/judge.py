"""Judges an int8 network by its stated bounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.frame import Tensor
from agent.modeltools.fold import Folding
from agent.modeltools.layer_error import LayerError
from agent.modeltools.material import Material
from agent.modeltools.measure import ACCURACY_MIN, COSINE_MIN, EVIDENCE_MIN, Accuracy
from agent.modeltools.original import Original
from agent.modeltools.presets import Preset, preset_of_this_cpu
from agent.modeltools.report import Report, Try
from agent.modeltools.task import Task
from agent.result import Payload

Feed = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Method:
    """How it is quantised, and why so."""

    is_dynamic: bool
    preset: Preset
    why: str

    @property
    def name(self) -> str:
        """Return `static` or `dynamic`."""
        return "dynamic" if self.is_dynamic else "static"


def choose_method(task: Task, original: Original) -> Method:
    """Return the method that was asked for, or the one that fits the network."""
    preset = task.preset or preset_of_this_cpu()
    if task.method != "auto":
        return Method(task.method == "dynamic", preset, "as asked")
    if original.recurrent:
        return Method(is_dynamic=True, preset=preset, why=f"it has {', '.join(original.recurrent)}")
    if original.manifest.state is not None:
        return Method(is_dynamic=True, preset=preset, why="model.toml gives it a [state]")
    return Method(is_dynamic=False, preset=preset, why="no recurrent operators")


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """An int8 network that was made and measured.

    Attributes:
        file: the network.
        sha256: of it.
        accuracy: against fp32.
        payloads: what it makes of each sample; None where it failed.
        kernels: see `measure_kernels`; None for dynamic quantisation.
        int8_bytes: size of the file.
        fp32_ms: median of the original, in turns with it.
        int8_ms: its own.
        kept_float: names of the layers that stayed in float.
    """

    file: Path
    sha256: str
    accuracy: Accuracy
    payloads: list[Payload | None]
    kernels: float | None
    int8_bytes: int
    fp32_ms: float
    int8_ms: float
    kept_float: tuple[str, ...]

    @property
    def latency_ratio(self) -> float:
        """Its median over fp32's."""
        return round(self.int8_ms / self.fp32_ms, 3)

    def as_try(self) -> Try:
        """Return its line in the report."""
        return Try(self.kept_float, self.accuracy.value, self.int8_bytes, self.latency_ratio)


def accuracy_bound(task: Task, original: Original) -> float:
    """Return what the accuracy must be at least."""
    default = COSINE_MIN if original.metric == "cosine" else ACCURACY_MIN.get(original.manifest.task, COSINE_MIN)
    return default if task.accuracy_min is None else task.accuracy_min


def is_worth_a_try(task: Task, original: Original, candidate: Candidate) -> bool:
    """Return whether layers in float could help: the accuracy asks for it, and the kernels are right."""
    is_bad = candidate.accuracy.value < accuracy_bound(task, original) or candidate.accuracy.failures > 0
    return is_bad and not _saturates(task, candidate)


def judge(
    task: Task,
    original: Original,
    method: Method,
    material: Material,
    folding: Folding,
    candidates: Sequence[Candidate],
    layers: tuple[LayerError, ...] | None,
) -> Report:
    """Return the report on the last candidate; `failed` names each bound that does not hold."""
    candidate = candidates[-1]
    is_for_here = method.preset == preset_of_this_cpu()
    return Report(
        model=str(original.file),
        task=original.manifest.task,
        method=method.name,
        method_why=method.why,
        preset=method.preset.name,
        preset_why=method.preset.why,
        held=material.kind,
        calibration_pictures=material.calibration_count,
        folding=folding,
        accuracy=candidate.accuracy,
        accuracy_min=accuracy_bound(task, original),
        kernels=None if candidate.kernels is None else round(candidate.kernels, 4),
        kernels_min=task.kernels_min,
        fp32_bytes=original.bytes_total,
        int8_bytes=candidate.int8_bytes,
        size_ratio=round(candidate.int8_bytes / original.bytes_total, 4),
        size_max=task.size_max,
        fp32_ms=round(candidate.fp32_ms, 3),
        int8_ms=round(candidate.int8_ms, 3),
        latency_ratio=candidate.latency_ratio,
        latency_max=task.latency_max if is_for_here else None,
        tries=tuple(one.as_try() for one in candidates),
        layers=layers,
        failed=tuple(_failures(task, original, candidates, is_for_here=is_for_here)),
        notes=tuple(_notes(task, original, method, candidates, is_for_here=is_for_here)),
        output=None,
    )


def _saturates(task: Task, candidate: Candidate) -> bool:
    return candidate.kernels is not None and candidate.kernels < task.kernels_min


def _failures(task: Task, original: Original, candidates: Sequence[Candidate], *, is_for_here: bool) -> list[str]:
    candidate = candidates[-1]
    accuracy, bound = candidate.accuracy, accuracy_bound(task, original)
    size_ratio = candidate.int8_bytes / original.bytes_total
    failed = []
    if accuracy.value < bound:
        tried = f", after {len(candidates)} tries" if len(candidates) > 1 else ""
        failed.append(f"{accuracy.metric} is {accuracy.value:.4f}{tried}, the bound is {bound:g}: {accuracy.detail}")
    if accuracy.failures:
        failed.append(f"int8 gives no valid numbers on {accuracy.failures} of {accuracy.pictures} samples")
    if _saturates(task, candidate):
        failed.append(
            f"int8 as this CPU computes it has a cosine of {candidate.kernels:.4f} with the same network in float "
            f"arithmetic, the bound is {task.kernels_min:g}: its kernels saturate here, as weights of 8 bits do "
            "without VNNI"
        )
    if size_ratio > task.size_max:
        failed.append(f"int8 has {size_ratio:.3f} of fp32's bytes, the bound is {task.size_max:g}")
    if is_for_here and candidate.latency_ratio > task.latency_max:
        failed.append(f"int8 takes {candidate.latency_ratio:.2f} of fp32's time, the bound is {task.latency_max:g}")
    return failed


def _notes(
    task: Task, original: Original, method: Method, candidates: Sequence[Candidate], *, is_for_here: bool
) -> list[str]:
    candidate, notes = candidates[-1], list(original.notes)
    if candidate.latency_ratio >= 1:
        notes.append(
            f"int8 is not faster here: {candidate.latency_ratio:.2f} of fp32's time; only its size is gained"
        )
    if not is_for_here:
        notes.append(f"preset {method.preset.name} is for another CPU than this one: measure again there")
    if _saturates(task, candidate) and candidate.accuracy.value < accuracy_bound(task, original):
        notes.append("no further layer in float was tried: kernels that saturate are wrong in every layer")
    if candidate.kept_float:
        notes.append(f"{len(candidate.kept_float)} layer(s) stay in float: {', '.join(candidate.kept_float)}")
    if candidate.accuracy.evidence < EVIDENCE_MIN:
        notes.append(f"weak evidence: the accuracy rests on {candidate.accuracy.evidence} of at least {EVIDENCE_MIN}")
    if task.held_out is None and not method.is_dynamic:
        notes.append("calibration and judgement share a source: --held-out with other pictures is the honest measure")
    if method.is_dynamic:
        notes.append(
            "dynamic: MatMul and LSTM compute in int8; other weights are stored as int8 and computed in float"
        )
    return notes
