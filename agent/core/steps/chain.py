"""The steps of one stream in their order: filter, tracker, zones, lines, presence, changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from agent.clock import NS_PER_S
from agent.core.steps.changes import Changes
from agent.core.steps.places import Floats, Lines, Zones
from agent.core.steps.presence import Key, Presence
from agent.core.steps.tracker import Tracker
from agent.interfaces import Noticed
from agent.result import Detection, Payload
from agent.settings.steps import FilterSettings, StepsSettings


class Steps:
    """State of one stream under one model; a new model begins with a new one. The inference thread calls everything.

    Args:
        stream: named in events.
        settings: which steps there are.
    """

    def __init__(self, stream: str, settings: StepsSettings) -> None:
        self._stream = stream
        self.settings = settings
        """Which steps there are."""
        self._tracker = None if settings.tracker is None else Tracker(settings.tracker)
        self._zones = Zones(settings.zones) if settings.zones else None
        self._lines = Lines(settings.lines) if settings.lines else None
        self._presence = None if settings.presence is None else Presence(settings.presence)
        self._changes = None if settings.changes is None else Changes(settings.changes)
        self._last_ns: int | None = None
        self._size: tuple[int, int] | None = None

    def observe(
        self, payload: Payload, captured_at_ns: int, width: int, height: int
    ) -> tuple[Payload, list[Noticed]]:
        """Take the payload of a frame, in time or not; return what is to be sent, and events.

        Args:
            payload: from the decoder; it may be changed.
            captured_at_ns: of the frame.
            width: of the frame, pixels.
            height: of the frame.
        """
        happened = self._reset_after_gap(captured_at_ns, (width, height))
        if self.settings.filter is not None:
            payload = filtered(payload, self.settings.filter, width * height)
        found = payload.get("detections")
        if found is not None:
            boxes = np.array([one["box"] for one in found], np.float64).reshape(-1, 4)
            boxes /= (width, height, width, height)
            happened += self._place(payload, found, boxes, captured_at_ns)
        if self._presence is not None:
            happened += self._presence.update(self._seen(payload), captured_at_ns)
        return payload, [Noticed(name, {"stream": self._stream, **body}) for name, body in happened]

    def is_news(self, payload: Payload, captured_at_ns: int, width: int, height: int) -> bool:
        """Return whether a payload from `observe` is to be sent; if so, it is taken as sent."""
        if self._changes is None:
            return True
        if not self._changes.is_news(payload, captured_at_ns, (width, height)):
            return False
        self._changes.sent(payload, captured_at_ns, (width, height))
        return True

    def end(self) -> list[Noticed]:
        """Return the events of an end: what was present is not watched any more."""
        left = [] if self._presence is None else self._presence.reset("reset")
        return [Noticed(name, {"stream": self._stream, **body}) for name, body in left]

    def _place(
        self, payload: Payload, found: Sequence[Detection], boxes: Floats, now_ns: int
    ) -> list[tuple[str, Mapping[str, Any]]]:
        if self._tracker is not None:
            numbers = self._tracker.update([one["label"] for one in found], boxes, now_ns)
            for one, number in zip(found, numbers, strict=True):
                if number:
                    one["track_id"] = number
        if self._zones is not None:
            payload["zones"] = self._zones.mark(found, boxes)
        if self._lines is None:
            return []
        crossings = self._lines.move(found, boxes)
        payload["lines"] = self._lines.counts
        return [("line_crossed", crossing) for crossing in crossings]

    def _seen(self, payload: Payload) -> Iterator[Key]:
        presence = self.settings.presence
        assert presence is not None
        if presence.by_zone:
            for one in payload.get("detections", ()):
                yield from ((zone, one["label"]) for zone in one.get("zones", ()))
            return
        for entries in (payload.get("detections"), payload.get("segments"), payload.get("classes", [])[:1]):
            yield from (("", entry["label"]) for entry in entries or ())

    def _reset_after_gap(self, now_ns: int, size: tuple[int, int]) -> list[tuple[str, Mapping[str, Any]]]:
        """Begin anew after a gap, and after a change of the frame's size: what was where is not known any more."""
        last_ns, self._last_ns = self._last_ns, now_ns
        size_before, self._size = self._size, size
        is_gap = last_ns is not None and now_ns - last_ns >= self.settings.gap_s * NS_PER_S
        if not is_gap and size_before in (None, size):
            return []
        for step in (self._tracker, self._lines, self._changes):
            if step is not None:
                step.reset()
        return self._presence.reset("gap") if self._presence is not None and is_gap else []


def filtered(payload: Payload, settings: FilterSettings, pixels: int) -> Payload:
    """Return a payload with what passes the filter."""

    def passes(one: Mapping[str, Any]) -> bool:
        label = one["label"]
        if (settings.labels and label not in settings.labels) or label in settings.labels_not:
            return False
        if "score" in one and one["score"] < settings.scores_min.get(label, settings.score_min):
            return False
        if "box" not in one:
            return True
        x1, y1, x2, y2 = one["box"]
        return bool(settings.area_min <= (x2 - x1) * (y2 - y1) / pixels <= settings.area_max)

    kept: dict[str, Any] = dict(payload)
    for key in {"detections", "classes", "segments"} & kept.keys():
        kept[key] = [one for one in kept[key] if passes(one)]
    return kept  # type: ignore[return-value]  # The same keys with shorter lists.
