"""Values of a document become settings, and settings become what is reported."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.desired import Document, InvalidDocumentError
from agent.desired.values import (
    changed_scopes,
    changes,
    effective,
    load_document,
    overridden,
    touched_streams,
)
from agent.layers import Layers, Leaf
from agent.settings.scope import Scope
from tests.unit.core.test_located_json import TEXT, VALUES

BELOW = {
    ("models", 0, "name"): "seen",
    ("models", 0, "path"): "m",
    ("streams", 0, "name"): "front.door",
    ("streams", 0, "source"): "rtsp://user:secret@camera/main",
    ("streams", 0, "model"): "seen",
    ("streams", 1, "name"): "yard",
    ("streams", 1, "source"): "0",
    ("streams", 1, "model"): "seen",
}
ABOVE = {("streams", 1, "max_fps"): "4"}
LAYERS = Layers(
    tuple(Leaf(path, value, "agent.toml") for path, value in BELOW.items()),
    tuple(Leaf(path, value, "EDGEBEAT_STREAMS__1__MAX_FPS") for path, value in ABOVE.items()),
)


def test_a_document_reaches_a_stream_by_its_name_and_says_where_a_value_comes_from() -> None:
    """The name may hold dots; other values stay; the environment wins and that is told."""
    document = Document(42, {"streams": {"yard": {"max_fps": 9, "stride": 2}, "front.door": {"priority": 7}}})
    loaded = load_document(LAYERS, document)
    door, yard = loaded.settings.streams
    assert (door.priority, yard.stride, yard.max_fps) == (7, 2, 4.0)
    assert loaded.origins["streams.1.stride"] == "remote v42"
    assert loaded.origins["streams.1.max_fps"] == "EDGEBEAT_STREAMS__1__MAX_FPS"
    assert overridden(loaded, document, LAYERS) == {"streams.yard.max_fps": "EDGEBEAT_STREAMS__1__MAX_FPS"}


def test_a_stream_may_be_added_with_source_and_model() -> None:
    """It comes after those of the device, so that their indexes stay."""
    loaded = load_document(LAYERS, Document(1, {"streams": {"gate": {"source": "1", "model": "seen"}}}))
    assert [stream.name for stream in loaded.settings.streams] == ["front.door", "yard", "gate"]


def test_what_is_reported_names_streams_and_hides_passwords_and_what_belongs_to_the_device() -> None:
    """`settings/reported` is retained and read by many."""
    values = effective(LAYERS.load().settings)
    assert values["streams"]["front.door"]["source"] == "rtsp://***@camera/main"
    assert "name" not in values["streams"]["yard"]
    assert not {"mqtt", "device", "state", "remote"} & values.keys()
    assert "path" not in values["models"]["seen"]


def test_what_differs_is_told_by_path_with_its_mark() -> None:
    """For the audit, and to know what must be opened anew."""
    before = LAYERS.load().settings
    values = {"streams": {"front.door": {"source": "2", "priority": 1}}, "spool": {"max_hours": 1}}
    after = load_document(LAYERS, Document(1, values)).settings
    assert changes(before, after) == {
        "spool.max_hours": [72.0, 1.0],
        "streams.front.door.source": ["rtsp://***@camera/main", "2"],
        "streams.front.door.priority": [5, 1],
    }
    assert changed_scopes(before, after) == {
        "spool.max_hours": Scope.RESTART,
        "streams.front.door.source": Scope.RELOAD,
        "streams.front.door.priority": Scope.LIVE,
    }


def test_a_new_password_of_a_camera_is_a_change_although_nobody_sees_it() -> None:
    """What is hidden in reports is compared all the same."""
    before = LAYERS.load().settings
    values = {"streams": {"front.door": {"source": "rtsp://user:other@camera/main"}}}
    after = load_document(LAYERS, Document(1, values)).settings
    assert changed_scopes(before, after) == {"streams.front.door.source": Scope.RELOAD}
    assert changes(before, after) == {"streams.front.door.source": ["rtsp://***@camera/main"] * 2}


STEPS: dict[tuple[str | int, ...], Any] = {
    ("streams", 1, "steps", "gap_s"): 4.0,
    ("streams", 1, "steps", "tracker", "iou_min"): 0.5,
    ("streams", 1, "steps", "zones", 0, "name"): "gate",
    ("streams", 1, "steps", "zones", 0, "polygon"): [[0, 0], [1, 0], [1, 1]],
}
WITH_STEPS = Layers((*LAYERS.below, *(Leaf(path, value, "agent.toml") for path, value in STEPS.items())))
ZONE = {"name": "bed", "polygon": [[0, 0], [0.5, 0], [0.5, 1]]}


def test_what_a_stream_does_with_its_results_is_set_field_by_field() -> None:
    """What the document leaves alone stays as the file says; a list is one value; null takes a part away."""
    steps = {"tracker": {"hits_min": 5}, "zones": [ZONE], "presence": {}, "filter": {"scores_min": {"cat": 0.5}}}
    loaded = load_document(WITH_STEPS, Document(7, {"streams": {"yard": {"steps": steps}}}))
    found = loaded.settings.streams[1].steps
    assert found.tracker is not None
    assert (found.gap_s, found.tracker.iou_min, found.tracker.hits_min) == (4.0, 0.5, 5)
    assert [zone.name for zone in found.zones] == ["bed"]
    assert found.presence is not None
    assert loaded.origins["streams.1.steps.tracker.iou_min"] == "agent.toml"
    assert loaded.origins["streams.1.steps.tracker.hits_min"] == "remote v7"
    assert loaded.origins["streams.1.steps.zones.0.name"] == "remote v7"
    before = WITH_STEPS.load().settings
    told = changes(before, loaded.settings)
    assert told["streams.yard.steps.tracker.hits_min"] == [2, 5]
    assert told["streams.yard.steps.filter.scores_min.cat"] == [None, 0.5]
    assert set(changed_scopes(before, loaded.settings).values()) == {Scope.LIVE}
    without = load_document(WITH_STEPS, Document(8, {"streams": {"yard": {"steps": {"tracker": None}}}}))
    assert without.settings.streams[1].steps.tracker is None
    assert effective(without.settings)["streams"]["yard"]["steps"].keys() == {"zones", "lines", "gap_s"}


def test_an_empty_part_asks_for_its_defaults_and_leaves_what_the_file_says() -> None:
    """So that `{}` means the same wherever the part came from first."""
    values: dict[str, Any] = {
        "streams": {"yard": {"steps": {"tracker": {}}}, "front.door": {"steps": {"tracker": {}}}}
    }
    door, yard = load_document(WITH_STEPS, Document(1, values)).settings.streams
    assert door.steps.tracker is not None
    assert yard.steps.tracker is not None
    assert (door.steps.tracker.iou_min, yard.steps.tracker.iou_min) == (0.3, 0.5)


def test_a_list_may_be_set_from_afar() -> None:
    """In any section; what is in it is as strict as everything else."""
    loaded = load_document(LAYERS, Document(1, {"degradation": {"steps": ["trim", "stride"]}}))
    assert loaded.settings.degradation.steps == ("trim", "stride")
    with pytest.raises(InvalidDocumentError) as caught:
        load_document(LAYERS, Document(1, {"degradation": {"steps": ["trim", 5]}}))
    assert [(error.path, error.code) for error in caught.value.errors] == [
        ("values.degradation.steps.1", "not_a_choice")
    ]


def test_how_a_signal_is_read_opens_its_source_again() -> None:
    """As the marks of `samples` say; the stream must deliver if the change is to count as good."""
    before = LAYERS.load().settings
    after = load_document(LAYERS, Document(1, {"streams": {"front.door": {"samples": {"rate_hz": 50}}}})).settings
    assert changed_scopes(before, after)["streams.front.door.samples.rate_hz"] is Scope.RELOAD
    assert touched_streams(before, after) == {"front.door"}


@pytest.mark.parametrize(
    ("steps", "path", "code"),
    [
        (5, "", "wrong_type"),
        (None, "", "wrong_type"),
        ({"trackr": {}}, ".trackr", "unknown_key"),
        ({"tracker": {"iou": 1}}, ".tracker.iou", "unknown_key"),
        ({"tracker": {"iou_min": 2}}, ".tracker.iou_min", "out_of_range"),
        ({"tracker": {"iou_min": "0.5"}}, ".tracker.iou_min", "wrong_type"),
        ({"zones": {"bed": ZONE}}, ".zones", "wrong_type"),
        ({"zones": [{**ZONE, "polygon": [[0, 2]]}]}, ".zones.0.polygon", "out_of_range"),
        ({"zones": [ZONE, ZONE]}, "", "invalid_value"),
        ({"lines": [{"name": "in", "start": [0, 0], "end": [1, 1]}]}, "", "invalid_value"),
    ],
)
def test_an_error_inside_of_steps_has_its_path(steps: Any, path: str, code: str) -> None:
    """Types and ranges by field, and what does not fit together by the part that it is in."""
    with pytest.raises(InvalidDocumentError) as caught:
        load_document(LAYERS, Document(1, {"streams": {"yard": {"steps": steps}}}))
    found = {(error.path, error.code) for error in caught.value.errors}
    assert (f"values.streams.yard.steps{path}", code) in found


def test_a_long_list_is_told_cut() -> None:
    """An event and a line of the audit stay small, whatever a document holds."""
    zones = [{**ZONE, "name": f"zone-{number}"} for number in range(20)]
    after = load_document(LAYERS, Document(1, {"streams": {"yard": {"steps": {"zones": zones}}}})).settings
    _, told = changes(LAYERS.load().settings, after)["streams.yard.steps.zones"]
    assert (len(told), told[-3:]) == (200, "...")


SECTIONS = st.sampled_from(["streams", "models", "health", "limits", "mqtt", "degradation", "log", "x"]) | TEXT


FIELDS = st.sampled_from(["steps", "samples", "tracker", "zones", "gap_s"]) | TEXT
NAMES = st.sampled_from(["yard", "seen", "period_s"]) | TEXT
INSIDE = st.recursive(VALUES, lambda inner: st.dictionaries(FIELDS, inner, max_size=3), max_leaves=6)


@given(st.dictionaries(SECTIONS, st.dictionaries(NAMES, VALUES | INSIDE), max_size=4))
def test_no_values_make_it_raise_anything_else(values: dict[str, Any]) -> None:
    """Settings, or errors with paths below `values`."""
    errors = []
    try:
        load_document(LAYERS, Document(1, values))
    except InvalidDocumentError as error:
        errors = error.errors
    assert all(found.path.startswith("values") and found.code for found in errors)


def test_a_document_that_was_valid_and_is_not_any_more() -> None:
    """Somebody edited the file: the stream is gone."""
    with pytest.raises(InvalidDocumentError) as caught:
        load_document(Layers(LAYERS.below[:5], ()), Document(1, {"streams": {"yard": {"stride": 2}}}))
    assert caught.value.errors[0].code == "unknown_name"
