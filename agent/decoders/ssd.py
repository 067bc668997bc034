"""Detection from a head that gives a box, or its code, and a score for each class (SSD, TF object detection)."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from agent.decoders.box_codes import BoxCodes
from agent.decoders.boxes import CANDIDATES_MAX, BoxOptions, Floats, clip, detections, in_frame, suppress, to_source
from agent.decoders.options import DecoderInput, activate
from agent.errors import ConfigError, PermanentError
from agent.frame import Tensor
from agent.interfaces import Placement
from agent.result import Payload


class SsdOptions(BoxOptions):
    """`[decoder] name = "ssd"`."""

    boxes: str
    """Output with the boxes, float [1, N, 4]: corners in 0..1 of the model's input, or codes where `anchors` are
    given."""
    scores: str
    """Output with the scores, float [1, N, classes]."""
    box_format: Literal["yxyx", "xyxy"] = "yxyx"
    """Order of the corners; of codes, whether y and height come before x and width."""
    background: bool = False
    """Whether the first column of the scores is the background; it has no label and is left out."""
    activation: Literal["none", "sigmoid", "softmax"] = "none"
    """`none` when the scores are 0..1 already."""
    anchors: tuple[tuple[tuple[float, float], ...], ...] = ()
    """Width and height of the anchors in the middle of each cell, a list for each level; the boxes are then codes
    against them. Needs `cells` (they are shares of the input) or `strides` (pixels of it)."""
    cells: tuple[tuple[int, int], ...] = ()
    """Columns and rows of each level's grid: TensorFlow's, which divides the input evenly."""
    strides: tuple[int, ...] = ()
    """Pixels a cell of each level, in the place of `cells`: RetinaFace and others."""
    variances: tuple[float, float, float, float] = (0.1, 0.1, 0.2, 0.2)
    """Factors on the codes of x, y, width and height: the inverses of TensorFlow's 10, 10, 5 and 5."""


class SsdDecoder:
    """See `interfaces.Decoder`."""

    def __init__(self, given: DecoderInput) -> None:
        self._options = given.parse(SsdOptions)
        self._boxes_at = given.output_index(self._options.boxes)
        self._scores_at = given.output_index(self._options.scores)
        boxes, scores = given.outputs[self._boxes_at], given.outputs[self._scores_at]
        if len(boxes.shape) != 3 or boxes.shape[2] not in (4, None) or len(scores.shape) != 3:
            raise ConfigError(
                f"{given.place}: ssd needs boxes [1,N,4] and scores [1,N,classes], got {boxes} and {scores}; a head "
                "that has its suppression in the graph gives scores [1,N]: that is the decoder tfod"
            )
        self._codes = self._box_codes(given.place, boxes.shape[1])
        columns = scores.shape[2]
        self._labels = given.class_labels(None if columns is None else columns - self._options.background)
        self._columns = len(self._labels) + self._options.background
        self._first_id = given.first_id

    def decode(self, outputs: list[Tensor], placement: Placement) -> Payload:
        """See `Decoder.decode`."""
        options = self._options
        boxes, scores = outputs[self._boxes_at][0], outputs[self._scores_at][0]
        if len(boxes) != len(scores) or boxes.shape[1] != 4 or scores.shape[1] != self._columns:
            raise PermanentError(f"model gives boxes {list(boxes.shape)} and scores {list(scores.shape)}")
        # max carries NaN through, so this one pass (14 us) both checks the output and ends an empty frame.
        best = scores.max(initial=0)
        if not np.isfinite(best):
            raise PermanentError("model output holds NaN or infinite scores")
        if options.activation != "none":
            scores = activate(scores, options.activation)
        elif best < options.score_threshold:
            return {"detections": []}
        if options.background:
            scores = np.ascontiguousarray(scores[:, 1:])
        # On the flat array: np.nonzero over two dimensions takes 0.5 ms for 1,917 x 90, this 0.14.
        above = np.flatnonzero(scores.ravel() >= options.score_threshold)
        if len(above) > CANDIDATES_MAX:
            above = above[np.argsort(-scores.ravel()[above], kind="stable")[:CANDIDATES_MAX]]
        anchors, classes = np.divmod(above, scores.shape[1])
        found = scores[anchors, classes]
        if not np.isfinite(boxes[anchors]).all():
            raise PermanentError("model output holds NaN or infinite boxes")
        if self._codes is None:
            corners = source_corners(boxes[anchors], options.box_format, placement)
        else:
            shares = self._codes.corners(boxes[anchors], anchors, len(boxes), placement)
            corners = source_corners(shares, "xyxy", placement)
        kept, corners = in_frame(corners, placement)
        kept = suppress(corners, found, classes, options, kept)
        shown = placement if options.normalized else None
        return {
            "detections": detections(corners[kept], found[kept], classes[kept], self._labels, self._first_id, shown)
        }

    def _box_codes(self, place: str, rows: int | None) -> BoxCodes | None:
        options = self._options
        if not options.anchors:
            if options.cells or options.strides:
                raise ConfigError(f"{place}: [decoder] anchors: are missing: cells and strides only place them")
            return None
        codes = BoxCodes(
            options.anchors,
            strides=options.strides,
            cells=options.cells,
            variances=options.variances,
            is_y_first=options.box_format == "yxyx",
            place=place,
        )
        if None not in (codes.count, rows) and codes.count != rows:
            raise ConfigError(
                f"{place}: [decoder] anchors and cells make {codes.count} boxes, the model gives {rows}"
            )
        return codes


def source_corners(boxes: npt.NDArray[Any], box_format: str, placement: Placement) -> Floats:
    """Return float32 [N, 4] x1, y1, x2, y2 in source pixels, clipped, of corners in 0..1 of the input."""
    order = [1, 0, 3, 2] if box_format == "yxyx" else [0, 1, 2, 3]
    size = np.array([placement.input_width, placement.input_height] * 2, np.float32)
    return clip(to_source(boxes[:, order].astype(np.float32) * size, placement), placement)
