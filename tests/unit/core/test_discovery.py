"""What Home Assistant is told, against the fields that its documentation lists (checked for 2025.4).

`scripts/check_home_assistant` validates the same document with Home Assistant's own code, on a Python of its own.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from agent.core.discovery import config_topic, document, is_ours

COMMON = {"platform", "name", "unique_id", "entity_category"}
FIELDS = {
    "sensor": COMMON
    | {
        "state_topic",
        "value_template",
        "expire_after",
        "device_class",
        "unit_of_measurement",
        "state_class",
        "options",
    },
    "image": COMMON | {"image_topic", "content_type"},
    "update": COMMON | {"state_topic", "value_template", "title"},
}
REQUIRED = {
    "sensor": {"platform", "unique_id", "state_topic"},
    "image": {"platform", "unique_id", "image_topic"},
    "update": {"platform", "unique_id", "state_topic"},
}
UNITS = {"temperature": "°C", "data_size": "MiB", "duration": "ms"}
TOPIC = r"homeassistant/\w+/[A-Za-z0-9_-]+/config"


def build(**more: Any) -> dict[str, Any]:
    """Build the document of a device with two streams."""
    values: dict[str, Any] = {
        "base": "edgebeat/v1/porch",
        "device": "porch",
        "version": "0.1.0",
        "streams": {"door": "detection", "meter": "raw"},
        "models": {"coco": "1.0.0"},
        "stale_after_s": 65.0,
    }
    return document(**{**values, **more})


def test_every_entity_has_the_fields_of_its_platform_and_no_other() -> None:
    """Home Assistant leaves out what it does not know, without a word."""
    told = build()
    assert told["device"]["identifiers"] == ["edgebeat_porch"]
    assert told["origin"]["name"]
    for key, entity in told["components"].items():
        platform = entity["platform"]
        assert REQUIRED[platform] <= entity.keys() <= FIELDS[platform], key
        if "device_class" in entity and "options" not in entity:
            assert entity["unit_of_measurement"] == UNITS[entity["device_class"]]
        if "options" in entity:
            assert entity["device_class"] == "enum"
            assert not entity.keys() & {"state_class", "unit_of_measurement"}
        for field in entity.keys() & {"state_topic", "image_topic"}:
            assert entity[field].startswith("edgebeat/v1/porch/")


def test_what_is_told_is_what_was_promised() -> None:
    """Rate, age, temperature, state, last object, counts, an image, the model; only labelled tasks have objects."""
    keys = build()["components"].keys()
    assert {"state", "temperature", "memory", "dropped", "coco_model"} <= keys
    assert {key for key in keys if key.startswith("door")} == {
        "door_fps",
        "door_age",
        "door_published",
        "door_image",
        "door_last",
        "door_count",
    }
    assert {key for key in keys if key.startswith("meter")} == {
        "meter_fps",
        "meter_age",
        "meter_published",
        "meter_image",
    }


def test_a_name_is_a_string_of_the_template_whatever_is_in_it() -> None:
    """Settings allow quotes and braces in the name of a stream."""
    components = build(streams={"a\"b'}}": "raw"})["components"]
    assert components["a\"b'}}_fps"]["value_template"] == '{{ value_json.streams["a\\"b\'}}"].published_fps }}'


@pytest.mark.parametrize("device", ["porch", "a.b", "tür😀", "x" * 64, "a:b"])
def test_every_device_has_a_topic_of_its_own_that_home_assistant_takes(device: str) -> None:
    """It takes letters, digits, - and _ alone."""
    topic = config_topic("homeassistant", device)
    assert re.fullmatch(TOPIC, topic)
    assert topic != config_topic("homeassistant", device.replace(".", "_").replace(":", "_") + "_")
    assert config_topic("homeassistant", "a.b") != config_topic("homeassistant", "a_b")


@pytest.mark.parametrize(
    ("payload", "answer"),
    [
        (json.dumps(build()).encode(), True),
        (b'{"origin":{"name":"Other"}}', False),
        (b'{"origin":"Edgebeat"}', False),
        (b"[]", False),
        (b"[" * 100_000, False),
        (b"\xff", False),
        (b"", False),
    ],
)
def test_only_our_own_document_is_taken_away(payload: bytes, answer: bool) -> None:
    """Anybody may have written to that topic."""
    assert is_ours(payload) is answer
