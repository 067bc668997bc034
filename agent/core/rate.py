"""Which captured frames may ask for inference at all: `max_fps`, stride and pause."""

from __future__ import annotations

from agent.clock import NS_PER_S


class RateGate:
    """Lets frames through at no more than a given rate, on a schedule rather than by the gap.

    By the gap alone a 30 fps camera limited to 20 fps would give 15: each frame comes 33 ms after the last,
    never 50. The schedule keeps the phase and allows half an interval of jitter; after a pause it starts anew
    instead of letting a burst through.
    """

    def __init__(self, rate_hz: float | None) -> None:
        self._interval_ns = int(NS_PER_S / rate_hz) if rate_hz else 0
        self._due_ns: int | None = None

    def allows(self, captured_at_ns: int) -> bool:
        """Return whether the frame captured then may pass, and count it if so."""
        if not self._interval_ns:
            return True
        if self._due_ns is None or captured_at_ns - self._due_ns >= self._interval_ns:
            self._due_ns = captured_at_ns + self._interval_ns
            return True
        if captured_at_ns < self._due_ns - min(self._interval_ns // 2, 20_000_000):
            return False
        self._due_ns += self._interval_ns
        return True


class StrideGate:
    """Lets every n-th frame through, and none while the stream is paused."""

    def __init__(self, stride: int) -> None:
        self.stride = stride
        self.factor = 1
        """What degradation makes of the stride."""
        self.is_paused = False
        self._left_out = 0

    def allows(self) -> bool:
        """Return whether the next frame may pass, and count it."""
        if self.is_paused:
            return False
        self._left_out += 1
        if self._left_out < self.stride * self.factor:
            return False
        self._left_out = 0
        return True
