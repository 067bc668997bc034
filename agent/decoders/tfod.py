"""Detection from a head that has its suppression in the graph (TF object detection, TFLite, RT-DETR, torchvision)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from agent.decoders.boxes import BoxOptions, Floats, class_numbers, clip, detections, finite, in_frame, to_source
from agent.decoders.options import DecoderInput
from agent.decoders.ssd import source_corners
from agent.errors import ConfigError, PermanentError
from agent.frame import Tensor
from agent.interfaces import Placement
from agent.result import Payload


class TfodOptions(BoxOptions):
    """`[decoder] name = "tfod"`."""

    boxes: str
    """Output with the boxes, float [1, N, 4] or [N, 4]."""
    scores: str
    """Output with the scores, float [1, N] or [N], 0..1."""
    classes: str
    """Output with the classes, numbers [1, N] or [N]; the first label has `labels.first_id`."""
    count: str | None = None
    """Output with how many of the rows count, [1]; all of them when left out."""
    box_format: Literal["yxyx", "xyxy"] = "yxyx"
    """Order of the corners."""
    box_unit: Literal["share", "input", "source"] = "share"
    """`share`: 0..1 of the input; `input`: its pixels; `source`: pixels of the source frame (RT-DETR)."""
    iou_threshold: float = Field(default=1.0, gt=0, le=1)
    """Not used: the graph suppresses."""


class TfodDecoder:
    """See `interfaces.Decoder`."""

    def __init__(self, given: DecoderInput) -> None:
        self._options = given.parse(TfodOptions)
        names = (self._options.boxes, self._options.scores, self._options.classes)
        self._boxes_at, self._scores_at, self._classes_at = (given.output_index(name) for name in names)
        self._count_at = None if self._options.count is None else given.output_index(self._options.count)
        boxes = given.outputs[self._boxes_at]
        rest = [given.outputs[at] for at in (self._scores_at, self._classes_at)]
        if not boxes.shape or boxes.shape[-1] not in (4, None) or any(len(one.shape) > 2 for one in rest):
            raise ConfigError(
                f"{given.place}: tfod needs boxes [1,N,4], scores [1,N] and classes [1,N], got {boxes}, "
                f"{rest[0]} and {rest[1]}"
            )
        self._labels = given.class_labels(None)
        self._first_id = given.first_id

    def decode(self, outputs: list[Tensor], placement: Placement) -> Payload:
        """See `Decoder.decode`."""
        options = self._options
        boxes = outputs[self._boxes_at]
        if boxes.shape[-1] != 4:
            raise PermanentError(f"model gives boxes {list(boxes.shape)}, wanted 4 numbers each")
        boxes = boxes.reshape(-1, 4)
        scores, classes = outputs[self._scores_at].ravel(), outputs[self._classes_at].ravel()
        if not len(boxes) == len(scores) == len(classes):
            raise PermanentError(f"model gives {len(boxes)} boxes, {len(scores)} scores and {len(classes)} classes")
        if self._count_at is not None and outputs[self._count_at].size:
            count = outputs[self._count_at].ravel()[0]
            finite("counts", np.asarray(count))
            count = max(0, int(count))
            boxes, scores, classes = boxes[:count], scores[:count], classes[:count]
        finite("scores", scores)
        above = np.flatnonzero(scores >= options.score_threshold)
        boxes, scores, classes = boxes[above], scores[above], classes[above]
        finite("boxes", boxes)
        kept, corners = in_frame(self._corners(boxes, placement), placement)
        kept = kept[np.argsort(-scores[kept], kind="stable")][: options.detections_max]
        places = class_numbers(classes)[kept] - self._first_id
        shown = placement if options.normalized else None
        found = detections(corners[kept], scores[kept], places, self._labels, self._first_id, shown)
        return {"detections": found}

    def _corners(self, boxes: Floats, placement: Placement) -> Floats:
        if self._options.box_unit == "share":
            return source_corners(boxes, self._options.box_format, placement)
        ordered = boxes[:, [1, 0, 3, 2]] if self._options.box_format == "yxyx" else boxes
        ordered = ordered.astype(np.float32)
        return clip(ordered if self._options.box_unit == "source" else to_source(ordered, placement), placement)
