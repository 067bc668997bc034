"""Boxes as codes against anchors, as an SSD gives them whose graph ends before they are undone.

middle = anchor's middle + code * variance * anchor's side; side = anchor's side * exp(code * variance), axis by axis
(Liu et al., SSD: Single Shot MultiBox Detector, 2016). TensorFlow's box coder has the inverses, 10 and 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from agent.decoders.boxes import Floats, Indexes, corners_of
from agent.errors import ConfigError, PermanentError
from agent.interfaces import Placement

LEVELS_MAX = 16
"""Grids of one network: 3 to 7 in what is published."""
SIZES_MAX = 64
"""Anchors of one cell: 2 to 12 in what is published."""
CELLS_MAX = 1024
"""Columns or rows of one grid: a stride of 8 on 8,192 pixels."""

GROWTH_MAX = 16.0
"""e^16 anchors are wider than any picture; without the bound a wild code becomes infinite."""
MOVE_MAX = 1e6
"""Sides of its anchor that a middle may be away, for the same reason."""

Sizes = Sequence[Sequence[tuple[float, float]]]


class BoxCodes:
    """The anchors of one network. Inference thread.

    Args:
        sizes: width and height of the anchors in the middle of each cell, level by level: in pixels of the input with
            `strides`, in shares of it with `cells`.
        strides: pixels a cell of each level; a cell that is cut off at the edge counts.
        cells: columns and rows of each level, in the place of `strides`.
        variances: of x, y, width and height.
        is_y_first: whether a row is y, x, height, width.
        place: names the manifest in errors.

    Raises:
        ConfigError: not one grid a level, or a level without anchors or with too many.
    """

    def __init__(
        self,
        sizes: Sizes,
        *,
        strides: Sequence[int],
        cells: Sequence[tuple[int, int]],
        variances: tuple[float, float, float, float],
        is_y_first: bool,
        place: str,
    ) -> None:
        if bool(strides) == bool(cells) or len(sizes) != len(strides or cells):
            raise ConfigError(
                f"{place}: [decoder] anchors need strides or cells, one for each of {len(sizes)} levels"
            )
        if len(sizes) > LEVELS_MAX or not all(1 <= len(level) <= SIZES_MAX for level in sizes):
            raise ConfigError(
                f"{place}: [decoder] anchors: {LEVELS_MAX} levels at most, each with 1 to {SIZES_MAX} widths and "
                "heights"
            )
        sides = [side for pair in cells for side in pair] or list(strides)
        if not all(1 <= side <= CELLS_MAX for side in sides) or not all(v > 0 for v in np.concatenate(sizes).ravel()):
            raise ConfigError(
                f"{place}: [decoder] anchors: strides and cells are 1 to {CELLS_MAX}, widths and heights above 0"
            )
        self._sizes, self._strides, self._cells = sizes, strides, cells
        self._order = [1, 0, 3, 2] if is_y_first else [0, 1, 2, 3]
        self._variances = np.asarray(variances, np.float32)
        self._known: tuple[tuple[int, int], Floats] | None = None
        self.count = sum(x * y * len(level) for (x, y), level in zip(cells, sizes, strict=True)) if cells else None
        """Of all anchors; None where it follows from the size of the input."""

    def corners(self, codes: npt.NDArray[Any], chosen: Indexes, total: int, placement: Placement) -> Floats:
        """Return the boxes of some rows, float32 [N, 4] x1, y1, x2, y2 in shares of the input.

        Args:
            codes: [N, 4], the rows that were chosen.
            chosen: [N] their places among all.
            total: rows that the model gives.
            placement: tells the size of the input.

        Raises:
            PermanentError: the grids make another number of anchors than `total`.
        """
        anchors = self._anchors(placement)
        if len(anchors) != total:
            raise PermanentError(
                f"model gives {total} boxes; the anchors are {len(anchors)} on "
                f"{placement.input_width}x{placement.input_height}"
            )
        own, moves = anchors[chosen], codes[:, self._order].astype(np.float32) * self._variances
        middles = own[:, :2] + np.clip(moves[:, :2], -MOVE_MAX, MOVE_MAX) * own[:, 2:]
        sides = own[:, 2:] * np.exp(np.minimum(moves[:, 2:], np.float32(GROWTH_MAX)))
        return corners_of(np.concatenate([middles, sides], axis=1))

    def _anchors(self, placement: Placement) -> Floats:
        """Return [N, 4] middle x, y, width and height in shares; kept, as an input's size hardly ever changes."""
        size = placement.input_width, placement.input_height
        if self._known is None or self._known[0] != size:
            levels = [self._level(number, np.asarray(size, np.float64)) for number in range(len(self._sizes))]
            self._known = size, np.concatenate(levels).astype(np.float32)
        return self._known[1]

    def _level(self, number: int, size: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the anchors of one level, row by row of its cells, the sizes of a cell in their order."""
        own = np.asarray(self._sizes[number], np.float64)
        if self._cells:
            columns, rows = self._cells[number]
            step = 1 / np.array([columns, rows])
        else:
            step = self._strides[number] / size
            columns, rows = np.ceil(1 / step - 1e-9).astype(int)
            own = own / size
        x, y = np.meshgrid(np.arange(columns), np.arange(rows))
        middles = (np.stack([x.ravel(), y.ravel()], axis=1) + 0.5) * step
        return np.concatenate([np.repeat(middles, len(own), axis=0), np.tile(own, (len(middles), 1))], axis=1)
