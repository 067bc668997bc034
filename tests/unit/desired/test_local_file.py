"""What of another settings file can be used in a run, and what waits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.desired.local_file import local_changes, usable, waiting
from agent.settings import Settings

VALUES: dict[str, Any] = {
    "device": {"id": "porch"},
    "mqtt": {"url": "mqtt://one:1883"},
    "state": {"dir": "/data"},
    "models": [{"name": "seen", "path": "m"}],
    "streams": [{"name": "door", "source": "0", "model": "seen"}],
}


def settings(**more: Any) -> Settings:
    """Return settings of one stream with some sections replaced."""
    return Settings(**{**VALUES, **more})


@pytest.mark.parametrize(
    ("more", "path"),
    [
        ({"device": {"id": "yard"}}, "device.id"),
        ({"mqtt": {"url": "mqtt://two:1883"}}, "mqtt.url"),
        ({"limits": {"inference_cores": [0]}}, "limits.inference_cores"),
        ({"remote": {"probation_s": 5}}, "remote.probation_s"),
        ({"streams": [{**VALUES["streams"][0], "annotated_image": "/x.jpg"}]}, "streams.door.annotated_image"),
        ({"images": {"on_find": True}}, "images.on_find"),
    ],
)
def test_what_only_a_start_brings_in_waits_and_is_not_applied(more: dict[str, Any], path: str) -> None:
    """The run goes on with the value that it was started with, and the change is told."""
    started, asked = settings(), settings(**more)
    assert usable(started, asked) == started
    assert waiting(started, asked) == [path]
    assert list(local_changes(started, asked)) == [path]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"models": [{"name": "seen", "path": "other"}]}, {"models.seen.path": ["m", "other"]}),
        (
            {"streams": [{**VALUES["streams"][0], "steps": {"gap_s": 3.0}}]},
            {},
        ),
        ({"log": {"level": "debug"}}, {}),
    ],
)
def test_what_can_be_applied_is(more: dict[str, Any], told: dict[str, Any]) -> None:
    """Models by their path, steps, and whatever may come from afar; told here if it may not."""
    started, asked = settings(), settings(**more)
    assert usable(started, asked) == asked
    assert waiting(started, asked) == []
    assert local_changes(started, asked) == told


def test_a_new_stream_comes_without_the_picture_that_only_a_start_draws() -> None:
    """The thread that draws has its list from the start."""
    new = {"name": "yard", "source": "1", "model": "seen", "annotated_image": "/y.jpg"}
    asked = settings(streams=[VALUES["streams"][0], new])
    stream = usable(settings(), asked).streams[1]
    assert (stream.name, stream.source, stream.annotated_image) == ("yard", "1", None)
    assert waiting(settings(), asked) == ["streams.yard.annotated_image"]


def test_what_was_given_stays_known() -> None:
    """Whether the state folder was named decides whether it may be made."""
    asked = settings(state={}, device={"id": "yard"})
    assert "dir" in usable(settings(), asked).state.model_fields_set
    assert usable(settings(), asked).state.dir == Path("/data")
