"""What detectors share: from boxes in the model's input to detections in the source frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field

from agent.decoders.options import DecoderOptions
from agent.errors import PermanentError
from agent.interfaces import Placement
from agent.result import Detection, Keypoint

Floats = npt.NDArray[np.float32]
Indexes = npt.NDArray[np.intp]

CANDIDATES_MAX = 1000
"""Boxes that go into suppression, the best ones: it compares each with all that stay, 9 ms where all 1,000 do."""


SCORE_SLACK = 0.01
"""By which a score may leave 0..1: float16 rounds, and so do integer kernels."""


class BoxOptions(DecoderOptions):
    """Options of every decoder that gives detections."""

    score_threshold: float = Field(default=0.5, gt=0, lt=1)
    """Least score that is reported."""
    iou_threshold: float = Field(default=0.5, gt=0, le=1)
    """Overlap above which the weaker of two boxes of one class is dropped; 1 keeps all."""
    detections_max: int = Field(default=100, ge=1, le=1000)
    """The most detections in a result: 100 are about 10 kB of JSON."""
    normalized: bool = False
    """Give `box_normalized` too: the box in shares of the frame's width and height."""


CLASS_MAX = 1_000_000
"""No list of labels comes near it; float32 holds every integer up to sixteen times as much."""


def finite(what: str, values: npt.NDArray[Any]) -> None:
    """Refuse numbers that are none: NaN compares false with everything, and a broken model would see an empty scene.

    Raises:
        PermanentError: one of them is NaN or infinite.
    """
    if not np.isfinite(values).all():
        raise PermanentError(f"model output holds NaN or infinite {what}")


def class_numbers(values: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    """Return numbers of classes that a model gives as floats, rounded.

    Raises:
        PermanentError: one is NaN, infinite, or so large that it is no integer any more.
    """
    finite("classes", values)
    numbers = values.astype(np.float64)  # Half precision does not know CLASS_MAX.
    if numbers.size and not -CLASS_MAX <= numbers.min() <= numbers.max() <= CLASS_MAX:
        raise PermanentError(f"model gives classes from {numbers.min():g} to {numbers.max():g}")
    rounded: npt.NDArray[np.intp] = np.rint(numbers).astype(np.intp)
    return rounded


def strongest(scores: npt.NDArray[Any], threshold: float) -> Indexes:
    """Return the places in [N] scores that reach the threshold, the best `CANDIDATES_MAX` of them, in their order."""
    above = np.flatnonzero(scores >= threshold)
    if len(above) > CANDIDATES_MAX:
        best = np.argpartition(-scores[above], CANDIDATES_MAX)[:CANDIDATES_MAX]
        above = above[np.sort(best)]
    return above


def corners_of(centers: npt.NDArray[Any]) -> Floats:
    """Return [N, 4] x1, y1, x2, y2 of [N, 4] centre x, centre y, width, height."""
    values = centers.astype(np.float32)
    half = values[:, 2:] / 2
    return np.concatenate([values[:, :2] - half, values[:, :2] + half], axis=1)


def to_source(points: npt.NDArray[Any], placement: Placement) -> Floats:
    """Return points or boxes, [..., 2 n] x, y, x, y, ... in pixels of the input, in source pixels, not clipped."""
    pairs = points.shape[-1] // 2
    offset = np.array([placement.offset_x, placement.offset_y] * pairs, np.float32)
    scale = np.array([placement.scale_x, placement.scale_y] * pairs, np.float32)
    moved: Floats = (points.astype(np.float32) - offset) / scale
    return moved


def clip(points: Floats, placement: Placement) -> Floats:
    """Return points or boxes in source pixels, held inside the frame."""
    pairs = points.shape[-1] // 2
    limit = np.array([placement.source_width, placement.source_height] * pairs, np.float32)
    return np.clip(points, np.float32(0), limit)


def suppress(
    corners: Floats, scores: npt.NDArray[Any], classes: npt.NDArray[Any], options: BoxOptions, among: Indexes
) -> Indexes:
    """Drop overlapping boxes class by class (greedy NMS); return the places of the rest by falling score.

    Args:
        corners: [N, 4] x1, y1, x2, y2.
        scores: [N].
        classes: [N] whole numbers.
        options: the threshold and how many may stay.
        among: places of those that take part.
    """
    if not len(among):
        return among
    corners, scores, classes = corners[among], scores[among], classes[among]
    sizes = np.maximum(corners[:, 2:] - corners[:, :2], 0)
    kept = cv2.dnn.NMSBoxesBatched(
        np.concatenate([corners[:, :2], sizes], axis=1).tolist(),
        scores.astype(np.float32).tolist(),
        classes.astype(np.int32).tolist(),
        # What goes in has passed the threshold in the model's own precision; rounding must not drop it here.
        0.0,
        options.iou_threshold,
    )
    indexes = np.asarray(kept, dtype=np.intp).ravel()
    indexes = indexes[np.argsort(-scores[indexes], kind="stable")]
    return among[indexes[: options.detections_max]]


def in_frame(corners: Floats, placement: Placement) -> tuple[Indexes, Floats]:
    """Return the places of the boxes of which something is in the frame, and the corners of all of them, clipped.

    Args:
        corners: [N, 4] in source pixels.
        placement: of the frame.
    """
    clipped = clip(corners, placement)
    return np.flatnonzero((clipped[:, 2:] > clipped[:, :2]).all(axis=1)), clipped


def detections(
    corners: Floats,
    scores: npt.NDArray[Any],
    classes: npt.NDArray[Any],
    labels: Sequence[str],
    first_id: int,
    placement: Placement | None = None,
) -> list[Detection]:
    """Return detections in the order given.

    Args:
        corners: [N, 4] in source pixels, clipped.
        scores: [N].
        classes: [N] places in `labels`.
        labels: names.
        first_id: `class_id` of the first name.
        placement: where `box_normalized` is wanted.

    Raises:
        PermanentError: a class without a label, or scores that are no probabilities.
    """
    if len(scores) and not -SCORE_SLACK <= float(scores.min()) <= float(scores.max()) <= 1 + SCORE_SLACK:
        raise PermanentError(
            f"model gives scores of {float(scores.min()):.4g} to {float(scores.max()):.4g}, not 0 to 1: logits need "
            "their activation, in [decoder] or in the graph"
        )
    if len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < len(labels):
        wrong = int(classes.max() if classes.max() >= len(labels) else classes.min()) + first_id
        raise PermanentError(f"model gives class {wrong}; the labels are {first_id} to {first_id + len(labels) - 1}")
    found = [
        Detection(
            label=labels[int(place)],
            class_id=int(place) + first_id,
            score=round(min(max(float(score), 0.0), 1.0), 4),
            box=[round(float(v), 1) for v in box],
        )
        for box, score, place in zip(corners, scores, classes, strict=True)
    ]
    if placement is not None:
        frame = np.array([placement.source_width, placement.source_height] * 2, np.float32)
        for one, box in zip(found, corners / frame, strict=True):
            one["box_normalized"] = [round(float(v), 5) for v in box]
    return found


def keypoints(points: Floats, scores: npt.NDArray[Any], names: Sequence[str], placement: Placement) -> list[Keypoint]:
    """Return the keypoints of one body: [K, 2] x, y in pixels of the input with [K] scores."""
    return [
        Keypoint(name=name, x=round(float(x), 1), y=round(float(y), 1), score=round(float(score), 4))
        for name, (x, y), score in zip(names, clip(to_source(points, placement), placement), scores, strict=True)
    ]
