"""A rate with a little credit: how fast old messages may follow the fresh ones."""

from __future__ import annotations

from agent.clock import NS_PER_S


class TokenBucket:
    """Lets so many things a second happen, and a burst after a rest. Exact in integers; not thread-safe.

    Args:
        per_s: tokens a second, at least 1.
        burst: tokens that a rest saves up at most, at least 1.
    """

    def __init__(self, per_s: int, burst: int) -> None:
        self._interval_ns = max(1, NS_PER_S // per_s)
        self._burst_ns = burst * self._interval_ns
        self._spent_until_ns = 0
        """The bucket is full once the clock is here: each token taken moves it by one interval."""

    def next_ns(self, now_ns: int) -> int:
        """Return when a token is there, `now_ns` or later."""
        return max(now_ns, self._spent_until_ns - self._burst_ns + self._interval_ns)

    def spend(self, now_ns: int) -> None:
        """Take one token; the caller has looked at `next_ns`."""
        self._spent_until_ns = max(self._spent_until_ns, now_ns) + self._interval_ns
