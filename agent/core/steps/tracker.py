"""A tracker in the manner of SORT (Bewley et al., 2016): overlap with where a Kalman filter expects each thing.

Boxes move with constant velocity. Middle and sides are four independent filters of position and velocity, with the
noise of DeepSORT (Wojke et al., 2017): 1/20 of the box's height in position and 1/160 a frame in velocity, here a
second of 30 frames, because frames are dropped on purpose and the time between two differs. Pairs are taken greedily
by overlap: with the few boxes of a camera that gives what the Hungarian method gives, without a library for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from agent.clock import NS_PER_S
from agent.settings.steps import TrackerSettings

Floats = npt.NDArray[np.float64]

POSITION_NOISE = 1 / 20
"""Of the box's height."""
VELOCITY_NOISE = 30 / 160
"""Of the box's height, a second."""


@dataclass(slots=True, eq=False)
class Track:
    """One thing that is followed.

    Attributes:
        number: 0 until it was seen often enough.
        label: of every detection that it takes.
        mean: [2, 4]: middle x, y, width, height, and their velocities a second.
        covariance: [2, 2], the same for all four up to their common noise.
        at_ns: capture time of the last update.
        seen_ns: capture time of the last detection.
        hits: detections in all.
    """

    number: int
    label: str
    mean: Floats
    covariance: Floats
    at_ns: int
    seen_ns: int
    hits: int = 1

    @property
    def box(self) -> Floats:
        """Where it is expected: x1, y1, x2, y2."""
        middle, half = self.mean[0, :2], np.maximum(self.mean[0, 2:], 1e-9) / 2
        return np.concatenate([middle - half, middle + half])


class Tracker:
    """Numbers for the detections of one stream. Not thread-safe: its inference thread calls it."""

    def __init__(self, settings: TrackerSettings) -> None:
        self._settings = settings
        self._tracks: list[Track] = []
        self._next = 1

    def reset(self) -> None:
        """Forget every track; numbers go on."""
        self._tracks = []

    def update(self, labels: Sequence[str], boxes: Floats, now_ns: int) -> list[int]:
        """Take the detections of a frame; return the number of each, 0 for those that have none (yet).

        Args:
            labels: of the detections.
            boxes: [N, 4] x1, y1, x2, y2, in a unit that stays the same.
            now_ns: capture time.
        """
        lost_ns = int(self._settings.lost_s * NS_PER_S)
        self._tracks = [track for track in self._tracks if now_ns - track.seen_ns <= lost_ns]
        for track in self._tracks:
            _predict(track, now_ns)
        numbers = [0] * len(labels)
        free = set(range(len(labels)))
        for place, track in sorted(self._pairs(labels, boxes), key=lambda pair: pair[0]):
            _correct(track, _measured(boxes[place]))
            track.seen_ns = now_ns
            track.hits += 1
            free.discard(place)
            numbers[place] = self._number(track)
        for place in sorted(free):
            if len(self._tracks) < self._settings.tracks_max:
                track = _begin(labels[place], _measured(boxes[place]), now_ns)
                self._tracks.append(track)
                numbers[place] = self._number(track)
        return numbers

    def _number(self, track: Track) -> int:
        if track.number == 0 and track.hits >= self._settings.hits_min:
            track.number, self._next = self._next, self._next + 1
        return track.number

    def _pairs(self, labels: Sequence[str], boxes: Floats) -> list[tuple[int, Track]]:
        """Return the places of detections with their tracks, the greatest overlap first, each at most once."""
        if not len(labels) or not self._tracks:
            return []
        overlaps = iou(boxes, np.array([track.box for track in self._tracks]))
        own = np.array([track.label for track in self._tracks])
        overlaps[np.array(labels)[:, np.newaxis] != own] = 0
        rows, columns = np.nonzero(overlaps >= self._settings.iou_min)
        order = np.argsort(-overlaps[rows, columns], kind="stable")
        taken_rows: set[int] = set()
        taken_columns: set[int] = set()
        pairs = []
        for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
            if row not in taken_rows and column not in taken_columns:
                taken_rows.add(row)
                taken_columns.add(column)
                pairs.append((row, self._tracks[column]))
        return pairs


def iou(boxes: Floats, others: Floats) -> Floats:
    """Return [N, M], the overlap of each of [N, 4] boxes with each of [M, 4]."""
    low = np.maximum(boxes[:, np.newaxis, :2], others[np.newaxis, :, :2])
    high = np.minimum(boxes[:, np.newaxis, 2:], others[np.newaxis, :, 2:])
    shared = np.maximum(high - low, 0).prod(axis=2)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1), (others[:, 2:] - others[:, :2]).prod(axis=1)
    return np.asarray(shared / np.maximum(areas[0][:, np.newaxis] + areas[1] - shared, 1e-12))


def _measured(box: Floats) -> Floats:
    """Return middle x, y, width and height."""
    return np.concatenate([(box[:2] + box[2:]) / 2, box[2:] - box[:2]])


def _begin(label: str, measured: Floats, now_ns: int) -> Track:
    height = max(float(measured[3]), 1e-9)
    spread = np.diag([(2 * POSITION_NOISE * height) ** 2, (10 * VELOCITY_NOISE * height) ** 2])
    return Track(0, label, np.stack([measured, np.zeros(4)]), spread, now_ns, now_ns)


def _predict(track: Track, now_ns: int) -> None:
    seconds = max(0, now_ns - track.at_ns) / NS_PER_S
    motion = np.array([[1.0, seconds], [0.0, 1.0]])
    height = max(float(track.mean[0, 3]), 1e-9)
    # The noise of a frame at 30 a second, for the time that has passed.
    noise = np.diag([(POSITION_NOISE * height) ** 2, (VELOCITY_NOISE * height) ** 2]) * min(seconds * 30, 300)
    track.mean = motion @ track.mean
    track.covariance = motion @ track.covariance @ motion.T + noise
    track.at_ns = max(track.at_ns, now_ns)


def _correct(track: Track, measured: Floats) -> None:
    height = max(float(track.mean[0, 3]), 1e-9)
    gain = track.covariance[:, 0] / (track.covariance[0, 0] + (POSITION_NOISE * height) ** 2)
    track.mean = track.mean + np.outer(gain, measured - track.mean[0])
    track.covariance = track.covariance - np.outer(gain, track.covariance[0])
