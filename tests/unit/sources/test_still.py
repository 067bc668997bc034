"""Frames without a change are left out; whatever moves is seen."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agent.clock import NS_PER_S
from agent.core.intake import Intake
from agent.core.ledger import Outcome
from agent.core.policy import StreamPolicy
from agent.frame import Capture
from agent.sources.still import GatedSource, StillGate
from tests.fakes import PICTURE, ScriptedSource

SCENE = np.random.default_rng(0).integers(0, 200, (30, 40, 3), np.uint8).repeat(16, 0).repeat(16, 1)


def noisy(seed: int) -> NDArray[np.uint8]:
    """The scene as a cheap sensor sees it: noise of 4 levels on each pixel."""
    noise = np.random.default_rng(seed).normal(0, 4, SCENE.shape)
    return np.clip(SCENE + noise, 0, 255).astype(np.uint8)


def test_noise_is_no_change_and_a_person_is() -> None:
    """A dark shape of 0.9% of the picture passes, and again when it has gone."""
    gate = StillGate(0.005)
    assert not gate.is_still(noisy(0), 0)
    assert all(gate.is_still(noisy(seed), seed) for seed in range(1, 20))
    person = noisy(20)
    person[200:272, 300:340] = 255 - person[200:272, 300:340]
    assert not gate.is_still(person, 20)
    assert gate.is_still(person, 21)
    assert not gate.is_still(noisy(22), 22)


def test_a_slow_change_adds_up_and_a_frame_passes_each_five_seconds() -> None:
    """It is compared with the last one that passed, not with the one before."""
    gate = StillGate(0.5)
    grey = [gate.is_still(np.full((48, 64, 3), 100 + level, np.uint8), 0) for level in range(27)]
    assert [index for index, is_still in enumerate(grey) if not is_still] == [0, 13, 26]
    gate = StillGate(0.5)
    passed = [second for second in range(12) if not gate.is_still(SCENE, second * NS_PER_S)]
    assert passed == [0, 5, 10]


def test_a_still_frame_is_counted_as_skipped() -> None:
    """Captured, one outcome, and nothing of it reaches the model."""
    source = GatedSource(ScriptedSource([Capture(1, PICTURE), Capture(2, PICTURE), None]), StillGate(0.1))
    source.open()
    intake = Intake({"s": StreamPolicy(None)})
    frames = []
    while (capture := source.read()) is not None:
        frames.append(intake.open("s", capture, 2))
    assert [frame is not None for frame in frames] == [True, False]
    assert intake.ledgers["s"].count(Outcome.SKIPPED) == 1
