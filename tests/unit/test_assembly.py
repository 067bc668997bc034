"""Settings become sources and policies."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.assembly import build_ladder, stream_policy
from agent.clock import NS_PER_MS, NS_PER_S
from agent.core.degradation import Ladder, Readings
from agent.core.policy import Overflow
from agent.errors import ConfigError
from agent.interfaces import LoadedModel
from agent.settings import DegradationSettings, StreamSettings
from tests.fakes import ScriptedEngine, fake_model
from tests.paths import CLIP


def stream(**changes: object) -> StreamSettings:
    """Build a stream's settings."""
    values = {"name": "s", "source": str(CLIP), "model": "m"}
    return StreamSettings.model_validate(values | changes)


def test_policies_follow_the_mode() -> None:
    """One slot in live mode, a queue that keeps order when asked for, back-pressure for files."""
    assert stream_policy(stream()).overflow is Overflow.SUPERSEDE
    assert stream_policy(stream()).budget_ns == 250 * NS_PER_MS
    assert stream_policy(stream(queue_frames=3)).overflow is Overflow.DROP_OLDEST
    batch = stream_policy(stream(mode="every_frame"))
    assert (batch.overflow, batch.budget_ns, batch.queue_frames) == (Overflow.BLOCK, None, 4)
    assert stream_policy(stream(on_late="mark")).late_is_published


def test_frames_of_a_model_that_remembers_keep_their_order() -> None:
    """Also in live mode; leaving some out on purpose is refused."""
    policy = stream_policy(stream(), is_stateful=True)
    assert (policy.overflow, policy.queue_frames) == (Overflow.DROP_OLDEST, 8)
    assert stream_policy(stream(queue_frames=1), is_stateful=True).queue_frames == 1
    for gate in ({"stride": 2}, {"max_fps": 5}, {"changed_share_min": 0.1}):
        with pytest.raises(ConfigError, match="m keeps a state from frame to frame"):
            stream_policy(stream(**gate), is_stateful=True)


def ladder(*streams: StreamSettings, model: LoadedModel | None = None, **settings: object) -> Ladder:
    """Build the ladder of streams that all use one model."""
    models = {"m": model or fake_model(ScriptedEngine())}
    return build_ladder(DegradationSettings.model_validate(settings), streams, models)


def labels(built: Ladder) -> list[str]:
    """Return what its steps are called, in the order in which they are taken."""
    return [step.label for step in built.steps]


THREE = tuple(stream(name=f"p{priority}", priority=priority) for priority in (9, 5, 1))


def test_streams_are_paused_from_the_lowest_priority_and_never_the_highest() -> None:
    """Whatever their order in the file, and however long it stays bad."""
    for streams in (THREE, THREE[::-1]):
        built = ladder(*streams, steps=["stream"], worse_after_s=1)
        hot = Readings(temperature_margin_c=-5.0)
        changes = [built.update(hot, second * NS_PER_S) for second in range(60)]
        assert [change.step.label for change in changes if change is not None] == ["p1 paused", "p5 paused"]


def test_streams_of_one_priority_are_not_paused() -> None:
    """None is less than another; of two that are lower than a third, both are."""
    assert labels(ladder(stream(name="a"), stream(name="b"), steps=["stream"])) == []
    lower = [stream(name=name, priority=2) for name in ("a", "b")]
    assert labels(ladder(*lower, stream(name="c"), steps=["stream"])) == ["a paused", "b paused"]


def test_a_file_that_is_read_to_its_end_is_not_paused_and_has_no_stride() -> None:
    """Its frames would be lost; a lower live stream beside it is paused all the same."""
    batch = stream(name="batch", priority=0, mode="every_frame")
    assert labels(ladder(batch, *THREE, steps=["stream"])) == ["p1 paused", "p5 paused"]
    assert labels(ladder(batch, steps=["stride"])) == []


def test_steps_come_in_the_order_of_the_settings() -> None:
    """Two strides, the variants from the heaviest on, the streams; memory first where that is asked for."""
    model = fake_model(ScriptedEngine(), ScriptedEngine(), ScriptedEngine())
    parts = {
        "trim": ["unused memory given back"],
        "unload": ["variants that are not in use unloaded"],
        "stride": ["stride 2", "stride 3"],
        "variant": ["m: small", "m: tiny"],
        "stream": ["p1 paused", "p5 paused"],
    }
    for order in (list(parts), list(parts)[::-1], ["variant", "stride"], []):
        expected = [label for kind in order for label in parts[kind]]
        assert labels(ladder(*THREE, model=model, steps=order)) == expected


def test_a_step_that_would_change_nothing_is_left_out() -> None:
    """One network: there is no lighter variant, and none that could leave the memory."""
    assert labels(ladder(stream(), steps=["unload", "variant"])) == []


def test_a_model_that_remembers_has_no_stride() -> None:
    """Each frame in between would break its state; a stream of another kind beside it brings the step back."""
    stateful = replace(fake_model(ScriptedEngine()), is_stateful=True)
    assert labels(ladder(*THREE, model=stateful, steps=["stride"])) == []
    models = {"m": stateful, "other": fake_model(ScriptedEngine())}
    settings = DegradationSettings.model_validate({"steps": ["stride"]})
    built = build_ladder(settings, [stream(), stream(name="eye", model="other")], models)
    assert labels(built) == ["stride 2", "stride 3"]
