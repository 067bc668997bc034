"""Waits between attempts: exponential with full jitter."""

from __future__ import annotations

import random

from agent.clock import NS_PER_S


class Backoff:
    """Gives the wait before each next attempt.

    Full jitter, as in "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015): uniform between a floor
    and a ceiling that doubles, so that a hundred boxes do not return to a restarted broker in one second.

    Args:
        first_ns: ceiling of the first wait.
        cap_ns: the ceiling's limit.
        floor_ns: the least wait, so that a failure that comes at once does not spin.
        rng: injected, seeded in tests.
    """

    def __init__(
        self,
        *,
        first_ns: int = NS_PER_S,
        cap_ns: int = 30 * NS_PER_S,
        floor_ns: int = NS_PER_S // 5,
        rng: random.Random | None = None,
    ) -> None:
        self._first_ns = first_ns
        self._cap_ns = cap_ns
        self._floor_ns = floor_ns
        self._rng = rng or random.Random()  # noqa: S311  Jitter is not a secret.
        self.failures = 0

    def next_wait_ns(self) -> int:
        """Count one failure and return how long to wait."""
        ceiling_ns = min(self._cap_ns, self._first_ns * 2 ** min(self.failures, 20))
        self.failures += 1
        return max(self._floor_ns, int(self._rng.uniform(0, ceiling_ns)))

    def reset(self) -> None:
        """Forget the failures after a success that lasted."""
        self.failures = 0
