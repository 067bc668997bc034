"""Accuracy and latency of an int8 network against its fp32 original, through the agent's own steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from agent.clock import NEVER_NS, Clock
from agent.engine.session import OrtEngine
from agent.errors import ConfigError, PermanentError
from agent.frame import Frame, Tensor
from agent.interfaces import Decoder, Memory, Placement
from agent.modeltools.agreement import Agreement, Found, cosine, interleaved_medians_ms, match
from agent.result import Payload

METRICS = {"detection": "F1 at IoU 0.5", "classification": "top-1 agreement", "segmentation": "mean IoU"}
"""By task; the cosine of the outputs for all others."""

ONE_CLASS = "agreement at 0.5"
"""Metric of a classification into one class, whose first class is always the same."""

ACCURACY_MIN = {"detection": 0.95, "classification": 0.98, "segmentation": 0.95}
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
    """A held-out picture or window as the network gets it, with what the original makes of it.

    Attributes:
        inputs: of the network, with the state that the original carried here.
        placement: for the decoder.
        outputs: of the original, by name; those that are compared.
        payload: of the original.
        follows: False where the state starts anew: another recording.
    """

    inputs: Mapping[str, Tensor]
    placement: Placement
    outputs: Mapping[str, Tensor]
    payload: Payload
    follows: bool = True


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How well int8 agrees with fp32 on held-out pictures or windows.

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


class Player:
    """Runs samples through one network in their order, with the state that this network itself makes.

    Args:
        engine: the network.
        decoder: of its outputs.
        memory: None for a network without a state.
    """

    def __init__(self, engine: OrtEngine, decoder: Decoder, memory: Memory | None = None) -> None:
        self._engine = engine
        self._decoder = decoder
        self._memory = memory
        self._sequence = 0

    def play(self, inputs: Mapping[str, Tensor], placement: Placement, *, follows: bool = True) -> Sample:
        """Run one sample.

        Raises:
            PermanentError: the network fails, or its outputs are no valid numbers.
        """
        self._sequence += 1
        frame = Frame("", self._sequence, 0, NEVER_NS, _NO_PIXELS, follows=follows)
        if self._memory is not None:
            inputs = {**inputs, **self._memory.recall(frame)}
        outputs = self._engine.run(inputs, self._engine.new_abort())
        if self._memory is not None:
            self._memory.remember(frame, outputs)
        names = (spec.name for spec in self._engine.outputs)
        by_name = dict(zip(names, outputs, strict=True))
        return Sample(inputs, placement, by_name, self._decoder.decode(outputs, placement), follows)


_NO_PIXELS = np.zeros((1, 1, 3), np.uint8)


def measure_accuracy(
    metric: str,
    player: Player,
    samples: Sequence[Sample],
    advance: Callable[[], None],
) -> tuple[Accuracy, list[Payload | None]]:
    """Compare int8 with the original on every sample; return also int8's payloads, None where it failed.

    Args:
        metric: of `METRICS`, `ONE_CLASS` or `cosine`.
        player: of the int8 network.
        samples: played by the original.
        advance: called after each.

    Raises:
        ConfigError: the original finds nothing on any sample, or always the same: nothing can be compared.
    """
    _check_judges(metric, samples)
    payloads: list[Payload | None] = []
    cosines: list[dict[str, float] | None] = []
    for sample in samples:
        try:
            played = player.play(sample.inputs, sample.placement, follows=sample.follows)
        except PermanentError:
            payloads.append(None)
            cosines.append(None)
        else:
            payloads.append(played.payload)
            if reads_outputs(metric):  # Here, so that int8's outputs need not be kept.
                cosines.append(
                    {name: cosine(sample.outputs[name], tensor) for name, tensor in played.outputs.items()}
                )
        advance()
    if reads_outputs(metric):
        value, evidence, detail = _raw(samples, cosines)
    else:
        value, evidence, detail = _COMPARE[metric](samples, payloads)
    failures = payloads.count(None)
    return Accuracy(metric, value, len(samples), evidence, failures, detail), payloads


def reads_outputs(metric: str) -> bool:
    """Tell whether a metric compares the outputs themselves, and not the payloads."""
    return metric not in _COMPARE


def _check_judges(metric: str, samples: Sequence[Sample]) -> None:
    """Refuse samples on which a blind network would agree with the original."""
    advice = "and check color, scale, mean and std in model.toml"
    finds = {METRICS["detection"], METRICS["segmentation"]}
    if metric in finds and not any(value for sample in samples for value in sample.payload.values()):
        raise ConfigError(
            f"the original detects nothing on {len(samples)} held-out pictures, so nothing can be compared: use "
            f"pictures of what the model knows, {advice}"
        )
    answer = {METRICS["classification"]: _top, ONE_CLASS: _is_yes}.get(metric)
    if answer is not None and len({answer(sample.payload) for sample in samples}) < 2:
        raise ConfigError(
            f"the original gives the same class on all {len(samples)} held-out samples, so that a network that "
            f"always says it would pass: use samples of several classes, {advice}"
        )


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


def _detection(samples: Sequence[Sample], candidates: Sequence[Payload | None]) -> _Compared:
    total = Agreement()
    for sample, candidate in zip(samples, candidates, strict=True):
        total += match(_found(sample.payload), [] if candidate is None else _found(candidate))
    evidence = total.both + total.reference_only
    detail = (
        f"{evidence} detections by fp32, {total.both + total.candidate_only} by int8, {total.both} of them the same"
    )
    return total.f1, evidence, detail


def _found(payload: Payload) -> list[Found]:
    return [Found(one["class_id"], np.asarray(one["box"], np.float32)) for one in payload["detections"]]


def _classification(samples: Sequence[Sample], candidates: Sequence[Payload | None]) -> _Compared:
    pairs = zip(samples, candidates, strict=True)
    same = sum(candidate is not None and _top(sample.payload) == _top(candidate) for sample, candidate in pairs)
    classes = len({_top(sample.payload) for sample in samples})
    detail = f"{same} of {len(samples)} samples the same, {classes} different classes among them"
    return same / len(samples), len(samples), detail


def _top(payload: Payload) -> int | None:
    return payload["classes"][0]["class_id"] if payload["classes"] else None


def _one_class(samples: Sequence[Sample], candidates: Sequence[Payload | None]) -> _Compared:
    """Return how often both say yes or both say no, where there is only one class to say."""
    pairs = [
        (sample.payload, candidate)
        for sample, candidate in zip(samples, candidates, strict=True)
        if candidate is not None
    ]
    same = sum(_is_yes(wanted) == _is_yes(got) for wanted, got in pairs)
    furthest = max((abs(_score(wanted) - _score(got)) for wanted, got in pairs), default=1.0)
    yes = sum(_is_yes(sample.payload) for sample in samples)
    detail = (
        f"{same} of {len(samples)} samples the same, fp32 says yes to {yes}; scores differ by {furthest:.3f} at most"
    )
    return same / len(samples), len(samples), detail


def _is_yes(payload: Payload) -> bool:
    return _score(payload) >= 0.5


def _score(payload: Payload) -> float:
    return float(payload["classes"][0]["score"]) if payload["classes"] else 0.0


def _segmentation(samples: Sequence[Sample], candidates: Sequence[Payload | None]) -> _Compared:
    """Return the mean of the classes' intersection over union, cells of all samples together (PASCAL VOC's way)."""
    shared: Counter[int] = Counter()
    either: Counter[int] = Counter()
    for sample, candidate in zip(samples, candidates, strict=True):
        wanted, got = _cells(sample.payload), {} if candidate is None else _cells(candidate)
        for class_id in wanted.keys() | got.keys():
            one, other = wanted.get(class_id, _NO_CELLS), got.get(class_id, _NO_CELLS)
            # Noise is given on a coarser grid: such a mask shares nothing with a clear one.
            both = int((one & other).sum()) if one.size == other.size else 0
            shared[class_id] += both
            either[class_id] += int(one.sum()) + int(other.sum()) - both
    overlaps = {class_id: shared[class_id] / cells for class_id, cells in either.items() if cells}
    worst = min(overlaps, key=lambda class_id: overlaps[class_id])
    detail = f"{len(overlaps)} classes; class {worst} agrees least, {overlaps[worst]:.4f}"
    return sum(overlaps.values()) / len(overlaps), len(samples), detail


_NO_CELLS = np.zeros(0, np.bool_)


def _cells(payload: Payload) -> dict[int, npt.NDArray[np.bool_]]:
    """Return the cells of each class, bool [rows x columns] in the order of the run lengths."""
    return {
        one["class_id"]: np.repeat(np.arange(len(one["mask"]["counts"])) % 2 == 1, one["mask"]["counts"])
        for one in payload["segments"]
    }


def _raw(samples: Sequence[Sample], cosines: Sequence[Mapping[str, float] | None]) -> _Compared:
    """Return the mean cosine of the output that agrees least, of those that int8 has; 0 where it failed."""
    means = []
    for name in next((one for one in cosines if one is not None), samples[0].outputs):
        column = [0.0 if one is None else one[name] for one in cosines]
        means.append((sum(column) / len(column), min(column), name))
    mean, least, name = min(means)
    return mean, len(samples), f"output {name!r} agrees least: mean {mean:.4f}, lowest sample {least:.4f}"


_COMPARE: dict[str, Any] = {
    METRICS["detection"]: _detection,
    METRICS["classification"]: _classification,
    METRICS["segmentation"]: _segmentation,
    ONE_CLASS: _one_class,
}
