"""One thread: sees inferences that ignore their abort."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from agent.clock import NS_PER_MS, NS_PER_S, Clock
from agent.loops.inference import CurrentRun, InferenceLoop

TICK_NS = 500 * NS_PER_MS
"""Two wake-ups a second; a hang is seen half a second late at most."""

HANG_SERVICE_FACTOR = 10
"""A model that needs long is given ten times its fastest run before it counts as hung."""

Hung = Callable[[InferenceLoop, CurrentRun, float], None]


class HangLoop:
    """Looks at the heartbeat of each inference loop. It reads no file, so that no device can hang it.

    Args:
        loops: returns the inference loops of the moment.
        hung: called once a run, with its loop and the seconds it is overdue.
        hang_ns: see `limits.hang_s`.
        clock: the agent's.
    """

    def __init__(
        self, *, loops: Callable[[], Iterable[InferenceLoop]], hung: Hung, hang_ns: int, clock: Clock
    ) -> None:
        self._loops = loops
        self._hung = hung
        self.hang_ns = hang_ns
        """Other settings may change it at any time."""
        self._clock = clock
        self._stopping = threading.Event()
        self._overdue: dict[str, tuple[CurrentRun, int]] = {}

    def run(self) -> None:
        """The thread's body."""
        while not self._clock.wait(self._stopping, TICK_NS):
            self.look()

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()

    def look(self) -> None:
        """Count ticks for each run that is overdue.

        Ticks, not time: after a suspend or a SIGSTOP the clock says hours and the inference had none of them.
        """
        now_ns = self._clock.now_ns()
        for loop in self._loops():
            name, current = loop.model.name, loop.current
            if current is None or now_ns <= current.due_ns:
                self._overdue.pop(name, None)
                continue
            run, ticks = self._overdue.get(name, (current, 0))
            ticks = ticks + 1 if run is current else 1
            self._overdue[name] = (current, ticks)
            limit_ns = max(self.hang_ns, HANG_SERVICE_FACTOR * current.variant.fastest_ns)
            if (ticks - 1) * TICK_NS < limit_ns <= ticks * TICK_NS:
                self._hung(loop, current, ticks * TICK_NS / NS_PER_S)
