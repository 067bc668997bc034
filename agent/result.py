"""What decoders return and results carry, one shape for each task. The field names are the wire contract."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NotRequired, TypedDict

import numpy as np

from agent.frame import Content


class Mask(TypedDict, total=False):
    """Where something is in the frame: outlines or run lengths, as the model's options ask.

    `polygons` are outer outlines, [x1, y1, x2, y2, ...] each, in pixels of the source frame. Or `counts` are the
    lengths of runs of outside and inside in turn, beginning with outside, column by column from the left (COCO's
    order), on a grid of `size` [rows, columns] that covers `box` evenly.
    """

    polygons: list[list[float]]
    size: list[int]
    counts: list[int]
    box: list[float]


class Keypoint(TypedDict):
    """One named point in pixels of the source frame, clipped to it."""

    name: str
    x: float
    y: float
    score: float


class Detection(TypedDict):
    """One found object.

    `box` is [x1, y1, x2, y2] in pixels of the source frame, x to the right and y down, clipped to the frame.
    `box_normalized` is the same in shares of the frame's width and height, where the model's options ask for it.
    `track_id` and `zones` come from the stream's own steps after the model.
    """

    label: str
    class_id: int
    score: float
    box: list[float]
    box_normalized: NotRequired[list[float]]
    mask: NotRequired[Mask]
    keypoints: NotRequired[list[Keypoint]]
    track_id: NotRequired[int]
    zones: NotRequired[list[str]]


class Classification(TypedDict):
    """One class of a picture, with its probability."""

    label: str
    class_id: int
    score: float


class Numbers(list[float]):
    """The values of a tensor, row-major, rounded to 6 digits, and the tensor as it was.

    Attributes:
        dtype: numpy's name, one of `core.typed_array.TAGS`.
        raw: the elements, little-endian.
    """

    __slots__ = ("dtype", "raw")

    def __init__(self, values: Iterable[float], dtype: str, raw: bytes) -> None:
        super().__init__(values)
        self.dtype = dtype
        self.raw = raw


class Segment(TypedDict):
    """Everything of one class in the frame; `share` is its part of the frame's area, 0 to 1."""

    label: str
    class_id: int
    share: float
    mask: NotRequired[Mask]


class Pose(TypedDict):
    """The keypoints of one body; `score` is their mean."""

    score: float
    keypoints: list[Keypoint]


class Text(TypedDict):
    """One line that was read; `score` is the mean probability of its characters."""

    text: str
    score: float


class Measurement(TypedDict):
    """One number that the model estimates; `unit` is empty where it has none."""

    name: str
    value: float
    unit: str


class Anomaly(TypedDict):
    """How unlike the normal a frame is, and the limit from which it counts as an anomaly."""

    score: float
    threshold: float
    is_anomaly: bool


class TensorValues(TypedDict):
    """One raw output: row-major values with their shape. Text outputs have `texts`, others `Numbers` as `values`."""

    name: str
    shape: list[int]
    values: NotRequired[list[float]]
    texts: NotRequired[list[str]]


class Payload(TypedDict, total=False):
    """The task's part of a result: exactly one key, named after the task, and what the stream's own steps add."""

    detections: list[Detection]
    classes: list[Classification]
    segments: list[Segment]
    poses: list[Pose]
    texts: list[Text]
    embeddings: list[TensorValues]
    measurements: list[Measurement]
    anomaly: Anomaly
    values: list[TensorValues]
    zones: dict[str, int]
    lines: dict[str, dict[str, int]]


class SourceSize(TypedDict):
    """Size of the source frame in pixels."""

    width: int
    height: int


class SourceWindow(TypedDict):
    """Size of the window of a signal."""

    samples: int
    channels: int


def source_size(content: Content) -> SourceSize | SourceWindow:
    """Return the size of what a frame holds, in the terms of its kind."""
    if content.dtype == np.uint8:
        return SourceSize(width=content.shape[1], height=content.shape[0])
    return SourceWindow(samples=content.shape[0], channels=content.shape[1])
