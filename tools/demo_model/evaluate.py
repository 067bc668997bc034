"""Measures the int8 model against fp32: detections, agreement and latency.

The decoder here is written for this purpose alone, in plain numpy, so that the golden
sample does not come from the code that it is there to check.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

SCORE_THRESHOLD = 0.5
IOU_THRESHOLD = 0.5

Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Detection:
    """One object that a model found."""

    category: int
    """COCO category id, 1..90."""

    score: float
    """Probability, 0..1."""

    box: Float32
    """float32 [4]: ymin, xmin, ymax, xmax as shares of the picture."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How many detections of a candidate meet one of the reference."""

    both: int = 0
    candidate_only: int = 0
    reference_only: int = 0

    def __add__(self, other: Agreement) -> Agreement:
        """Adds up the counts of two sets of pictures."""
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


def open_session(model: Path, *, is_optimized: bool = True) -> ort.InferenceSession:
    """Opens `model` on one CPU thread.

    Without optimisation every QDQ operator runs in float between its quantise steps: a
    second arithmetic for the same model, as another CPU's kernels would be.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    if not is_optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def overlap(box: Float32, boxes: Float32) -> Float32:
    """Intersection over union of float32 [4] with each of float32 [N, 4]."""
    corner_low = np.maximum(box[:2], boxes[:, :2])
    corner_high = np.minimum(box[2:], boxes[:, 2:])
    shared = np.clip(corner_high - corner_low, 0, None).prod(axis=1)
    area = (box[2:] - box[:2]).prod()
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return np.asarray(shared / (area + areas - shared + 1e-9), np.float32)


def decode(boxes: Float32, scores: Float32, threshold: float) -> list[Detection]:
    """Turns float32 [N, 4] and [N, 90] into detections by falling score.

    A box is dropped where one of the same category with a higher score overlaps it by
    more than `IOU_THRESHOLD`.
    """
    found: list[Detection] = []
    for column in np.flatnonzero((scores >= threshold).any(axis=0)):
        candidates = np.flatnonzero(scores[:, column] >= threshold)
        candidates = candidates[np.argsort(-scores[candidates, column], kind="stable")]
        while candidates.size:
            best, rest = candidates[0], candidates[1:]
            found.append(Detection(int(column) + 1, float(scores[best, column]), boxes[best]))
            candidates = rest[overlap(boxes[best], boxes[rest]) <= IOU_THRESHOLD]
    return sorted(found, key=lambda detection: -detection.score)


def detect(
    session: ort.InferenceSession, picture: NDArray[np.uint8], threshold: float = SCORE_THRESHOLD
) -> list[Detection]:
    """Runs a model on uint8 [1, 300, 300, 3] RGB."""
    boxes, scores = session.run(["boxes", "scores"], {"images": picture})
    return decode(boxes[0], scores[0], threshold)


def match(reference: list[Detection], candidate: list[Detection]) -> Agreement:
    """Pairs detections of the same category that overlap by more than `IOU_THRESHOLD`."""
    unpaired = list(reference)
    both = 0
    for detection in candidate:
        overlaps = [
            float(overlap(detection.box, other.box[np.newaxis])[0]) if other.category == detection.category else 0.0
            for other in unpaired
        ]
        if overlaps and max(overlaps) > IOU_THRESHOLD:
            unpaired.pop(overlaps.index(max(overlaps)))
            both += 1
    return Agreement(both, len(candidate) - both, len(unpaired))


def compare(
    reference: ort.InferenceSession, candidate: ort.InferenceSession, pictures: list[NDArray[np.uint8]]
) -> Agreement:
    """Adds up the agreement of two models over inputs of uint8 [1, 300, 300, 3]."""
    total = Agreement()
    for picture in pictures:
        total += match(detect(reference, picture), detect(candidate, picture))
    return total


def median_latencies_ms(
    sessions: list[ort.InferenceSession], picture: NDArray[np.uint8], rounds: int = 60
) -> list[float]:
    """Median time of one run of each session in ms.

    The sessions take turns, so that what else the machine does touches all of them.
    """
    samples: list[list[float]] = [[] for _ in sessions]
    for _ in range(rounds):
        for session, times in zip(sessions, samples, strict=True):
            started_ns = time.perf_counter_ns()
            session.run(None, {"images": picture})
            times.append((time.perf_counter_ns() - started_ns) / 1e6)
    return [statistics.median(times) for times in samples]
