"""A tracker in the manner of SORT (Bewley et al., 2016): overlap with where a Kalman filter expects each thing.

Boxes move with constant velocity. Middle and sides are four independent filters of position and velocity, with the
noise of DeepSORT (Wojke et al., 2017): 1/20 of the box's height in position and 1/160 a frame in velocity, here a
second of 30 frames, because frames are dropped on purpose and the time between two differs. Pairs are taken greedily
by overlap: with the few boxes of a camera that gives what the Hungarian method gives, without a library for it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from agent.clock import NS_PER_S
from agent.settings.steps import TrackerSettings

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

POSITION_NOISE = 1 / 20
"""Of the box's height."""
VELOCITY_NOISE = 30 / 160
"""Of the box's height, a second."""


class Tracker:
    """Numbers for the detections of one stream. Not thread-safe: its inference thread calls it.

    All tracks are rows of a few arrays, so that a frame costs as many numpy calls for one track as for a hundred.
    """

    def __init__(self, settings: TrackerSettings) -> None:
        self._settings = settings
        self._next = 1
        self._last_ns = 0
        self.reset()

    def reset(self) -> None:
        """Forget every track; numbers go on."""
        self._means: Floats = np.empty((0, 2, 4))
        """Middle x, y, width, height, and their velocities a second."""
        self._spreads: Floats = np.empty((0, 2, 2))
        """Covariance of position and velocity, the same for all four."""
        self._numbers: Integers = np.empty(0, np.int64)
        """0 until it was seen often enough."""
        self._hits: Integers = np.empty(0, np.int64)
        self._seen_ns: Integers = np.empty(0, np.int64)
        self._labels: npt.NDArray[np.str_] = np.empty(0, np.str_)

    def update(self, labels: Sequence[str], boxes: Floats, now_ns: int) -> list[int]:
        """Take the detections of a frame; return the number of each, 0 for those that have none (yet).

        Args:
            labels: of the detections.
            boxes: [N, 4] x1, y1, x2, y2, in a unit that stays the same.
            now_ns: capture time.
        """
        self._keep(now_ns - self._seen_ns <= int(self._settings.lost_s * NS_PER_S))
        self._predict(max(0, now_ns - self._last_ns) / NS_PER_S)
        self._last_ns = max(self._last_ns, now_ns)
        numbers = np.zeros(len(labels), np.int64)
        if not len(labels):
            return []
        names = np.array(labels, np.str_)
        measured = np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=1)
        places, tracks = self._pairs(names, boxes)
        self._correct(tracks, measured[places])
        self._seen_ns[tracks] = now_ns
        self._hits[tracks] += 1
        free = np.ones(len(labels), bool)
        free[places] = False
        begun = np.flatnonzero(free)[: self._settings.tracks_max - len(self._numbers)]
        first = len(self._numbers)
        self._begin(names[begun], measured[begun], now_ns)
        places = np.concatenate([places, begun])
        tracks = np.concatenate([tracks, np.arange(first, first + len(begun))])
        order = np.argsort(places)
        numbers[places[order]] = self._number(tracks[order])
        return [int(number) for number in numbers]

    def _keep(self, is_kept: npt.NDArray[np.bool_]) -> None:
        if not is_kept.all():
            self._means, self._spreads = self._means[is_kept], self._spreads[is_kept]
            self._numbers, self._hits = self._numbers[is_kept], self._hits[is_kept]
            self._seen_ns, self._labels = self._seen_ns[is_kept], self._labels[is_kept]

    def _number(self, tracks: Integers) -> Integers:
        """Return the numbers of tracks; those that were seen often enough get theirs, in this order."""
        due = tracks[(self._numbers[tracks] == 0) & (self._hits[tracks] >= self._settings.hits_min)]
        self._numbers[due] = np.arange(self._next, self._next + len(due))
        self._next += len(due)
        return self._numbers[tracks]

    def _pairs(self, labels: npt.NDArray[np.str_], boxes: Floats) -> tuple[Integers, Integers]:
        """Return places of detections and of their tracks, the greatest overlap first, each at most once."""
        half = np.maximum(self._means[:, 0, 2:], 1e-9) / 2
        expected = np.concatenate([self._means[:, 0, :2] - half, self._means[:, 0, :2] + half], axis=1)
        overlaps = iou(boxes, expected)
        overlaps[labels[:, np.newaxis] != self._labels] = 0
        rows, columns = np.nonzero(overlaps >= self._settings.iou_min)
        order = np.argsort(-overlaps[rows, columns], kind="stable")
        free_rows, free_columns = [True] * len(labels), [True] * len(self._labels)
        pairs = []
        for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
            if free_rows[row] and free_columns[column]:
                free_rows[row] = free_columns[column] = False
                pairs.append((row, column))
        chosen = np.array(pairs, np.int64).reshape(-1, 2)
        return chosen[:, 0], chosen[:, 1]

    def _begin(self, labels: npt.NDArray[np.str_], measured: Floats, now_ns: int) -> None:
        height = np.maximum(measured[:, 3], 1e-9)
        spreads = np.zeros((len(labels), 2, 2))
        spreads[:, 0, 0], spreads[:, 1, 1] = (2 * POSITION_NOISE * height) ** 2, (10 * VELOCITY_NOISE * height) ** 2
        means = np.stack([measured, np.zeros_like(measured)], axis=1)
        self._means, self._spreads = np.concatenate([self._means, means]), np.concatenate([self._spreads, spreads])
        self._numbers = np.concatenate([self._numbers, np.zeros(len(labels), np.int64)])
        self._hits = np.concatenate([self._hits, np.ones(len(labels), np.int64)])
        self._seen_ns = np.concatenate([self._seen_ns, np.full(len(labels), now_ns)])
        self._labels = np.concatenate([self._labels, labels])

    def _predict(self, seconds: float) -> None:
        motion = np.array([[1.0, seconds], [0.0, 1.0]])
        height = np.maximum(self._means[:, 0, 3], 1e-9)
        # The noise of a frame at 30 a second, for the time that has passed.
        frames = min(seconds * 30, 300)
        self._means = motion @ self._means
        self._spreads = motion @ self._spreads @ motion.T
        self._spreads[:, 0, 0] += (POSITION_NOISE * height) ** 2 * frames
        self._spreads[:, 1, 1] += (VELOCITY_NOISE * height) ** 2 * frames

    def _correct(self, tracks: Integers, measured: Floats) -> None:
        means, spreads = self._means[tracks], self._spreads[tracks]
        noise = (POSITION_NOISE * np.maximum(means[:, 0, 3], 1e-9)) ** 2
        gain = spreads[:, :, 0] / (spreads[:, 0, 0] + noise)[:, np.newaxis]
        self._means[tracks] = means + gain[:, :, np.newaxis] * (measured - means[:, 0])[:, np.newaxis]
        self._spreads[tracks] = spreads - gain[:, :, np.newaxis] * spreads[:, :1]


def iou(boxes: Floats, others: Floats) -> Floats:
    """Return [N, M], the overlap of each of [N, 4] boxes with each of [M, 4]."""
    low = np.maximum(boxes[:, np.newaxis, :2], others[np.newaxis, :, :2])
    high = np.minimum(boxes[:, np.newaxis, 2:], others[np.newaxis, :, 2:])
    shared = np.maximum(high - low, 0).prod(axis=2)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1), (others[:, 2:] - others[:, :2]).prod(axis=1)
    return np.asarray(shared / np.maximum(areas[0][:, np.newaxis] + areas[1] - shared, 1e-12))
