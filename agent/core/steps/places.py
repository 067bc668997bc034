"""Zones and lines: where things are in the frame, and what they cross."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from agent.result import Detection
from agent.settings.steps import LineSettings, ZoneSettings

Floats = npt.NDArray[np.float64]

BEFORE_MAX = 1000
"""Tracks whose last place is kept, the least recently seen go first: as many as a tracker can have."""


def anchors_of(boxes: Floats, anchor: str) -> Floats:
    """Return [N, 2] of [N, 4] boxes: the middle of the lower side (`foot`), or the middle."""
    x = (boxes[:, 0] + boxes[:, 2]) / 2
    return np.stack([x, boxes[:, 3] if anchor == "foot" else (boxes[:, 1] + boxes[:, 3]) / 2], axis=1)


def inside(points: Floats, polygon: Floats) -> npt.NDArray[np.bool_]:
    """Return which of [N, 2] points lie in a polygon [M, 2]: those of which a ray to the right leaves it.

    It crosses an odd number of edges. An edge takes its upper end and not its lower one, so that polygons that share
    an edge share no point.
    """
    x, y = points[:, :1], points[:, 1:]
    (x1, y1), (x2, y2) = polygon.T, np.roll(polygon, -1, axis=0).T
    spans = (y1 <= y) != (y2 <= y)
    with np.errstate(divide="ignore", invalid="ignore"):
        at = x1 + (y - y1) * (x2 - x1) / (y2 - y1)
    return np.asarray((spans & (x < at)).sum(axis=1) % 2 == 1)


class Zones:
    """Which detections are in which zones; holds no state."""

    def __init__(self, zones: Sequence[ZoneSettings]) -> None:
        self._zones = [(zone, np.array(zone.polygon, np.float64)) for zone in zones]

    def mark(self, found: Sequence[Detection], boxes: Floats) -> dict[str, int]:
        """Write the names of its zones into each detection; return how many each zone holds.

        Args:
            found: detections.
            boxes: theirs, [N, 4] in shares of the frame.
        """
        counts = {}
        for one in found:
            one["zones"] = []
        for zone, polygon in self._zones:
            is_in = inside(anchors_of(boxes, zone.anchor), polygon)
            members = [
                one
                for one, is_member in zip(found, is_in.tolist(), strict=True)
                if is_member and (not zone.labels or one["label"] in zone.labels)
            ]
            for one in members:
                one["zones"].append(zone.name)
            counts[zone.name] = len(members)
        return counts


class Lines:
    """Counts what crosses each line since the start. Not thread-safe."""

    def __init__(self, lines: Sequence[LineSettings]) -> None:
        self._lines = lines
        self._starts = np.array([line.start for line in lines], np.float64)
        self._ends = np.array([line.end for line in lines], np.float64)
        self._counts = {line.name: {"left": 0, "right": 0} for line in lines}
        self._before: dict[int, Floats] = {}

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Crossings by line and by the side that they ended on."""
        return {name: dict(sides) for name, sides in self._counts.items()}

    def reset(self) -> None:
        """Forget where everything was; the counts stay."""
        self._before = {}

    def move(self, found: Sequence[Detection], boxes: Floats) -> list[Mapping[str, Any]]:
        """Compare with where each track was seen last; return the crossings of lines that send events."""
        tracked = [place for place, one in enumerate(found) if "track_id" in one]
        if not tracked:
            return []
        numbers = [found[place]["track_id"] for place in tracked]
        own = boxes[tracked]
        now = np.stack([anchors_of(own, line.anchor) for line in self._lines], axis=1)
        before = np.stack([self._before.pop(number, point) for number, point in zip(numbers, now, strict=True)])
        self._before.update(zip(numbers, now, strict=True))
        while len(self._before) > BEFORE_MAX:
            del self._before[next(iter(self._before))]
        crossings: list[Mapping[str, Any]] = []
        sides = crossed(self._starts, self._ends, before, now)
        for row, column in np.argwhere(sides).tolist():
            line, one = self._lines[column], found[tracked[row]]
            if line.labels and one["label"] not in line.labels:
                continue
            side = "right" if sides[row, column] > 0 else "left"
            self._counts[line.name][side] += 1
            if line.events:
                crossing = {"line": line.name, "to": side, "label": one["label"], "track_id": numbers[row]}
                crossings.append(crossing)
        return crossings


def crossed(starts: Floats, ends: Floats, before: Floats, now: Floats) -> npt.NDArray[np.int8]:
    """Return [N, L]: the side, seen from a line's start, on which a step over it ended; 1 right, -1 left, 0 none.

    A point on the line counts as left of it, so that a step that ends there and the next one cross it once.

    Args:
        starts: [L, 2] of the lines.
        ends: [L, 2] of the lines.
        before: [N, L, 2] where the steps began.
        now: [N, L, 2] where they ended.
    """
    # y points down, so that a positive product is on the right.
    was_right, is_right = (_cross(ends - starts, points - starts) > 0 for points in (before, now))
    steps = now - before
    is_between = _cross(steps, starts - before) * _cross(steps, ends - before) <= 0
    return np.where((was_right != is_right) & is_between, np.where(is_right, 1, -1), 0).astype(np.int8)


def _cross(one: Floats, other: Floats) -> Floats:
    return np.asarray(one[..., 0] * other[..., 1] - one[..., 1] * other[..., 0])
