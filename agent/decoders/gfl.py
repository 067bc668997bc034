"""NanoDet and other heads of generalised focal loss: each side of a box is a distribution over whole cells.

Li et al., Generalized Focal Loss (2020). A row is a score a class, then for left, top, right and bottom the logits of
the distances 0, 1, ..., reg_max in cells; their mean is the distance from the row's point.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from agent.decoders.boxes import BoxOptions, Floats, detections, finite, in_frame, strongest, suppress, to_source
from agent.decoders.options import DecoderInput, activate
from agent.decoders.yolo import grid
from agent.errors import ConfigError, PermanentError
from agent.frame import Tensor
from agent.interfaces import Placement
from agent.result import Payload


class GflOptions(BoxOptions):
    """`[decoder] name = "gfl"`."""

    output: str | None = None
    """Output, float [1, N, classes + 4 * (reg_max + 1)]; the only one when left out."""
    strides: tuple[int, ...] = (8, 16, 32, 64)
    """Pixels a cell of each level. NanoDet-Plus has these four, NanoDet has 8, 16 and 32."""
    reg_max: int = Field(default=7, ge=1, le=32)
    """Largest distance, cells."""
    point: float = Field(default=0.0, ge=0, le=1)
    """Where in its cell a row's point lies: 0 at its corner (NanoDet-Plus), 0.5 in its middle (NanoDet)."""
    activation: Literal["none", "sigmoid"] = "none"
    """Of the scores: `none` when they are 0..1 already, as NanoDet exports them."""
    score_threshold: float = Field(default=0.35, gt=0, lt=1)
    """Least score that is reported. NanoDet's own default."""
    iou_threshold: float = Field(default=0.6, gt=0, le=1)
    """Overlap above which the weaker of two boxes of one class is dropped."""


class GflDecoder:
    """See `interfaces.Decoder`."""

    def __init__(self, given: DecoderInput) -> None:
        self._options = given.parse(GflOptions)
        self._at = given.one_output(self._options.output)
        output = given.outputs[self._at]
        self._bins = self._options.reg_max + 1
        columns = output.shape[2] if len(output.shape) == 3 else -1
        if columns is not None and columns <= 4 * self._bins:
            raise ConfigError(
                f"{given.place}: gfl needs [1,N,classes + {4 * self._bins}] with reg_max = {self._bins - 1}, "
                f"got {output}"
            )
        self._labels = given.class_labels(None if columns is None else columns - 4 * self._bins)
        self._first_id = given.first_id

    def decode(self, outputs: list[Tensor], placement: Placement) -> Payload:
        """See `Decoder.decode`."""
        options, table = self._options, outputs[self._at][0]
        if table.ndim != 2 or table.shape[1] != len(self._labels) + 4 * self._bins:
            raise PermanentError(f"model output is {list(outputs[self._at].shape)}: does not fit {self._bins} bins")
        scores = table[:, : len(self._labels)]
        best = scores.max(axis=1)
        finite("scores", best)
        if options.activation != "none":
            best = activate(best, options.activation)
        chosen = strongest(best, options.score_threshold)
        classes = scores[chosen].argmax(axis=1)
        corners = self._corners(table[chosen, len(self._labels) :], chosen, len(table), placement)
        kept, clipped = in_frame(to_source(corners, placement), placement)
        kept = suppress(corners, best[chosen], classes, options, kept)
        return {
            "detections": detections(
                clipped[kept],
                best[chosen][kept],
                classes[kept],
                self._labels,
                self._first_id,
                placement if options.normalized else None,
            )
        }

    def _corners(
        self, logits: npt.NDArray[Any], chosen: npt.NDArray[np.intp], rows: int, placement: Placement
    ) -> Floats:
        """Return [N, 4] corners in pixels of the input."""
        cells, strides = grid(placement.input_width, placement.input_height, self._options.strides, rounds_up=True)
        if len(cells) != rows:
            raise PermanentError(
                f"model gives {rows} boxes; strides {list(self._options.strides)} make {len(cells)} cells of "
                f"{placement.input_width}x{placement.input_height}"
            )
        finite("boxes", logits)
        shares = activate(logits.reshape(-1, 4, self._bins), "softmax")
        stride = strides[chosen, np.newaxis]
        distances = shares @ np.arange(self._bins, dtype=np.float32) * stride
        points = (cells[chosen] + np.float32(self._options.point)) * stride
        return np.concatenate([points - distances[:, :2], points + distances[:, 2:]], axis=1)
