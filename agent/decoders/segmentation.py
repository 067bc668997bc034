"""Semantic segmentation: which part of the frame belongs to which class."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from agent.decoders.boxes import class_numbers, finite
from agent.decoders.masks import MaskStyle, Window, encode, on_map, positions, sample, window
from agent.decoders.options import DecoderInput, DecoderOptions, activate
from agent.errors import ConfigError, PermanentError
from agent.frame import Tensor
from agent.interfaces import Placement
from agent.result import Payload, Segment


class SegmentationOptions(DecoderOptions):
    """`[decoder] name = "segmentation"`."""

    output: str | None = None
    """Output with a number for each class and cell, or the class of each cell; the only one when left out."""
    layout: Literal["NCHW", "NHWC", "NHW"]
    """Order of its axes; `NHW` holds whole numbers, the class of each cell."""
    activation: Literal["none", "sigmoid"] = "none"
    """For a single class: `none` when its numbers are 0..1 already. Of several, the greatest wins in any case."""
    score_threshold: float = Field(default=0.5, gt=0, lt=1)
    """For a single class: from which score a cell is inside."""
    background: int | None = Field(default=None, ge=0)
    """Place of a class that is not reported, such as the background. Default: none."""
    share_min: float = Field(default=0.001, ge=0, lt=1)
    """Least part of the frame that a class must have to be reported, 0 to 1."""
    mask: MaskStyle | Literal["none"] = "rle"
    """How masks are given: `rle`, run lengths; `polygon`, outer outlines; `none`, shares alone."""
    mask_side_max: int = Field(default=128, ge=8, le=512)
    """Cells on the longer side of the grid on the frame, 8 to 512: 128 are about 1 kB of JSON a class."""


class SegmentationDecoder:
    """See `interfaces.Decoder`."""

    def __init__(self, given: DecoderInput) -> None:
        options = self._options = given.parse(SegmentationOptions)
        self._at = given.one_output(options.output)
        output = given.outputs[self._at]
        if len(output.shape) != len(options.layout):
            raise ConfigError(f"{given.place}: segmentation with layout {options.layout} got {output}")
        channels = None if options.layout == "NHW" else output.shape[options.layout.index("C")]
        self._labels = given.class_labels(channels)
        self._first_id = given.first_id

    def decode(self, outputs: list[Tensor], placement: Placement) -> Payload:
        """See `Decoder.decode`."""
        area = window((0, 0, placement.source_width, placement.source_height), self._options.mask_side_max)
        assert area is not None  # A frame has pixels: preprocessing saw to that.
        classes = self._classes(outputs[self._at][0], area, placement)
        counts = np.bincount(classes[classes >= 0], minlength=len(self._labels))
        if len(counts) > len(self._labels):
            raise PermanentError(f"model gives class {len(counts) - 1}; there are {len(self._labels)} labels")
        segments = []
        for place in np.argsort(-counts, kind="stable").tolist():
            share = counts[place] / classes.size
            if counts[place] == 0 or share < self._options.share_min or place == self._options.background:
                continue
            segment = Segment(
                label=self._labels[place], class_id=place + self._first_id, share=round(float(share), 4)
            )
            if self._options.mask != "none":
                segment["mask"] = encode((classes == place).astype(np.uint8), area, self._options.mask)
            segments.append(segment)
        return {"segments": segments}

    def _classes(self, values: npt.NDArray[Any], area: Window, placement: Placement) -> npt.NDArray[np.intp]:
        """Return the class of each cell of a grid on the frame, intp [rows, columns]; -1 for no class."""
        layout = self._options.layout
        if layout == "NHWC":
            values = values.transpose(2, 0, 1)
        elif layout == "NHW":
            values = values[np.newaxis]
        if values.ndim != 3 or values.size == 0:
            raise PermanentError(f"model output is {list(values.shape)}: is no map of classes")
        place = on_map(placement, values.shape[2], values.shape[1])
        if layout != "NHW" and len(values) == 1:
            finite("scores", values)
            scores = activate(sample(values[0], area, place), self._options.activation)
            return np.where(scores >= self._options.score_threshold, 0, -1)
        # Several classes: the cell that each point falls into, and only then the greatest of its numbers.
        x, y = positions(area, place)
        columns = np.clip(x.astype(np.intp), 0, values.shape[2] - 1)
        rows = np.clip(y.astype(np.intp), 0, values.shape[1] - 1)
        cells = values[:, rows[:, np.newaxis], columns]
        finite("scores", cells)
        if layout == "NHW":
            classes = class_numbers(cells[0])
            if classes.min() < 0:
                raise PermanentError("model output holds classes below 0")
            return classes
        return np.asarray(cells.argmax(axis=0), np.intp)
