"""What decoders return and results carry, one shape for each task. The field names are the wire contract."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypedDict


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


class TensorValues(TypedDict):
    """One raw output: row-major values with their shape; a decoder gives `Numbers`."""

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
