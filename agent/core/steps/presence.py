"""Something is here, something is gone: with patience, so that a detector's flicker is no event."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from agent.clock import NS_PER_S
from agent.settings.steps import PresenceSettings

KEYS_MAX = 1000
"""Labels (by zone) that are watched at a time: as many as a result may have classes."""

Key = tuple[str, str]
"""Zone, empty for the whole frame, and label."""


@dataclass(slots=True)
class _Watched:
    """Since when something is seen, when it was seen last, and whether that was reported."""

    since_ns: int
    seen_ns: int
    is_present: bool = False


class Presence:
    """The presence of each label in one stream. Not thread-safe.

    It is judged with each frame by capture times, so that an event comes with the first frame after its time.
    """

    def __init__(self, settings: PresenceSettings) -> None:
        self._settings = settings
        self._watched: dict[Key, _Watched] = {}

    def update(self, seen: Iterable[Key], now_ns: int) -> list[tuple[str, Mapping[str, Any]]]:
        """Take what a frame shows; return events as name and body."""
        settings = self._settings
        events: list[tuple[str, Mapping[str, Any]]] = []
        for key in dict.fromkeys(seen):
            if settings.labels and key[1] not in settings.labels:
                continue
            watched = self._watched.get(key)
            if watched is not None:
                watched.seen_ns = max(watched.seen_ns, now_ns)
            elif len(self._watched) < KEYS_MAX:
                watched = self._watched[key] = _Watched(now_ns, now_ns)
            else:
                continue
            if not watched.is_present and now_ns - watched.since_ns >= settings.appear_s * NS_PER_S:
                watched.is_present = True
                events.append(("object_appeared", _body(key)))
        for key, watched in list(self._watched.items()):
            if watched.seen_ns < now_ns and now_ns - watched.seen_ns >= settings.leave_s * NS_PER_S:
                del self._watched[key]
                if watched.is_present:
                    events.append(("object_left", {**_body(key), **_duration(watched), "cause": "unseen"}))
        return events

    def reset(self, cause: str) -> list[tuple[str, Mapping[str, Any]]]:
        """Forget everything; what was present is gone as far as anybody knows."""
        watched, self._watched = self._watched, {}
        return [
            ("object_left", {**_body(key), **_duration(one), "cause": cause})
            for key, one in watched.items()
            if one.is_present
        ]


def _body(key: Key) -> dict[str, Any]:
    zone, label = key
    return {"label": label, **({"zone": zone} if zone else {})}


def _duration(watched: _Watched) -> dict[str, float]:
    return {"present_s": round((watched.seen_ns - watched.since_ns) / NS_PER_S, 3)}
