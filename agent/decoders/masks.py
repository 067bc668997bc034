"""Masks: from the model's grid to outlines or run lengths in the source frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from agent.decoders.boxes import Floats, finite
from agent.errors import PermanentError
from agent.interfaces import Placement
from agent.result import Mask

MaskStyle = Literal["polygon", "rle"]

RUNS_MAX = 2000
"""Of one mask: 8 kB of JSON. A mask of pure noise is given on a coarser grid until it fits."""

POINTS_MAX = 200
"""Of all outlines of one mask: 3 kB of JSON."""

Binary = npt.NDArray[np.uint8]


class Window(NamedTuple):
    """A part of the source frame and the grid on it: x1, y1, x2, y2 in source pixels, and cells."""

    x1: float
    y1: float
    x2: float
    y2: float
    columns: int
    rows: int


def window(box: Sequence[float], side_max: int) -> Window | None:
    """Return a grid of square cells on a box, a source pixel each or larger; None for an empty box."""
    x1, y1, x2, y2 = (float(v) for v in box)
    longest = max(x2 - x1, y2 - y1)
    if min(x2 - x1, y2 - y1) <= 0:
        return None
    cell = max(1.0, longest / side_max)
    return Window(x1, y1, x2, y2, max(1, round((x2 - x1) / cell)), max(1, round((y2 - y1) / cell)))


def positions(area: Window, placement: Placement) -> tuple[Floats, Floats]:
    """Return where the centres of a window's cells lie in the map that `placement` is for.

    A map's cell i covers i to i + 1, so that its centre is at i + 0.5.

    Returns:
        [columns] and [rows].
    """
    x = area.x1 + (np.arange(area.columns) + 0.5) * (area.x2 - area.x1) / area.columns
    y = area.y1 + (np.arange(area.rows) + 0.5) * (area.y2 - area.y1) / area.rows
    x, y = x * placement.scale_x + placement.offset_x, y * placement.scale_y + placement.offset_y
    return x.astype(np.float32), y.astype(np.float32)


def sample(values: npt.NDArray[Any], area: Window, placement: Placement, offset: tuple[int, int] = (0, 0)) -> Floats:
    """Return [rows, columns] of a map, linear between its cells, on a window of the source frame.

    Args:
        values: float [h, w], the map or a part of it.
        area: in the source frame.
        placement: how the frame lies in the whole map, see `on_map`.
        offset: column and row of the part's first cell.
    """
    x, y = positions(area, placement)
    grid_x, grid_y = np.meshgrid(x - np.float32(0.5 + offset[0]), y - np.float32(0.5 + offset[1]))
    sampled = cv2.remap(values.astype(np.float32), grid_x, grid_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(sampled, np.float32)


def on_map(placement: Placement, width: int, height: int) -> Placement:
    """Return the placement of the frame in a map of another size that covers the same input."""
    x, y = width / placement.input_width, height / placement.input_height
    return Placement(
        scale_x=placement.scale_x * x,
        scale_y=placement.scale_y * y,
        offset_x=placement.offset_x * x,
        offset_y=placement.offset_y * y,
        input_width=width,
        input_height=height,
        source_width=placement.source_width,
        source_height=placement.source_height,
    )


def instance_masks(
    prototypes: npt.NDArray[Any],
    coefficients: Floats,
    boxes: Floats,
    placement: Placement,
    style: MaskStyle,
    side_max: int,
) -> list[Mask]:
    """Return the mask of each box: inside where the sum of prototypes by coefficients is above 0 (YOLACT).

    Only what lies under a box is summed, so that the cost follows the boxes and not the frame.

    Args:
        prototypes: [M, h, w].
        coefficients: [N, M].
        boxes: [N, 4] in source pixels, clipped.
        placement: how the frame lies in the input.
        style: what a mask is given as.
        side_max: cells on the longer side of its grid.
    """
    height, width = prototypes.shape[1:]
    if len(prototypes) != coefficients.shape[1] or not prototypes.size:
        raise PermanentError(
            f"model gives prototypes {list(prototypes.shape)} for {coefficients.shape[1]} coefficients a box"
        )
    place = on_map(placement, width, height)
    masks = []
    for box, own in zip(boxes, coefficients, strict=True):
        area = window(box, side_max)
        if area is None:
            masks.append(_empty(style, box))
            continue
        x1, x2 = (box[[0, 2]] * place.scale_x + place.offset_x).tolist()
        y1, y2 = (box[[1, 3]] * place.scale_y + place.offset_y).tolist()
        # One cell more on each side, for what lies between two.
        left, top = max(0, min(width - 1, int(x1) - 1)), max(0, min(height - 1, int(y1) - 1))
        part = prototypes[:, top : max(top + 1, int(y2) + 2), left : max(left + 1, int(x2) + 2)].astype(np.float32)
        logits = np.tensordot(own, part, axes=1)
        finite("masks", logits)
        masks.append(encode((sample(logits, area, place, (left, top)) > 0).astype(np.uint8), area, style))
    return masks


def encode(inside: Binary, area: Window, style: MaskStyle) -> Mask:
    """Return a mask of uint8 [rows, columns] of 0 and 1 on its window."""
    return _outlines(inside, area) if style == "polygon" else _runs(inside, area)


def run_lengths(inside: Binary) -> list[int]:
    """Return the lengths of runs of 0 and 1 in turn, beginning with 0, column by column (COCO's order)."""
    flat = inside.ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    edges = np.concatenate([[0], changes, [len(flat)]])
    lengths: list[int] = np.diff(edges).tolist()
    return [0, *lengths] if flat[0] else lengths


def _runs(inside: Binary, area: Window) -> Mask:
    counts = run_lengths(inside)
    while len(counts) > RUNS_MAX:
        inside = inside[::2, ::2]
        counts = run_lengths(inside)
    rows, columns = inside.shape
    return Mask(size=[rows, columns], counts=counts, box=[round(v, 1) for v in area[:4]])


def _outlines(inside: Binary, area: Window) -> Mask:
    found, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    outlines = sorted(found, key=len, reverse=True)
    tolerance = 0.5  # Cells: a corner that is nearer to the line than half of one is the grid's, not the object's.
    simple = [cv2.approxPolyDP(outline, tolerance, closed=True) for outline in outlines]
    while sum(map(len, simple)) > POINTS_MAX:
        tolerance *= 2
        simple = [cv2.approxPolyDP(outline, tolerance, closed=True) for outline in outlines]
        simple = [outline for outline in simple if len(outline) > 2]
    cell = np.array([(area.x2 - area.x1) / area.columns, (area.y2 - area.y1) / area.rows])
    # An outline goes through the centres of the cells at the edge.
    moved = [(outline[:, 0] + 0.5) * cell + (area.x1, area.y1) for outline in simple if len(outline) > 2]
    return Mask(polygons=[[round(float(v), 1) for v in points.ravel()] for points in moved])


def _empty(style: MaskStyle, box: Floats) -> Mask:
    if style == "polygon":
        return Mask(polygons=[])
    return Mask(size=[1, 1], counts=[1], box=[round(float(v), 1) for v in box])
