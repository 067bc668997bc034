"""Measures the int8 model against fp32: detections, agreement and latency.

The decoder here is written for this purpose alone, in plain numpy, so that the golden
sample does not come from the code that it is there to check.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from agent.clock import SystemClock
from agent.modeltools import agreement
from agent.modeltools.agreement import Agreement, Found, interleaved_medians_ms, overlap

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
    """Pairs detections of the same category that overlap enough."""
    return agreement.match(*([Found(one.category, one.box) for one in every] for every in (reference, candidate)))


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
    """Median time of one run of each session in ms, in turns."""
    runs = [partial(session.run, None, {"images": picture}) for session in sessions]
    return interleaved_medians_ms(runs, rounds, SystemClock())
