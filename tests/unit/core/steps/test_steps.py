"""Filters, tracks, zones, lines, presence and changes of one stream."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from agent.clock import NS_PER_S
from agent.core.steps.chain import Steps
from agent.core.steps.places import crossed, inside
from agent.core.steps.tracker import Tracker, iou
from agent.settings.steps import StepsSettings, TrackerSettings

WIDTH, HEIGHT = 200, 100


def thing(x: float, y: float, label: str = "person", score: float = 0.9, side: float = 20) -> dict[str, Any]:
    """Return a detection with its middle at x, y in pixels."""
    box = [x - side / 2, y - side / 2, x + side / 2, y + side / 2]
    return {"label": label, "class_id": len(label), "score": score, "box": box}


class Stream:
    """A stream's steps and what it sends."""

    def __init__(self, **described: Any) -> None:
        self.steps = Steps("door", StepsSettings.model_validate(described))
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.news: list[bool] = []

    def see(self, at_s: float, *found: dict[str, Any], width: int = WIDTH, **payload: Any) -> Any:
        """Take one frame; return the payload."""
        given_payload = payload or {"detections": list(found)}
        now_ns = round(at_s * NS_PER_S)
        seen, events = self.steps.observe(given_payload, now_ns, width, HEIGHT)  # type: ignore[arg-type]
        self.events += [(event.name, dict(event.body)) for event in events]
        self.news.append(self.steps.is_news(seen, now_ns, width, HEIGHT))
        return seen


def test_a_filter_keeps_labels_scores_and_sizes() -> None:
    """Each on its own, and a score of its own for a label."""
    stream = Stream(
        filter={
            "labels_not": ["cat"],
            "score_min": 0.5,
            "scores_min": {"dog": 0.8},
            "area_min": 0.01,
            "area_max": 0.5,
        }
    )
    seen = stream.see(
        0,
        thing(50, 50),
        thing(50, 50, score=0.4),
        thing(50, 50, "cat"),
        thing(50, 50, "dog", 0.7),
        thing(50, 50, "dog", 0.85),
        thing(50, 50, side=5),
        thing(50, 50, side=150),
    )
    assert [(one["label"], one["score"]) for one in seen["detections"]] == [("person", 0.9), ("dog", 0.85)]
    only = Stream(filter={"labels": ["cat"]})
    assert only.see(0, thing(1, 1), thing(1, 1, "cat"))["detections"][0]["label"] == "cat"
    classes = [{"label": "cat", "class_id": 1, "score": 0.9}, {"label": "dog", "class_id": 2, "score": 0.1}]
    assert only.see(0, classes=classes) == {"classes": classes[:1]}
    assert only.see(0, anomaly={"score": 1}) == {"anomaly": {"score": 1}}


def test_a_number_stays_with_a_thing_that_moves() -> None:
    """Two cross, one flickers, one is hidden for half a second: the numbers stay; a second sight gives them."""
    stream = Stream(tracker={"hits_min": 2, "lost_s": 1})
    numbers: dict[str, list[Any]] = {"up": [], "down": []}
    for frame in range(40):
        at = frame / 10
        found = [thing(20 + 4 * frame, 30), thing(180 - 4 * frame, 60)]
        if 15 <= frame < 20:
            found = found[:1]
        if frame == 7:
            found.append(thing(100, 90))
        seen = stream.see(at, *found)["detections"]
        numbers["up"].append(seen[0].get("track_id"))
        if len(found) > 1:
            numbers["down"].append(seen[1].get("track_id"))
        if frame == 7:
            assert "track_id" not in seen[2]
    assert numbers["up"][0] is None
    assert set(numbers["up"][1:]) == {1}
    assert set(numbers["down"][1:]) == {2}


def test_labels_and_long_absences_make_new_numbers() -> None:
    """A person does not become a dog, and who comes back after `lost_s` is somebody else."""
    stream = Stream(tracker={"hits_min": 1, "lost_s": 1})
    assert stream.see(0, thing(50, 50))["detections"][0]["track_id"] == 1
    assert stream.see(0.1, thing(50, 50, "dog"))["detections"][0]["track_id"] == 2
    assert stream.see(0.2, thing(50, 50))["detections"][0]["track_id"] == 1
    assert stream.see(1.3, thing(50, 50))["detections"][0]["track_id"] == 3


def test_tracks_are_bounded() -> None:
    """What is too much has no number, and is reported all the same."""
    stream = Stream(tracker={"hits_min": 1, "tracks_max": 3})
    found = stream.see(0, *(thing(30 * k, 50) for k in range(6)))["detections"]
    assert [one.get("track_id") for one in found] == [1, 2, 3, None, None, None]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_things_that_keep_apart_never_swap_numbers(seed: int) -> None:
    """Whatever their speed, the noise, the time between frames and the order of the detections."""
    rng = np.random.default_rng(seed)
    speed = rng.uniform(-40, 40, 3)
    tracker, at_s = Tracker(TrackerSettings(hits_min=1, lost_s=5)), 0.0
    owner: dict[int, int] = {}
    for _ in range(30):
        at_s += rng.uniform(0.02, 0.08)
        order = rng.permutation(3)
        boxes = []
        for k in order:
            x, y = 300 + speed[k] * at_s + rng.normal(0, 0.5), 100.0 * k
            boxes.append([x - 20, y - 20, x + 20, y + 20])
        numbers = tracker.update(["a"] * 3, np.array(boxes), round(at_s * NS_PER_S))
        for k, number in zip(order.tolist(), numbers, strict=True):
            assert owner.setdefault(number, k) == k
    assert len(owner) == 3


def test_overlaps_agree_with_the_definition() -> None:
    """By counting cells."""
    one, other = np.array([[0, 0, 4, 4.0]]), np.array([[2, 2, 6, 6.0], [4, 4, 5, 5], [0, 0, 4, 4], [3, 3, 3, 3]])
    cells = [
        {(x, y) for x in range(int(b[0]), int(b[2])) for y in range(int(b[1]), int(b[3]))} for b in (*one, *other)
    ]
    expected = [len(cells[0] & cell) / len(cells[0] | cell) for cell in cells[1:]]
    assert iou(one, other)[0].tolist() == pytest.approx(expected)


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1))
def test_inside_agrees_with_winding_angles(seed: int) -> None:
    """Around a point inside a star the edges turn once, around others not at all."""
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * math.pi, 9))
    radii = rng.uniform(0.1, 0.5, 9)
    polygon = np.stack([0.5 + radii * np.cos(angles), 0.5 + radii * np.sin(angles)], axis=1)
    points = rng.uniform(0, 1, (40, 2))
    for point, got in zip(points, inside(points, polygon).tolist(), strict=True):
        turned = 0.0
        for (x1, y1), (x2, y2) in zip(polygon - point, np.roll(polygon, -1, axis=0) - point, strict=True):
            turned += math.atan2(x1 * y2 - y1 * x2, x1 * x2 + y1 * y2)
        assert got == (abs(turned) > 3)


def test_neighbouring_zones_share_no_point() -> None:
    """Not even on the edge between them."""
    left, right = (np.array([[x, 0], [x + 0.5, 0], [x + 0.5, 1], [x, 1]]) for x in (0.0, 0.5))
    points = np.array([[0.5, 0.5], [0.25, 0.0], [0.75, 0.999]])
    assert (inside(points, left) ^ inside(points, right)).all()


def test_zones_count_feet_or_middles() -> None:
    """Each detection names its zones; labels may be chosen."""
    lower = [[0, 0.5], [1, 0.5], [1, 1], [0, 1]]
    stream = Stream(
        zones=[
            {"name": "feet", "polygon": lower},
            {"name": "middles", "polygon": lower, "anchor": "center"},
            {"name": "dogs", "polygon": lower, "labels": ["dog"]},
        ]
    )
    seen = stream.see(0, thing(50, 45), thing(50, 80, "dog"), thing(50, 10))
    assert seen["zones"] == {"feet": 2, "middles": 1, "dogs": 1}
    assert [one["zones"] for one in seen["detections"]] == [["feet"], ["feet", "middles", "dogs"], []]
    assert stream.see(1)["zones"] == {"feet": 0, "middles": 0, "dogs": 0}


def test_a_line_counts_crossings_by_side() -> None:
    """There and back, beside the line's end, standing on it, and in one leap between two frames."""
    line = {"name": "gate", "start": [0.5, 0], "end": [0.5, 0.8], "anchor": "center", "events": True}
    stream = Stream(tracker={"hits_min": 1, "iou_min": 0.01, "lost_s": 5}, lines=[line])
    for at, x in enumerate([80, 90, 100, 105, 98, 92, 100, 108]):
        seen = stream.see(at / 10, thing(x, 50))
    # Downwards is where the line points, so that its left is on the picture's right.
    assert seen["lines"] == {"gate": {"left": 2, "right": 1}}
    assert [(name, body["to"]) for name, body in stream.events] == [
        ("line_crossed", "left"),
        ("line_crossed", "right"),
        ("line_crossed", "left"),
    ]
    assert stream.events[0][1] == {"stream": "door", "line": "gate", "to": "left", "label": "person", "track_id": 1}
    beside = Stream(tracker={"hits_min": 1, "iou_min": 0.01}, lines=[line])
    for at, x in enumerate([90, 98, 104, 110]):
        seen = beside.see(at / 10, thing(x, 88))
    assert seen["lines"] == {"gate": {"left": 0, "right": 0}}


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=2, max_size=30))
def test_what_ends_where_it_began_has_crossed_an_endless_line_as_often_each_way(walk: list[tuple[int, int]]) -> None:
    """Points on the line included: none is counted twice or forgotten."""
    points = np.array([*walk, walk[0]]) / 8
    ends = np.array([[0.5, 0.0]]), np.array([[0.5, 1.0]])
    sides = crossed(*ends, points[:-1, np.newaxis], points[1:, np.newaxis]).ravel().tolist()
    assert sides.count(1) == sides.count(-1)


def test_presence_waits_on_both_sides() -> None:
    """A flicker is no event, a short absence neither; the duration is from the first sight to the last."""
    stream = Stream(presence={"appear_s": 0.5, "leave_s": 1.0})
    stream.see(0.0, thing(50, 50))
    stream.see(0.3)
    stream.see(0.4, thing(50, 50))
    assert stream.events == []
    stream.see(0.5, thing(50, 50), thing(20, 20, "cat"))
    assert stream.events == [("object_appeared", {"stream": "door", "label": "person"})]
    stream.see(1.4)
    assert len(stream.events) == 1
    stream.see(1.5)
    assert stream.events[1:] == [
        ("object_left", {"stream": "door", "label": "person", "present_s": 0.5, "cause": "unseen"})
    ]
    stream.see(9.0, thing(50, 50))
    assert len(stream.events) == 2


def test_presence_in_zones() -> None:
    """Each zone for itself."""
    zones = [
        {"name": side, "polygon": [[x, 0], [x + 0.5, 0], [x + 0.5, 1], [x, 1]]} for side, x in (("l", 0), ("r", 0.5))
    ]
    stream = Stream(zones=zones, presence={"appear_s": 0, "leave_s": 1, "by_zone": True, "labels": ["person"]})
    stream.see(0, thing(50, 50), thing(50, 50, "cat"))
    stream.see(1, thing(150, 50))
    assert [(name, body["zone"]) for name, body in stream.events] == [
        ("object_appeared", "l"),
        ("object_appeared", "r"),
        ("object_left", "l"),
    ]


@settings(max_examples=60)
@given(st.lists(st.tuples(st.floats(0.01, 3), st.booleans()), min_size=1, max_size=60))
def test_presence_alternates_for_any_sequence(frames: list[tuple[float, bool]]) -> None:
    """Appeared and left in turn, beginning with appeared."""
    stream, at = Stream(presence={"appear_s": 0.5, "leave_s": 1.0}, gap_s=100), 0.0
    for step, is_seen in frames:
        at += step
        stream.see(at, *([thing(50, 50)] if is_seen else []))
    names = [name for name, _ in stream.events]
    assert names == ["object_appeared", "object_left"] * (len(names) // 2) + ["object_appeared"] * (len(names) % 2)


def test_only_news_is_sent() -> None:
    """Another label, a move, a change of zone, and the keep-alive; a small move adds up against what was sent."""
    stream = Stream(changes={"moved_min": 0.05, "keep_alive_s": 5}, zones=[
        {"name": "z", "polygon": [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]}
    ])  # fmt: skip
    steps = [
        (0, [thing(50, 50)], True),
        (1, [thing(50, 50, score=0.7)], False),
        (2, [thing(58, 50)], False),
        (3, [thing(62, 50)], True),
        (3.5, [thing(62, 50), thing(20, 20)], True),
        (3.6, [thing(20, 20), thing(62, 50)], False),
        (3.7, [thing(62, 50), thing(20, 20, "cat")], True),
        (3.8, [], True),
        (3.9, [], False),
        (8.8, [], True),
        (9, [thing(96, 50)], True),
        (9.1, [thing(101, 50)], True),
        (9.2, [thing(102, 50)], False),
    ]
    for at, found, _ in steps:
        stream.see(at, *found)
    assert stream.news == [expected for _, _, expected in steps]


@pytest.mark.parametrize(
    ("before", "same", "other"),
    [
        (
            {"classes": [{"label": "a", "class_id": 0, "score": 0.9}]},
            {"classes": [{"label": "a", "class_id": 0, "score": 0.8}]},
            {"classes": [{"label": "b", "class_id": 1, "score": 0.9}]},
        ),
        (
            {"segments": [{"label": "a", "class_id": 0, "share": 0.3}]},
            {"segments": [{"label": "a", "class_id": 0, "share": 0.34}]},
            {"segments": [{"label": "a", "class_id": 0, "share": 0.36}]},
        ),
        (
            {"measurements": [{"name": "t", "value": 20.0, "unit": "C"}]},
            {"measurements": [{"name": "t", "value": 20.9, "unit": "C"}]},
            {"measurements": [{"name": "t", "value": 21.1, "unit": "C"}]},
        ),
        (
            {"anomaly": {"score": 0.1, "threshold": 0.5, "is_anomaly": False}},
            {"anomaly": {"score": 0.4, "threshold": 0.5, "is_anomaly": False}},
            {"anomaly": {"score": 0.6, "threshold": 0.5, "is_anomaly": True}},
        ),
        ({"texts": [{"text": "A", "score": 0.9}]}, {"texts": [{"text": "A", "score": 0.5}]}, {"texts": []}),
        ({"values": [{"values": [1.0]}]}, {"values": [{"values": [1.0]}]}, {"values": [{"values": [2.0]}]}),
    ],
    ids=lambda payload: next(iter(payload)),
)
def test_news_of_every_task(before: Any, same: Any, other: Any) -> None:
    """What counts is what people would call another result."""
    stream = Stream(changes={})
    for at, payload in enumerate((before, same, other)):
        stream.see(at, **payload)
    assert stream.news == [True, False, True]


def test_a_gap_begins_everything_anew() -> None:
    """Numbers go on, counts of lines stay, what was present is gone, the next result is news."""
    line = {"name": "gate", "start": [0.5, 0], "end": [0.5, 1]}
    stream = Stream(
        tracker={"hits_min": 1, "lost_s": 60}, lines=[line], presence={"appear_s": 0}, changes={"keep_alive_s": 600}
    )
    stream.see(0, thing(92, 50))
    stream.see(0.1, thing(99, 50))
    stream.see(0.2, thing(104, 50))
    stream.see(0.3, thing(104, 50))
    assert stream.news == [True, False, True, False]
    seen = stream.see(10.3, thing(96, 50))
    assert seen["detections"][0]["track_id"] == 2
    assert seen["lines"] == {"gate": {"left": 1, "right": 0}}
    assert stream.news[-1]
    assert [(name, body.get("cause")) for name, body in stream.events] == [
        ("object_appeared", None),
        ("object_left", "gap"),
        ("object_appeared", None),
    ]


def test_another_size_of_the_frame_begins_tracks_anew() -> None:
    """Nobody left, but what was where is not comparable."""
    stream = Stream(tracker={"hits_min": 1}, presence={"appear_s": 0}, changes={})
    stream.see(0, thing(50, 50))
    seen = stream.see(0.1, thing(50, 50), width=400)
    assert seen["detections"][0]["track_id"] == 2
    assert stream.news == [True, True]
    assert [name for name, _ in stream.events] == ["object_appeared"]


def test_time_that_stands_still_or_goes_back_is_no_harm() -> None:
    """Two frames with one stamp, and one from before."""
    stream = Stream(tracker={"hits_min": 1}, presence={"appear_s": 0, "leave_s": 0}, changes={})
    for at in (5.0, 5.0, 4.9, 5.1):
        assert stream.see(at, thing(50, 50))["detections"][0]["track_id"] == 1
    assert [name for name, _ in stream.events] == ["object_appeared"]


@pytest.mark.parametrize(
    ("described", "said"),
    [
        ({"lines": [{"name": "l", "start": [0, 0], "end": [1, 1]}]}, "lines need a tracker"),
        ({"presence": {"by_zone": True}}, "presence.by_zone needs zones"),
        ({"zones": [{"name": "z", "polygon": [[0, 0], [1, 1], [0, 1]]}] * 2}, "zones need names of their own"),
        ({"zones": [{"name": "z", "polygon": [[0, 0], [1, 1]]}]}, "at least 3 items"),
        ({"zones": [{"name": "z", "polygon": [[0, 0], [64, 1], [0, 1]]}]}, "less than or equal to 1"),
        ({"tracker": {}, "lines": [{"name": "l", "start": [0, 0], "end": [0, 0]}]}, "are the same point"),
    ],
)
def test_settings_that_do_not_fit_are_refused(described: Any, said: str) -> None:
    """With what to add."""
    with pytest.raises(ValidationError, match=said):
        StepsSettings.model_validate(described)
