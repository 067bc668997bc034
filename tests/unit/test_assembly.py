"""Settings become sources and policies."""

from __future__ import annotations

import pytest

from agent.assembly import build_source, stream_policy
from agent.clock import NS_PER_MS, SystemClock
from agent.core.scheduler import Overflow
from agent.errors import ConfigError
from agent.settings import StreamSettings
from agent.sources.camera import CameraSource
from agent.sources.network import NetworkSource
from tests.paths import CLIP


def stream(**changes: object) -> StreamSettings:
    """Build a stream's settings."""
    values = {"name": "s", "source": str(CLIP), "model": "m"}
    return StreamSettings.model_validate(values | changes)


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("/dev/video7", CameraSource),
        ("0", CameraSource),
        ("/dev/v4l/by-id/cam", CameraSource),
        ("rtsp://u:p@h/x", NetworkSource),
        ("http://h/x", NetworkSource),
    ],
)
def test_sources_are_told_apart_by_their_text(source: str, kind: type) -> None:
    """A device, a number and a URL."""
    assert isinstance(build_source(stream(source=source), SystemClock()), kind)


def test_a_source_that_is_nothing_is_refused() -> None:
    """With what was looked for and where."""
    with pytest.raises(ConfigError, match=r"streams\.s: source 'nothing\.mp4' is no file"):
        build_source(stream(source="nothing.mp4"), SystemClock())


def test_policies_follow_the_mode() -> None:
    """One slot in live mode, a queue that keeps order when asked for, back-pressure for files."""
    assert stream_policy(stream()).overflow is Overflow.SUPERSEDE
    assert stream_policy(stream()).budget_ns == 250 * NS_PER_MS
    assert stream_policy(stream(queue_frames=3)).overflow is Overflow.DROP_OLDEST
    batch = stream_policy(stream(mode="every_frame"))
    assert (batch.overflow, batch.budget_ns, batch.queue_frames) == (Overflow.BLOCK, None, 4)
    assert stream_policy(stream(on_late="mark")).late_is_published
