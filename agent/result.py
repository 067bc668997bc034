"""What decoders return and results carry, one shape for each task. The field names are the wire contract."""

from __future__ import annotations

from typing import TypedDict

import numpy as np

from agent.frame import Content


class Detection(TypedDict):
    """One found object.

    `box` is [x1, y1, x2, y2] in pixels of the source frame, x to the right and y down, clipped to the frame.
    """

    label: str
    class_id: int
    score: float
    box: list[float]


class Classification(TypedDict):
    """One class of a picture, with its probability."""

    label: str
    class_id: int
    score: float


class TensorValues(TypedDict):
    """One raw output: row-major values with their shape."""

    name: str
    shape: list[int]
    values: list[float]


class Payload(TypedDict, total=False):
    """The task's part of a result: exactly one key, named after the task."""

    detections: list[Detection]
    classes: list[Classification]
    values: list[TensorValues]


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
