"""Whether a result says something that the last one that was sent did not."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from agent.clock import NS_PER_S
from agent.result import Payload
from agent.settings.steps import ChangesSettings


class Changes:
    """The last result of one stream that was sent, and what is new against it. Not thread-safe."""

    def __init__(self, settings: ChangesSettings) -> None:
        self._settings = settings
        self._sent: tuple[Payload, int, tuple[int, int]] | None = None

    def is_news(self, payload: Payload, now_ns: int, size: tuple[int, int]) -> bool:
        """Return whether a result is to be sent.

        Args:
            payload: of the frame.
            now_ns: its capture time.
            size: width and height of the frame.
        """
        if self._sent is None:
            return True
        before, at_ns, old_size = self._sent
        if now_ns - at_ns >= self._settings.keep_alive_s * NS_PER_S or size != old_size:
            return True
        return self._differs(before, payload, size)

    def sent(self, payload: Payload, now_ns: int, size: tuple[int, int]) -> None:
        """Note that it was sent."""
        self._sent = payload, now_ns, size

    def reset(self) -> None:
        """Forget the last one: the next is news."""
        self._sent = None

    def _differs(self, before: Payload, payload: Payload, size: tuple[int, int]) -> bool:
        if before.keys() != payload.keys():
            return True
        old: dict[str, Any] = dict(before)
        new: dict[str, Any] = dict(payload)
        for key, value in new.items():
            compare = _COMPARE.get(key)
            if compare is None:
                if old[key] != value:
                    return True
            elif compare(old[key], value, self._settings.moved_min, size):
                return True
        return False


def _detections(old: Sequence[Any], new: Sequence[Any], moved_min: float, size: tuple[int, int]) -> bool:
    """Other things, or one that is elsewhere: each is paired with the nearest of its kind and of its number."""
    if Counter(map(_identity, old)) != Counter(map(_identity, new)):
        return True
    frame = np.array([*size, *size], np.float64)
    groups: dict[Any, tuple[list[Any], list[Any]]] = {}
    for which, entries in enumerate((old, new)):
        for one in entries:
            groups.setdefault(_identity(one), ([], []))[which].append(one["box"])
    # What has a number, or is alone of its kind, is paired already: all of it in one go.
    single = np.array([(a[0], b[0]) for a, b in groups.values() if len(a) == 1], np.float64).reshape(-1, 2, 4)
    if (np.abs(single[:, 0] - single[:, 1]) / frame).max(initial=0) > moved_min:
        return True
    several = [(np.array(a) / frame, np.array(b) / frame) for a, b in groups.values() if len(a) > 1]
    return any(_farthest(a, b) > moved_min for a, b in several)


def _identity(one: Any) -> tuple[Any, ...]:
    return one["class_id"], one.get("track_id", 0), tuple(one.get("zones", ()))


def _farthest(old: npt.NDArray[np.float64], new: npt.NDArray[np.float64]) -> float:
    """Return the greatest distance of a side in pairs that are made nearest first; [N, 4] both."""
    distances = np.abs(old[:, np.newaxis] - new[np.newaxis]).max(axis=2)
    farthest = 0.0
    for _ in range(len(old)):
        row, column = np.unravel_index(distances.argmin(), distances.shape)
        farthest = max(farthest, float(distances[row, column]))
        distances[row, :], distances[:, column] = math.inf, math.inf
    return farthest


def _classes(old: Sequence[Any], new: Sequence[Any], moved_min: float, size: tuple[int, int]) -> bool:
    """Another first class, or other classes in all: probabilities move with every frame."""
    del moved_min, size
    return [one["class_id"] for one in old[:1]] != [one["class_id"] for one in new[:1]] or {
        one["class_id"] for one in old
    } != {one["class_id"] for one in new}


def _segments(old: Sequence[Any], new: Sequence[Any], moved_min: float, size: tuple[int, int]) -> bool:
    """Other classes, or one that covers so much more or less of the frame."""
    del size
    shares = ({one["class_id"]: one["share"] for one in entries} for entries in (old, new))
    before, now = shares
    return before.keys() != now.keys() or any(abs(before[key] - now[key]) > moved_min for key in now)


def _measurements(old: Sequence[Any], new: Sequence[Any], moved_min: float, size: tuple[int, int]) -> bool:
    """A number that differs by so much of the one before."""
    del size
    pairs = zip(old, new, strict=True)
    return any(abs(a["value"] - b["value"]) > moved_min * abs(a["value"]) for a, b in pairs)


def _anomaly(old: Any, new: Any, moved_min: float, size: tuple[int, int]) -> bool:
    """The verdict, not the score."""
    del moved_min, size
    return bool(old["is_anomaly"] != new["is_anomaly"])


def _texts(old: Sequence[Any], new: Sequence[Any], moved_min: float, size: tuple[int, int]) -> bool:
    """What was read, not how surely."""
    del moved_min, size
    return [one["text"] for one in old] != [one["text"] for one in new]


_COMPARE = {
    "detections": _detections,
    "classes": _classes,
    "segments": _segments,
    "measurements": _measurements,
    "anomaly": _anomaly,
    "texts": _texts,
}
"""By key of the payload; the others are compared as they are."""
