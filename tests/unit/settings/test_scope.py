"""The mark on every field: who may change it."""

from __future__ import annotations

import pytest

from agent.settings import Settings, StreamSettings
from agent.settings.scope import Scope, leaf_fields, may_come_from_afar, scope_of
from tools.settings_reference import settings_page

FIELDS = {".".join(path): field for path, field in leaf_fields(Settings)}


def test_every_field_has_a_mark() -> None:
    """A new field that nobody thought of stays on the device, and this test asks for a decision."""
    unmarked = [path for path, field in FIELDS.items() if "scope" not in str(field.json_schema_extra)]
    assert not unmarked, "mark them with Live, Reload, Restart or LocalOnly of agent.settings.scope"


@pytest.mark.parametrize(
    "path", [path for path in FIELDS if path.startswith(("device.", "mqtt.", "state.", "remote."))]
)
def test_what_reaches_the_broker_or_guards_the_change_is_local_only(path: str) -> None:
    """Neither the broker nor the rules of remote changes can be changed from afar."""
    assert scope_of(FIELDS[path]) is Scope.LOCAL_ONLY


def test_no_path_and_no_name_can_be_changed_from_afar() -> None:
    """Names are addresses, and paths reach into the device's files."""
    for path, field in FIELDS.items():
        is_path = "Path" in str(field.annotation)
        if is_path or path in ("streams.*.name", "models.*.name"):
            assert scope_of(field) is Scope.LOCAL_ONLY, path


def test_sections_inside_of_others_are_changed_from_afar_as_their_marks_say() -> None:
    """A local-only field inside one would be held back by nothing when the settings file is read again."""
    inside = [path for path in FIELDS if path.startswith("streams.*.") and path.count(".") > 2]
    assert {"streams.*.steps.tracker.iou_min", "streams.*.samples.rate_hz"} <= set(inside)
    assert not [path for path in inside if scope_of(FIELDS[path]) is Scope.LOCAL_ONLY]
    assert all(may_come_from_afar(StreamSettings.model_fields[name]) for name in ("steps", "samples"))


def test_the_marks_are_in_the_schema_and_on_the_page() -> None:
    """An operator's tool reads the one, an operator the other."""
    streams = Settings.model_json_schema()["$defs"]["StreamSettings"]["properties"]
    assert (streams["deadline_ms"]["scope"], streams["source"]["scope"]) == ("live", "reload")
    assert streams["annotated_image"]["scope"] == "local_only"
    assert "| `deadline_ms` | none | live |" in settings_page()
