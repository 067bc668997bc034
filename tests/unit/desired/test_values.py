"""Values of a document become settings, and settings become what is reported."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.desired import Document, InvalidDocumentError
from agent.desired.values import changed_scopes, changes, effective, load_document, overridden
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


SECTIONS = st.sampled_from(["streams", "models", "health", "limits", "mqtt", "degradation", "log", "x"]) | TEXT


NAMES = st.sampled_from(["yard", "seen", "period_s"]) | TEXT


@given(st.dictionaries(SECTIONS, st.dictionaries(NAMES, VALUES), max_size=4))
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
