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
        self._counts = {line.name: {"left": 0, "right": 0} for line in lines}
        self._before: dict[int, list[Floats]] = {}

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Crossings by line and by the side that they ended on."""
        return {name: dict(sides) for name, sides in self._counts.items()}

    def reset(self) -> None:
        """Forget where everything was; the counts stay."""
        self._before = {}

    def move(self, found: Sequence[Detection], boxes: Floats) -> list[Mapping[str, Any]]:
        """Compare with the frame before; return the crossings of lines that send events.

        A track that is unseen for a frame is remembered for as long as it is not seen elsewhere; the tracker bounds
        how many there are.
        """
        crossings: list[Mapping[str, Any]] = []
        points = [anchors_of(boxes, line.anchor) for line in self._lines]
        for place, one in enumerate(found):
            number = one.get("track_id", 0)
            if number == 0:
                continue
            now = [own[place] for own in points]
            before, self._before[number] = self._before.pop(number, now), now
            for line, start, end in zip(self._lines, before, now, strict=True):
                side = crossed(line, start, end) if not line.labels or one["label"] in line.labels else None
                if side is None:
                    continue
                self._counts[line.name][side] += 1
                if line.events:
                    crossing = {"line": line.name, "to": side, "label": one["label"], "track_id": number}
                    crossings.append(crossing)
        while len(self._before) > BEFORE_MAX:
            del self._before[next(iter(self._before))]
        return crossings


def crossed(line: LineSettings, start: Floats, end: Floats) -> str | None:
    """Return the side, seen from the line's start, on which a step over the line ended; None for no crossing.

    A point on the line counts as left of it, so that a step that ends there and the next one cross it once.
    """
    a, b = np.array(line.start), np.array(line.end)
    sides = _cross(b - a, start - a) > 0, _cross(b - a, end - a) > 0
    if sides[0] == sides[1]:
        return None
    step = end - start
    ends = _cross(step, a - start), _cross(step, b - start)
    if ends[0] * ends[1] > 0:
        return None
    # y points down, so that a positive product is on the right.
    return "right" if sides[1] else "left"


def _cross(one: Floats, other: Floats) -> float:
    return float(one[0] * other[1] - one[1] * other[0])
