"""Decoders in plain Python, one candidate at a time, from the papers: what to compare with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from agent.decoders.options import DecoderInput
from agent.interfaces import Placement, TensorSpec


class Found(NamedTuple):
    """One detection: place of its class, score, corners in source pixels, and its row."""

    place: int
    score: float
    box: list[float]
    row: int


def place(source: tuple[int, int], model: tuple[int, int], *, letterbox: bool = True) -> Placement:
    """Return how a frame (width, height) lies in an input, centred; offsets need not be whole."""
    x, y = model[0] / source[0], model[1] / source[1]
    if letterbox:
        x = y = min(x, y)
    left, top = (model[0] - source[0] * x) / 2, (model[1] - source[1] * y) / 2
    return Placement(x, y, left, top, *model, *source)


def spec(name: str, *shape: int | None, dtype: Any = np.float32) -> TensorSpec:
    """Describe an output."""
    return TensorSpec(name, np.dtype(dtype), shape)


def given(
    options: dict[str, Any], outputs: Sequence[TensorSpec], labels: Sequence[str] | None, first_id: int = 0
) -> DecoderInput:
    """Build what a decoder is built from."""
    return DecoderInput("model.toml", options, tuple(outputs), None if labels is None else list(labels), first_id)


def undo(x: float, y: float, where: Placement) -> tuple[float, float]:
    """Return a point of the input in source pixels, held inside the frame."""
    return (
        min(max((x - where.offset_x) / where.scale_x, 0.0), float(where.source_width)),
        min(max((y - where.offset_y) / where.scale_y, 0.0), float(where.source_height)),
    )


def iou(one: Sequence[float], two: Sequence[float]) -> float:
    """Return the overlap of two corner boxes."""
    width = min(one[2], two[2]) - max(one[0], two[0])
    height = min(one[3], two[3]) - max(one[1], two[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, two)]
    return width * height / (sum(areas) - width * height)


def nms(candidates: list[Found], threshold: float, where: Placement) -> list[Found]:
    """Keep the best of each overlapping group of a class; boxes are in the input and come back in the source."""
    kept: list[Found] = []
    for one in sorted(candidates, key=lambda item: -item.score):
        (x1, y1), (x2, y2) = undo(one.box[0], one.box[1], where), undo(one.box[2], one.box[3], where)
        if x1 >= x2 or y1 >= y2:
            continue  # Nothing of it is in the frame.
        if all(other.place != one.place or iou(other.box, one.box) <= threshold for other in kept):
            kept.append(one)
    return [
        one._replace(box=[*undo(one.box[0], one.box[1], where), *undo(one.box[2], one.box[3], where)]) for one in kept
    ]


def around(x: float, y: float, width: float, height: float) -> list[float]:
    """Return the corners of a box of which the middle is known."""
    return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]


def cells(width: int, height: int, strides: Sequence[int]) -> list[tuple[int, int, int]]:
    """Return column, row and stride of each cell, a cell that is cut off at the edge included."""
    return [
        (column, row, stride)
        for stride in strides
        for row in range(math.ceil(height / stride))
        for column in range(math.ceil(width / stride))
    ]


def assert_same(
    payload: Any, expected: list[Found], labels: Sequence[str], first_id: int = 0, shares_of: Placement | None = None
) -> None:
    """Compare labels, scores and boxes in their order, and boxes in shares of a frame where it is given."""
    found = payload["detections"]
    assert [one["label"] for one in found] == [labels[one.place] for one in expected]
    for one, wanted in zip(found, expected, strict=True):
        assert one["class_id"] == wanted.place + first_id
        assert abs(one["score"] - wanted.score) < 2e-4
        assert np.allclose(one["box"], wanted.box, atol=0.12)
        if shares_of is not None:
            width, height = shares_of.source_width, shares_of.source_height
            shares = [side / size for side, size in zip(wanted.box, (width, height) * 2, strict=True)]
            assert np.allclose(one["box_normalized"], shares, atol=5e-4)


def paint(mask: Any, width: int, height: int) -> np.ndarray[Any, Any]:
    """Return a run-length mask as bool [height, width] of the frame: each pixel asks the cell that it lies in."""
    rows, columns = mask["size"]
    flat: list[int] = []
    for index, count in enumerate(mask["counts"]):
        flat += [index % 2] * count
    assert len(flat) == rows * columns
    x1, y1, x2, y2 = mask["box"]
    whole = np.zeros((height, width), bool)
    for y in range(height):
        for x in range(width):
            across, down = (x + 0.5 - x1) / (x2 - x1), (y + 0.5 - y1) / (y2 - y1)
            if 0 <= across < 1 and 0 <= down < 1:
                whole[y, x] = flat[int(across * columns) * rows + int(down * rows)]
    return whole
