"""The steps of streams follow settings and models."""

from __future__ import annotations

from typing import Any

from agent.clock import NEVER_NS, NS_PER_S
from agent.core.policy import SchedulerPolicy, StreamPolicy
from agent.frame import Frame
from agent.loops.inbox import Inbox
from agent.loops.stream_steps import StreamSteps
from agent.settings.steps import StepsSettings
from tests.fakes import PICTURE, ManualClock


def policy(**described: Any) -> StreamPolicy:
    """Describe a stream with steps."""
    return StreamPolicy(None, steps=StepsSettings.model_validate(described) if described else None)


class Bench:
    """Steps between an inbox and the test."""

    def __init__(self, **policies: StreamPolicy) -> None:
        self.inbox = Inbox(policies, ManualClock())
        self.steps = StreamSteps(self.inbox)

    def see(self, at_s: float, stream: str = "s") -> tuple[bool, list[tuple[str, Any]]]:
        """Take a frame with one thing on it; return whether it is news, and the events."""
        frame = Frame(stream, 1, round(at_s * NS_PER_S), NEVER_NS, PICTURE)
        found: Any = {"classes": [{"label": "thing", "class_id": 1, "score": 0.9}]}
        payload, events = self.steps.observe(frame, found)
        return self.steps.is_news(frame, payload), [(event.name, event.body.get("cause")) for event in events]


WATCHED = {"presence": {"appear_s": 0}, "changes": {}}


def test_each_stream_has_its_own_state() -> None:
    """And one without steps has none."""
    bench = Bench(s=policy(**WATCHED), t=policy(**WATCHED), plain=policy())
    assert bench.see(1) == (True, [("object_appeared", None)])
    assert bench.see(1.1) == (False, [])
    assert bench.see(1.2, "t") == (True, [("object_appeared", None)])
    assert [bench.see(at, "plain") for at in (1.3, 1.4)] == [(True, [])] * 2
    assert [bench.steps.has(name) for name in ("s", "t", "plain")] == [True, True, False]


def test_other_settings_begin_anew() -> None:
    """What was present is reported as no longer watched; the same settings again change nothing."""
    bench = Bench(s=policy(**WATCHED))
    bench.see(1)
    bench.inbox.reconfigure({"s": policy(**WATCHED)}, SchedulerPolicy())
    assert bench.see(1.1) == (False, [])
    bench.inbox.reconfigure({"s": policy(**WATCHED, gap_s=20)}, SchedulerPolicy())
    assert bench.see(1.2) == (True, [("object_left", "reset"), ("object_appeared", None)])
    bench.inbox.reconfigure({"s": policy()}, SchedulerPolicy())
    assert bench.see(1.3) == (True, [("object_left", "reset")])
    assert bench.see(1.4) == (True, [])


def test_another_model_begins_anew() -> None:
    """For all of its streams."""
    bench = Bench(s=policy(**WATCHED), t=policy(**WATCHED))
    bench.see(1)
    bench.see(1, "t")
    ended = bench.steps.reset()
    assert [(event.name, event.body["stream"], event.body["cause"]) for event in ended] == [
        ("object_left", "s", "reset"),
        ("object_left", "t", "reset"),
    ]
    assert bench.see(1.1) == (True, [("object_appeared", None)])
