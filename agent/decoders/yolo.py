"""YOLO heads: boxes, and with them masks or keypoints (Ultralytics v5 to v12, v10 and other end-to-end ones, YOLOX).

The heads as their authors export them:

| head | output | a row |
|---|---|---|
| `v8` | [1, 4 + classes + more, anchors] or turned | centre x, y, width, height, a score a class (v8, v9, v11, v12) |
| `v5` | [1, anchors, 5 + classes + more] | the same with the chance of an object before the classes (v5, v7) |
| `end_to_end` | [1, N, 6 + more] | x1, y1, x2, y2, score, class; suppression is done (v10, `nms=True`) |
| `yolox` | [1, anchors, 5 + classes] | as v5, in cells of a grid |

In a grid, centre = (value + cell) * stride and side = exp(value) * stride. `more` is 32 mask coefficients, or x, y
(and a score) for each keypoint.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from agent.decoders.boxes import (
    BoxOptions,
    Floats,
    class_numbers,
    corners_of,
    detections,
    finite,
    in_frame,
    keypoints,
    strongest,
    suppress,
    to_source,
)
from agent.decoders.masks import MaskStyle, instance_masks
from agent.decoders.options import DecoderInput
from agent.errors import ConfigError, PermanentError
from agent.frame import Tensor
from agent.interfaces import Placement, TensorSpec
from agent.result import Payload

BEFORE_CLASSES = {"v8": 4, "v5": 5, "yolox": 5, "end_to_end": 6}
"""Values in a row before the classes, or before `more` where a row names its one class."""


class YoloOptions(BoxOptions):
    """`[decoder] name = "yolo"`."""

    head: Literal["v8", "v5", "end_to_end", "yolox"]
    """How the output is to be read; the table is in docs/models.md."""
    output: str | None = None
    """Output with the boxes; the only one when left out."""
    score_threshold: float = Field(default=0.25, gt=0, lt=1)
    """Least score that is reported. The families' own default."""
    iou_threshold: float = Field(default=0.7, gt=0, le=1)
    """Overlap above which the weaker of two boxes of one class is dropped; not for `end_to_end`."""
    box_unit: Literal["pixels", "share"] = "pixels"
    """`pixels` of the model's input, or `share`: 0..1 of it."""
    strides: tuple[int, ...] = (8, 16, 32)
    """Pixels a grid cell of each level, for `yolox`."""
    prototypes: str | None = None
    """Output with the mask prototypes, float [1, M, h, w]; every row then ends with M coefficients."""
    mask: MaskStyle = "polygon"
    """How masks are given: `polygon` outlines or `rle`, run lengths."""
    mask_side_max: int = Field(default=64, ge=8, le=512)
    """Cells on the longer side of a mask's grid, 8 to 512."""
    keypoints: tuple[str, ...] = ()
    """Names of the keypoints that every row ends with; none when empty."""
    keypoint_values: Literal[2, 3] = 3
    """Numbers a keypoint: x, y, and a score with 3."""


class Rows(NamedTuple):
    """The rows that reach the threshold: [N, 4] corners in input pixels, [N] scores, [N] classes, [N, more]."""

    corners: Floats
    scores: npt.NDArray[Any]
    classes: npt.NDArray[Any]
    more: npt.NDArray[Any]


class YoloDecoder:
    """See `interfaces.Decoder`."""

    def __init__(self, given: DecoderInput) -> None:
        self._options = given.parse(YoloOptions)
        self._at = given.one_output(self._options.output)
        self._protos_at = self._prototypes_at(given)
        self._labels = given.class_labels(None)
        self._first_id = given.first_id
        masks = 0 if self._protos_at is None else given.outputs[self._protos_at].shape[1] or 32
        self._more = masks + len(self._options.keypoints) * self._options.keypoint_values
        head = self._options.head
        self._classes = 0 if head == "end_to_end" else len(self._labels)
        self._width = BEFORE_CLASSES[head] + self._classes + self._more
        self._check(given.place, given.outputs[self._at])

    def decode(self, outputs: list[Tensor], placement: Placement) -> Payload:
        """See `Decoder.decode`."""
        options = self._options
        rows = self._rows(outputs[self._at], placement)
        kept, clipped = in_frame(to_source(rows.corners, placement), placement)
        if options.head == "end_to_end":
            kept = kept[np.argsort(-rows.scores[kept], kind="stable")][: options.detections_max]
        else:
            kept = suppress(rows.corners, rows.scores, rows.classes, options, kept)
        corners = clipped[kept]
        found = detections(
            corners,
            rows.scores[kept],
            rows.classes[kept],
            self._labels,
            self._first_id,
            placement if options.normalized else None,
        )
        more = rows.more[kept].astype(np.float32)
        finite("masks or keypoints", more)
        if self._protos_at is not None:
            masks = instance_masks(
                outputs[self._protos_at][0], more, corners, placement, options.mask, options.mask_side_max
            )
            for one, mask in zip(found, masks, strict=True):
                one["mask"] = mask
        if options.keypoints:
            for one, values in zip(
                found, more.reshape(-1, len(options.keypoints), options.keypoint_values), strict=True
            ):
                # A head without scores for its points says that all of them are seen.
                scores = values[:, 2] if options.keypoint_values == 3 else np.ones(len(values), np.float32)
                points = self._pixels(values[:, :2], placement)
                one["keypoints"] = keypoints(points, scores, options.keypoints, placement)
        return {"detections": found}

    def _rows(self, output: Tensor, placement: Placement) -> Rows:
        head, threshold = self._options.head, self._options.score_threshold
        # [values, anchors] for every head; a turned one is only looked at along its other axis.
        table = output[0] if head == "v8" and output.shape[1] == self._width else output[0].T
        if table.shape[0] != self._width:
            raise PermanentError(f"model output is {list(output.shape)}, wanted {self._width} values a box ({head})")
        start = BEFORE_CLASSES[head]
        if head == "v8":
            best = table[start : start + self._classes].max(axis=0)
            finite("scores", best)
            chosen = strongest(best, threshold)
            scores = best[chosen]
        else:
            chance = table[4]
            finite("scores", chance)
            # No class can have a score above the chance of an object.
            chosen = np.flatnonzero(chance >= threshold)
            scores = chance[chosen].astype(np.float32)
        if head == "end_to_end":
            classes = class_numbers(table[5, chosen])
        else:
            of_classes = table[start : start + self._classes, chosen]
            finite("scores", of_classes)
            classes = of_classes.argmax(axis=0)
            if head != "v8":
                scores = scores * of_classes[classes, np.arange(len(chosen))]
                some = strongest(scores, threshold)
                chosen, scores, classes = chosen[some], scores[some], classes[some]
        boxes = table[:4, chosen].T
        finite("boxes", boxes)
        if head == "yolox":
            boxes = self._off_grid(boxes, chosen, table.shape[1], placement)
        corners = boxes.astype(np.float32) if head == "end_to_end" else corners_of(boxes)
        more = table[self._width - self._more :, chosen].T
        return Rows(self._pixels(corners, placement), scores, classes, more)

    def _pixels(self, points: npt.NDArray[Any], placement: Placement) -> npt.NDArray[Any]:
        if self._options.box_unit == "pixels":
            return points
        pairs = points.shape[-1] // 2
        return points * np.array([placement.input_width, placement.input_height] * pairs, np.float32)

    def _off_grid(
        self, boxes: npt.NDArray[Any], chosen: npt.NDArray[np.intp], anchors: int, placement: Placement
    ) -> npt.NDArray[np.float32]:
        """Return centres and sides in pixels (YOLOX, `demo_postprocess`)."""
        cells, strides = grid(placement.input_width, placement.input_height, self._options.strides)
        if len(cells) != anchors:
            raise PermanentError(
                f"model gives {anchors} boxes; strides {list(self._options.strides)} make {len(cells)} cells of "
                f"{placement.input_width}x{placement.input_height}"
            )
        stride = strides[chosen, np.newaxis]
        centers = (boxes[:, :2].astype(np.float32) + cells[chosen]) * stride
        # e^16 cells are wider than any picture; without the bound a wild value becomes infinite.
        sides = np.exp(np.minimum(boxes[:, 2:].astype(np.float32), 16)) * stride
        return np.concatenate([centers, sides], axis=1)

    def _prototypes_at(self, given: DecoderInput) -> int | None:
        name = self._options.prototypes
        if name is None:
            return None
        at = given.output_index(name)
        if len(given.outputs[at].shape) != 4:
            raise ConfigError(f"{given.place}: [decoder] prototypes need [1,M,h,w], got {given.outputs[at]}")
        return at

    def _check(self, place: str, output: TensorSpec) -> None:
        """Refuse an output that cannot hold such rows, and labels of another length."""
        sizes = output.shape[1:]
        head, more = self._options.head, self._more
        if len(sizes) != 2:
            raise ConfigError(f"{place}: yolo needs one output with 3 dimensions, got {output}")
        fits = self._width in sizes or None in sizes if head == "v8" else sizes[1] in (self._width, None)
        if not fits:
            kind = "" if head == "end_to_end" else f" and {len(self._labels)} labels"
            raise ConfigError(
                f"{place}: a {head} head with {more} values for masks or keypoints{kind} has {self._width} values a "
                f"box, got {output}: correct head, labels, prototypes or keypoints"
            )


def grid(
    width: int, height: int, strides: tuple[int, ...], *, rounds_up: bool = False
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return the cells of every level, level by level and row by row: [N, 2] column and row, and [N] strides.

    Args:
        width: of the input, pixels.
        height: of the input, pixels.
        strides: pixels a cell of each level.
        rounds_up: whether a cell that is cut off at the edge counts.
    """
    cells, sizes = [], []
    for stride in strides:
        columns, rows = (-(-side // stride) if rounds_up else side // stride for side in (width, height))
        x, y = np.meshgrid(np.arange(columns, dtype=np.float32), np.arange(rows, dtype=np.float32))
        cells.append(np.stack([x.ravel(), y.ravel()], axis=1))
        sizes.append(np.full(columns * rows, stride, np.float32))
    return np.concatenate(cells), np.concatenate(sizes)
