"""Settings of what a stream does with each result before it is sent; every part is optional."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from agent.settings.fields import Section, TopicLevel
from agent.settings.scope import Live

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Point = tuple[Share, Share]
"""x to the right and y down, in shares of the frame: (0, 0) is its upper left corner, (1, 1) its lower right one."""


class FilterSettings(Section):
    """Which of the things that were found stay in the result."""

    labels: Live[tuple[str, ...]] = ()
    """Labels that stay; all when empty. Default: all."""
    labels_not: Live[tuple[str, ...]] = ()
    """Labels that are left out. Default: none."""
    score_min: Live[float] = Field(default=0.0, ge=0.0, le=1.0)
    """Least score, 0 to 1, on top of the model's own threshold. Default 0: the model's own alone."""
    scores_min: Live[dict[str, Share]] = Field(default={}, max_length=1000)
    """Least score of single labels, in the place of `score_min`. Default: none."""
    area_min: Live[float] = Field(default=0.0, ge=0.0, le=1.0)
    """Least area of a box as a share of the frame, 0 to 1. Default 0."""
    area_max: Live[float] = Field(default=1.0, ge=0.0, le=1.0)
    """Largest area of a box as a share of the frame, 0 to 1. Default 1."""


class ZoneSettings(Section):
    """A part of the frame; detections name the zones that they are in, and the result counts them."""

    name: Live[TopicLevel]
    """Name of the zone in results and events. Required."""
    polygon: Live[tuple[Point, ...]] = Field(min_length=3, max_length=100)
    """Corners as [x, y] in shares of the frame, 3 to 100; the last is joined to the first. Required."""
    labels: Live[tuple[str, ...]] = ()
    """Labels that count; all when empty. Default: all."""
    anchor: Live[Literal["foot", "center"]] = "foot"
    """Which point of a box must be inside: the middle of its lower side, or its middle. Default `foot`: where
    somebody stands."""


class LineSettings(Section):
    """A line that tracked things cross; the result has the counts since the start. Needs `tracker`."""

    name: Live[TopicLevel]
    """Name of the line in results and events. Required."""
    start: Live[Point]
    """One end as [x, y] in shares of the frame. Required."""
    end: Live[Point]
    """The other end. Seen from `start` towards `end`, crossing from left to right counts as `right`. Required."""
    labels: Live[tuple[str, ...]] = ()
    """Labels that count; all when empty. Default: all."""
    anchor: Live[Literal["foot", "center"]] = "foot"
    """Which point of a box crosses. Default `foot`."""
    events: Live[bool] = False
    """Send `events/line_crossed` for each crossing too. Default false: events are written to disk one by one."""

    @model_validator(mode="after")
    def _has_length(self) -> LineSettings:
        if self.start == self.end:
            raise PydanticCustomError("line", "start and end are the same point")
        return self


class TrackerSettings(Section):
    """Gives each thing a number that stays while it is seen (overlap and a Kalman filter)."""

    iou_min: Live[float] = Field(default=0.3, gt=0.0, le=1.0)
    """Least overlap of a detection with where its track should be, above 0 to 1. Default 0.3, as in SORT."""
    hits_min: Live[int] = Field(default=2, ge=1, le=100)
    """Frames in which something must be seen before it gets its number, 1 to 100. Default 2: a flicker gets none."""
    lost_s: Live[float] = Field(default=1.0, gt=0.0, le=60.0)
    """Seconds for which a track goes on unseen, above 0 to 60. Default 1: somebody behind a pillar."""
    tracks_max: Live[int] = Field(default=200, ge=1, le=1000)
    """Tracks at a time, 1 to 1000; further detections get no number. Default 200: twice what a result holds."""


class PresenceSettings(Section):
    """Sends `events/object_appeared` and `events/object_left`, with patience on both sides."""

    labels: Live[tuple[str, ...]] = ()
    """Labels that are watched; all when empty. Default: all."""
    appear_s: Live[float] = Field(default=0.5, ge=0.0, le=3600.0)
    """Seconds for which a label must be seen, 0 to 3600; a gap shorter than `leave_s` does not count. Default 0.5."""
    leave_s: Live[float] = Field(default=3.0, ge=0.0, le=3600.0)
    """Seconds for which it must be unseen, 0 to 3600. Default 3: a detector misses something for a second or two."""
    by_zone: Live[bool] = False
    """Watch each zone of `zones` for itself. Default false: the whole frame."""


class ChangesSettings(Section):
    """Send a result only when it says something new; the other frames are counted as `unchanged`."""

    moved_min: Live[float] = Field(default=0.05, ge=0.0, le=1.0)
    """How far something must move, or grow, as a share of the frame's width or height, 0 to 1; of a number, as a
    share of its value. Default 0.05."""
    keep_alive_s: Live[float] = Field(default=30.0, gt=0.0, le=86_400.0)
    """Seconds after which a result is sent all the same, above 0 to 86,400. Default 30: as often as health."""


class StepsSettings(Section):
    """What happens between the model and the broker, in this order."""

    filter: FilterSettings | None = None
    """What stays. Default: everything."""
    tracker: TrackerSettings | None = None
    """Numbers that stay with a thing. Default: none."""
    zones: Live[tuple[ZoneSettings, ...]] = Field(default=(), max_length=32)
    """Parts of the frame, at most 32. Default: none."""
    lines: Live[tuple[LineSettings, ...]] = Field(default=(), max_length=32)
    """Lines that are crossed, at most 32. Default: none."""
    presence: PresenceSettings | None = None
    """Events when something appears and leaves. Default: none."""
    changes: ChangesSettings | None = None
    """Whether only news is sent. Default: every result is."""
    gap_s: Live[float] = Field(default=10.0, gt=0.0, le=3600.0)
    """Seconds without a result after which everything starts anew, above 0 to 3600: nobody knows what happened
    meanwhile, and what was present is reported as gone. Counts of lines stay. Default 10."""

    @property
    def is_empty(self) -> bool:
        """Whether a result goes out as the model gave it."""
        parts = (self.filter, self.tracker, self.presence, self.changes)
        return not self.zones and not self.lines and all(part is None for part in parts)

    @model_validator(mode="after")
    def _fits_together(self) -> StepsSettings:
        if self.lines and self.tracker is None:
            raise PydanticCustomError("steps", "lines need a tracker: add [streams.steps.tracker]")
        if self.presence is not None and self.presence.by_zone and not self.zones:
            raise PydanticCustomError("steps", "presence.by_zone needs zones: add [[streams.steps.zones]]")
        for kind, entries in (("zones", self.zones), ("lines", self.lines)):
            names = [entry.name for entry in entries]
            if len(set(names)) < len(names):
                raise PydanticCustomError("steps", f"{kind} need names of their own")
        return self
