"""The anchors of TensorFlow's SSD networks, which their graphs do not hold (`ssd_anchor_generator`, its defaults).

Six grids; the scale of a level rises evenly from 0.2 to 0.95 of the input. The first level has three anchors a cell,
the others one for each of five proportions and one more of proportion 1, of the mean scale of its level and the next.
"""

from __future__ import annotations

from itertools import pairwise
from math import ceil, sqrt

STRIDES = (16, 32, 64, 128, 256, 512)
"""Of MobileNet's six maps, each half of the one before, rounded up: 19, 10, 5, 3, 2 and 1 of 300 pixels."""
SCALE_MIN, SCALE_MAX = 0.2, 0.95
SCALE_FIRST = 0.1
"""Of the square anchor of the first level."""
PROPORTIONS = (1.0, 2.0, 0.5, 3.0, 0.3333)
"""Width by height, to the digit as the published networks were trained."""


def tensorflow_cells(width: int, height: int) -> list[list[int]]:
    """Return columns and rows of each level for an input of that size, pixels."""
    return [[ceil(width / stride), ceil(height / stride)] for stride in STRIDES]


def tensorflow_anchors(width: int, height: int) -> list[list[list[float]]]:
    """Return width and height of the anchors of each level, in shares of an input of that size, pixels.

    They are squares in pixels where their proportion is 1: of the shorter side.
    """
    steps = len(STRIDES) - 1
    scales = [SCALE_MIN + (SCALE_MAX - SCALE_MIN) * step / steps for step in range(len(STRIDES))] + [1.0]
    levels = [[(SCALE_FIRST, 1.0), (scales[0], 2.0), (scales[0], 0.5)]]
    for scale, following in pairwise(scales[1:]):
        levels.append([*((scale, proportion) for proportion in PROPORTIONS), (sqrt(scale * following), 1.0)])
    shorter = min(width, height)
    return [
        [
            [round(scale * sqrt(part) * shorter / width, 7), round(scale / sqrt(part) * shorter / height, 7)]
            for scale, part in level
        ]
        for level in levels
    ]
