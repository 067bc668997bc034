"""How fast a simulated machine works over time: stalls, drops of the clock frequency, noise."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

from agent.clock import NEVER_NS


class MachineSpeed:
    """Piecewise constant speed; 1 is the machine at its best, 0 a stall.

    Work is measured in ns at full speed. On the axis of work done every machine has a constant speed, which is how
    `core.bound` computes what was possible.

    Args:
        changes: (from_ns, speed), in order; before the first the speed is 1.
    """

    def __init__(self, changes: Sequence[tuple[int, float]] = ()) -> None:
        self._from_ns = [0]
        self._speeds = [1.0]
        self._work_ns = [0.0]
        for from_ns, speed in changes:
            self._work_ns.append(self._work_ns[-1] + (from_ns - self._from_ns[-1]) * self._speeds[-1])
            self._from_ns.append(from_ns)
            self._speeds.append(speed)

    def work_ns(self, at_ns: int) -> float:
        """Return the work that the machine can have done by then."""
        index = bisect_right(self._from_ns, at_ns) - 1
        return self._work_ns[index] + (at_ns - self._from_ns[index]) * self._speeds[index]

    def end_ns(self, start_ns: int, work_ns: float) -> int:
        """Return when work that starts then is done; `NEVER_NS` when the machine stands still for ever."""
        index = bisect_right(self._from_ns, start_ns) - 1
        at_ns, left = start_ns, work_ns
        while left > 0:
            is_last = index + 1 == len(self._from_ns)
            speed, until_ns = self._speeds[index], NEVER_NS if is_last else self._from_ns[index + 1]
            if left <= (until_ns - at_ns) * speed:
                return at_ns + math.ceil(left / speed)
            if is_last:
                return NEVER_NS
            left -= (until_ns - at_ns) * speed
            at_ns = until_ns
            index += 1
        return at_ns
