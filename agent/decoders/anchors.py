"""Detection from fixed anchors in the middle of grid cells, with keypoints: BlazeFace and its relatives (MediaPipe).

A row of the boxes is an offset in pixels of the input from its anchor's middle to the box's middle (x, y), its width
and height, then an offset x, y for each keypoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from agent.decoders.boxes import (
    BoxOptions,
    corners_of,
    detections,
    finite,
    in_frame,
    keypoints,
    strongest,
    suppress,
    to_source,
)
from agent.decoders.options import DecoderInput, activate
from agent.decoders.yolo import grid
from agent.errors import ConfigError, PermanentError
from agent.frame import Tensor
from agent.interfaces import Placement
from agent.result import Payload


class AnchorsOptions(BoxOptions):
    """`[decoder] name = "anchors"`."""

    boxes: tuple[str, ...] = Field(min_length=1)
    """Outputs with the boxes, float [1, N, 4 + 2 * keypoints]; several are joined in this order."""
    scores: tuple[str, ...] = Field(min_length=1)
    """Outputs with the scores, float [1, N, classes], joined likewise."""
    strides: tuple[int, ...] = (8, 16)
    """Pixels a cell of each level."""
    per_cell: tuple[int, ...] = (2, 6)
    """Anchors a cell of each level. BlazeFace's front model has 2 and 6."""
    activation: Literal["none", "sigmoid"] = "sigmoid"
    """Of the scores: `none` when they are 0..1 already."""
    keypoints: tuple[str, ...] = ()
    """Names of the keypoints; those of BlazeFace are in docs/models.md."""
    iou_threshold: float = Field(default=0.3, gt=0, le=1)
    """Overlap above which the weaker of two boxes of one class is dropped. MediaPipe's own default."""


class AnchorsDecoder:
    """See `interfaces.Decoder`."""

    def __init__(self, given: DecoderInput) -> None:
        options = self._options = given.parse(AnchorsOptions)
        self._boxes_at = [given.output_index(name) for name in options.boxes]
        self._scores_at = [given.output_index(name) for name in options.scores]
        self._place = given.place
        self._values = 4 + 2 * len(options.keypoints)
        self._known: tuple[tuple[int, int], npt.NDArray[np.float32]] | None = None
        if len(options.strides) != len(options.per_cell):
            raise ConfigError(f"{given.place}: [decoder] strides and per_cell must have one number a level each")
        columns = set()
        for at in (*self._boxes_at, *self._scores_at):
            output = given.outputs[at]
            is_box = at in self._boxes_at
            if len(output.shape) != 3 or (is_box and output.shape[2] not in (self._values, None)):
                raise ConfigError(
                    f"{given.place}: anchors need boxes [1,N,{self._values}] ({len(options.keypoints)} keypoints) "
                    f"and scores [1,N,classes], got {output}"
                )
            if not is_box:
                columns.add(output.shape[2])
        self._labels = given.class_labels(columns.pop() if len(columns) == 1 else None)
        self._first_id = given.first_id

    def decode(self, outputs: list[Tensor], placement: Placement) -> Payload:
        """See `Decoder.decode`."""
        options = self._options
        scores, boxes = (self._joined(outputs, places) for places in (self._scores_at, self._boxes_at))
        if scores.shape[1] != len(self._labels) or boxes.shape[1] != self._values or len(boxes) != len(scores):
            raise PermanentError(f"model gives boxes {list(boxes.shape)} and scores {list(scores.shape)}")
        best = scores.max(axis=1)
        finite("scores", best)
        best = activate(best, options.activation)
        chosen = strongest(best, options.score_threshold)
        middles = self._middles(placement)
        if len(middles) != len(best):
            raise PermanentError(
                f"model gives {len(best)} boxes; strides {list(options.strides)} with {list(options.per_cell)} "
                f"anchors a cell make {len(middles)} of {placement.input_width}x{placement.input_height}"
            )
        rows = boxes[chosen].astype(np.float32)
        finite("boxes", rows)
        rows[:, :2] += middles[chosen]
        corners = corners_of(rows[:, :4])
        classes = scores[chosen].argmax(axis=1)
        kept, clipped = in_frame(to_source(corners, placement), placement)
        kept = suppress(corners, best[chosen], classes, options, kept)
        found = detections(
            clipped[kept],
            best[chosen][kept],
            classes[kept],
            self._labels,
            self._first_id,
            placement if options.normalized else None,
        )
        if options.keypoints:
            for one, at in zip(found, kept, strict=True):
                points = rows[at, 4:].reshape(-1, 2) + middles[chosen[at]]
                # This head gives no score for a point; that of its box holds for all.
                own = np.full(len(points), one["score"], np.float32)
                one["keypoints"] = keypoints(points, own, options.keypoints, placement)
        return {"detections": found}

    @staticmethod
    def _joined(outputs: list[Tensor], places: Sequence[int]) -> npt.NDArray[Any]:
        parts = [outputs[at][0] for at in places]
        if len({part.shape[1] for part in parts}) != 1:
            raise PermanentError(f"model outputs that belong together differ: {[list(part.shape) for part in parts]}")
        return np.concatenate(parts)

    def _middles(self, placement: Placement) -> npt.NDArray[Any]:
        """Return [N, 2] x, y of the anchors in pixels; kept, because an input's size hardly ever changes."""
        size = placement.input_width, placement.input_height
        if self._known is None or self._known[0] != size:
            levels = []
            for stride, count in zip(self._options.strides, self._options.per_cell, strict=True):
                cells, _ = grid(*size, (stride,), rounds_up=True)
                levels.append(np.repeat((cells + np.float32(0.5)) * stride, count, axis=0))
            self._known = size, np.concatenate(levels)
        return self._known[1]
