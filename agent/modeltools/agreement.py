"""How well a model agrees with another: the reference counts as the truth."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from agent.clock import NS_PER_MS, Clock

IOU_MIN = 0.5
"""Overlap above which two boxes of one class are the same object."""


class Found(NamedTuple):
    """One object: class, and corners as float [4]; the order of the axes does not matter."""

    class_id: int
    box: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How many detections of a candidate meet one of the reference."""

    both: int = 0
    candidate_only: int = 0
    reference_only: int = 0

    def __add__(self, other: Agreement) -> Agreement:
        """Add up the counts of two sets of pictures."""
        return Agreement(
            self.both + other.both,
            self.candidate_only + other.candidate_only,
            self.reference_only + other.reference_only,
        )

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 0 where nothing was detected."""
        mentioned = 2 * self.both + self.candidate_only + self.reference_only
        return 2 * self.both / mentioned if mentioned else 0.0


def match(reference: Sequence[Found], candidate: Sequence[Found]) -> Agreement:
    """Pair detections of the same class that overlap by more than `IOU_MIN`, each at most once."""
    unpaired = list(reference)
    both = 0
    for found in candidate:
        overlaps = [
            float(overlap(found.box, other.box[np.newaxis])[0]) if other.class_id == found.class_id else 0.0
            for other in unpaired
        ]
        if overlaps and max(overlaps) > IOU_MIN:
            unpaired.pop(overlaps.index(max(overlaps)))
            both += 1
    return Agreement(both, len(candidate) - both, len(unpaired))


def overlap(box: npt.NDArray[np.float32], boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return intersection over union of float32 [4] with each of float32 [N, 4]."""
    corner_low = np.maximum(box[:2], boxes[:, :2])
    corner_high = np.minimum(box[2:], boxes[:, 2:])
    shared = np.clip(corner_high - corner_low, 0, None).prod(axis=1)
    area = (box[2:] - box[:2]).prod()
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return np.asarray(shared / (area + areas - shared + 1e-9), np.float32)


def cosine(reference: npt.NDArray[Any], candidate: npt.NDArray[Any]) -> float:
    """Return the cosine of two tensors, 0 where their shapes differ.

    Of numbers it is 0 also where one is not finite, or is zero and the other is not. Texts and truth values have no
    angle: of them it is the share that is equal.
    """
    if reference.shape != candidate.shape:
        return 0.0
    if not is_numeric(reference):
        return float((reference == candidate).mean()) if reference.size else 1.0
    a, b = (np.asarray(tensor, np.float64).ravel() for tensor in (reference, candidate))
    if not np.isfinite(b).all():
        return 0.0
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / lengths if lengths else float(not a.any() and not b.any())


def is_numeric(tensor: npt.NDArray[Any]) -> bool:
    """Tell numbers from texts and truth values."""
    return tensor.dtype.kind not in "bOSU"


def interleaved_medians_ms(runs: Sequence[Callable[[], object]], rounds: int, clock: Clock) -> list[float]:
    """Return the median time of each run, ms. They take turns: what else the machine does touches all of them."""
    samples: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds):
        for run, times in zip(runs, samples, strict=True):
            started_ns = clock.now_ns()
            run()
            times.append((clock.now_ns() - started_ns) / NS_PER_MS)
    return [statistics.median(times) for times in samples]
