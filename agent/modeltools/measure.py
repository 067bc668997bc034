"""Accuracy and latency of an int8 network against its fp32 original, through the agent's own steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from agent.clock import Clock
from agent.engine.session import OrtEngine
from agent.errors import ConfigError, PermanentError
from agent.frame import Tensor
from agent.interfaces import Decoder, Placement
from agent.modeltools.agreement import Agreement, Found, cosine, interleaved_medians_ms, match
from agent.result import Payload

METRICS = {"detection": "F1 at IoU 0.5", "classification": "top-1 agreement"}
"""By task; the cosine of the outputs for all others."""

ACCURACY_MIN = {"detection": 0.95, "classification": 0.98}
COSINE_MIN = 0.99
"""Defaults: an int8 COCO-SSD that is well made has 0.96 to 0.98, a broken one 0; one label in 50 is rounding."""

KERNELS_MIN = 0.97
"""Default: COCO-SSD on AVX2 has 0.998 with weights of 7 bits, and 0.82 with weights of 8: their sums saturate."""

KERNEL_PICTURES = 16
"""Enough to see kernels that are wrong; float arithmetic without optimisation is slow."""

LATENCY_ROUNDS = 40
"""Of each network: 2 s for one of 25 ms."""

EVIDENCE_MIN = 20
"""Detections of the original, or pictures, below which the figure is called weak."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """A held-out picture as the network gets it, with what the original makes of it.

    Attributes:
        inputs: of the network.
        placement: for the decoder.
        outputs: of the original.
        payload: of the original.
    """

    inputs: Mapping[str, Tensor]
    placement: Placement
    outputs: Sequence[Tensor]
    payload: Payload


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How well int8 agrees with fp32 on held-out pictures.

    Attributes:
        metric: its name.
        value: 0 to 1.
        pictures: how many were compared.
        evidence: what the figure rests on: detections of the original, or pictures.
        failures: pictures on which int8 gave no valid numbers.
        detail: the counts behind the value, for people.
    """

    metric: str
    value: float
    pictures: int
    evidence: int
    failures: int
    detail: str


def run(engine: OrtEngine, decoder: Decoder, inputs: Mapping[str, Tensor], placement: Placement) -> Sample:
    """Run one picture.

    Raises:
        PermanentError: the network fails, or its outputs are no valid numbers.
    """
    outputs = engine.run(inputs, engine.new_abort())
    return Sample(inputs, placement, outputs, decoder.decode(outputs, placement))


def measure_accuracy(
    task: str,
    engine: OrtEngine,
    decoder: Decoder,
    samples: Sequence[Sample],
    advance: Callable[[], None],
) -> tuple[Accuracy, list[Payload | None]]:
    """Compare int8 with the original on every sample; return also int8's payloads, None where it failed.

    Raises:
        ConfigError: the original finds nothing on any picture, or always the same class: nothing can be compared.
    """
    if task == "detection" and not any(sample.payload["detections"] for sample in samples):
        raise ConfigError(
            f"the original detects nothing on {len(samples)} held-out pictures, so nothing can be compared: use "
            "pictures of what the model knows, and check color, scale, mean and std in model.toml"
        )
    if task == "classification" and len({_top(sample.payload) for sample in samples}) < 2:
        raise ConfigError(
            f"the original gives the same class on all {len(samples)} held-out pictures, so that a network that "
            "always says it would pass: use pictures of several classes, and check color, scale, mean and std in "
            "model.toml"
        )
    candidates: list[Sample | None] = []
    for sample in samples:
        try:
            candidates.append(run(engine, decoder, sample.inputs, sample.placement))
        except PermanentError:
            candidates.append(None)
        advance()
    value, evidence, detail = _COMPARE.get(task, _raw)(samples, candidates)
    failures = candidates.count(None)
    payloads = [None if candidate is None else candidate.payload for candidate in candidates]
    return Accuracy(METRICS.get(task, "cosine"), value, len(samples), evidence, failures, detail), payloads


def measure_kernels(integer: OrtEngine, plain: OrtEngine, samples: Sequence[Sample]) -> float:
    """Return the mean cosine, of the output that agrees least, of a network's integer kernels with its float form.

    Easy pictures hide kernels that saturate: on a clip of large objects a COCO-SSD quantised for VNNI has an F1 of
    0.95 on AVX2, and the one in tests/assets finds nothing at all. The same network in float arithmetic knows nothing
    of saturation, so that the two differ on any picture.

    Args:
        integer: the int8 network as this CPU runs it.
        plain: the same network without optimisation.
        samples: pictures; their inputs are used.
    """
    cosines: list[list[float]] = []
    for sample in samples[:KERNEL_PICTURES]:
        pairs = zip(*(engine.run(sample.inputs, engine.new_abort()) for engine in (plain, integer)), strict=True)
        cosines.append([cosine(wanted, got) for wanted, got in pairs])
    means: list[float] = [sum(column) / len(column) for column in zip(*cosines, strict=True)]
    return min(means)


def measure_latency(engines: Sequence[OrtEngine], inputs: Mapping[str, Tensor], clock: Clock) -> list[float]:
    """Return the median of one run of each network, ms, in turns."""
    runs = [_runner(engine, inputs) for engine in engines]
    interleaved_medians_ms(runs, 3, clock)  # The first runs allocate.
    return interleaved_medians_ms(runs, LATENCY_ROUNDS, clock)


def _runner(engine: OrtEngine, inputs: Mapping[str, Tensor]) -> Callable[[], object]:
    return lambda: engine.run(inputs, engine.new_abort())


_Compared = tuple[float, int, str]


def _detection(samples: Sequence[Sample], candidates: Sequence[Sample | None]) -> _Compared:
    total = Agreement()
    for sample, candidate in zip(samples, candidates, strict=True):
        total += match(_found(sample.payload), [] if candidate is None else _found(candidate.payload))
    evidence = total.both + total.reference_only
    detail = (
        f"{evidence} detections by fp32, {total.both + total.candidate_only} by int8, {total.both} of them the same"
    )
    return total.f1, evidence, detail


def _found(payload: Payload) -> list[Found]:
    return [Found(one["class_id"], np.asarray(one["box"], np.float32)) for one in payload["detections"]]


def _classification(samples: Sequence[Sample], candidates: Sequence[Sample | None]) -> _Compared:
    pairs = zip(samples, candidates, strict=True)
    same = sum(
        candidate is not None and _top(sample.payload) == _top(candidate.payload) for sample, candidate in pairs
    )
    classes = len({_top(sample.payload) for sample in samples})
    detail = f"{same} of {len(samples)} pictures the same, {classes} different classes among them"
    return same / len(samples), len(samples), detail


def _top(payload: Payload) -> int | None:
    return payload["classes"][0]["class_id"] if payload["classes"] else None


def _raw(samples: Sequence[Sample], candidates: Sequence[Sample | None]) -> _Compared:
    """Return the mean cosine of the output that agrees least."""
    means = []
    for index in range(len(samples[0].outputs)):
        cosines = [
            0.0 if candidate is None else cosine(sample.outputs[index], candidate.outputs[index])
            for sample, candidate in zip(samples, candidates, strict=True)
        ]
        means.append((sum(cosines) / len(cosines), min(cosines), index))
    mean, least, index = min(means)
    return mean, len(samples), f"output {index} agrees least: mean {mean:.4f}, lowest picture {least:.4f}"


_COMPARE: dict[str, Any] = {"detection": _detection, "classification": _classification}
