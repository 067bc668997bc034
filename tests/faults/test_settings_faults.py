"""Power that fails while settings change, at a real agent; docs/benchmarks.md has the long form of it."""

from __future__ import annotations

import random
from pathlib import Path

from benchmarks.remote_kills import kill_often
from tests.broker import Broker, needs_mosquitto


@needs_mosquitto
def test_a_killed_agent_starts_on_a_valid_document_with_its_own_values(tmp_path: Path) -> None:
    """Killed at random moments while good and bad documents come."""
    with Broker(tmp_path) as broker:
        counts = kill_often(tmp_path, broker.port, 4, random.Random(7))
    assert counts["starts"] == 5
    assert counts["wrong"] == 0
    assert counts["remote"] > 0
