"""Random settings changes between random events: every frame still has exactly one outcome."""

from __future__ import annotations

import random

import numpy as np
import pytest

from agent.clock import NS_PER_MS
from agent.core.intake import Intake
from agent.core.ledger import Outcome
from agent.core.policy import Overflow, SchedulerPolicy, StreamPolicy
from agent.core.scheduler import Ending
from agent.frame import Capture, Frame

NAMES = ("door", "yard", "hall", "roof")
SESSIONS = ("small", "large")
PIXELS = np.zeros((1, 1, 3), np.uint8)


def random_policies(rng: random.Random) -> dict[str, StreamPolicy]:
    """Draw which streams there are and how each is treated."""
    return {
        name: StreamPolicy(
            budget_ns=rng.choice([None, 50, 250]) and rng.choice([50, 250]) * NS_PER_MS,
            queue_frames=rng.randint(1, 3),
            overflow=rng.choice(list(Overflow)),
            late_is_published=rng.random() < 0.2,
            session=rng.choice(SESSIONS),
            priority=rng.randint(0, 2),
            max_hz=rng.choice([None, 5.0]),
            stride=rng.randint(1, 3),
        )
        for name in NAMES
        if rng.random() < 0.7
    }


@pytest.mark.parametrize("seed", range(60))
def test_books_stay_exact(seed: int) -> None:
    """Streams come, go and move to another model while their frames wait and run."""
    rng = random.Random(seed)
    intake = Intake(random_policies(rng), SchedulerPolicy(threads=2))
    running: list[tuple[Frame, int]] = []
    sessions_taken: set[str] = set()
    now_ns = 0
    captured = 0
    for _ in range(400):
        now_ns += rng.randrange(20 * NS_PER_MS)
        action = rng.random()
        if action < 0.5 and intake.policies:
            stream = rng.choice(sorted(intake.policies))
            captured += 1
            frame = intake.open(stream, Capture(now_ns, PIXELS), now_ns)
            if frame is not None and intake.is_full(stream):
                intake.settle(frame, Outcome.SHUTDOWN)
            elif frame is not None:
                intake.queue(frame, now_ns)
        elif action < 0.75:
            session = rng.choice(SESSIONS)
            frame = intake.take(now_ns, session)
            if frame is not None:
                assert session not in sessions_taken
                running.append((frame, now_ns))
                sessions_taken.add(session)
        elif action < 0.95 and running:
            frame, started_ns = running.pop(rng.randrange(len(running)))
            ending = rng.choice(list(Ending))
            outcome = intake.finish(frame, started_ns, now_ns, ending)
            intake.settle(frame, outcome)
            sessions_taken = {name for name in SESSIONS if name in intake.scheduler._running}
        else:
            intake.reconfigure(random_policies(rng), SchedulerPolicy(threads=2, run_threads=rng.randint(1, 2)))
    intake.drain()
    for frame, started_ns in running:
        intake.settle(frame, intake.finish(frame, started_ns, now_ns))
    assert sum(ledger.captured for ledger in intake.ledgers.values()) == captured
    for ledger in intake.ledgers.values():
        assert ledger.is_exact()
        assert ledger.in_flight == 0
