"""Settings become sources and policies."""

from __future__ import annotations

import pytest

from agent.assembly import stream_policy
from agent.clock import NS_PER_MS
from agent.core.policy import Overflow
from agent.errors import ConfigError
from agent.settings import StreamSettings
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
