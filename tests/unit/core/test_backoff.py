"""Waits between attempts."""

from __future__ import annotations

import random

from agent.clock import NS_PER_S
from agent.core.backoff import Backoff


def test_waits_are_jittered_and_capped() -> None:
    """Between the floor and a ceiling that doubles up to the cap."""
    backoff = Backoff(cap_ns=8 * NS_PER_S, rng=random.Random(3))
    for ceiling_s in (1, 2, 4, 8, 8, 8):
        assert NS_PER_S // 5 <= backoff.next_wait_ns() <= ceiling_s * NS_PER_S


def test_two_boxes_do_not_wait_alike() -> None:
    """The jitter is what keeps a fleet apart."""
    waits = {Backoff(first_ns=30 * NS_PER_S, rng=random.Random(seed)).next_wait_ns() for seed in range(50)}
    assert len(waits) == 50


def test_it_does_not_overflow_and_starts_anew() -> None:
    """A month of failures stays at the cap; a success resets it."""
    backoff = Backoff(rng=random.Random(0))
    for _ in range(5000):
        assert backoff.next_wait_ns() <= 30 * NS_PER_S
    backoff.reset()
    assert backoff.next_wait_ns() <= NS_PER_S
