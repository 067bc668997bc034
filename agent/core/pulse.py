"""Which part of the agent makes no progress: pure, in looks instead of time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pulse:
    """One look at a part.

    Attributes:
        beats: changes with every step that it takes.
        is_due: whether it should take one: it has work, or is inside a call that ends by itself.
    """

    beats: int
    is_due: bool


class PulseCheck:
    """Finds parts that had something to do at several looks in a row and took no step.

    Looks are counted and not time: after a suspend or a SIGSTOP the clock says hours, and no part had any of them.
    """

    def __init__(self) -> None:
        self._last: dict[str, int] = {}
        self._still: dict[str, int] = {}

    def look(self, pulses: Mapping[str, Pulse], patience: Mapping[str, int]) -> list[str]:
        """Return the parts that stand still for longer than they may.

        Args:
            pulses: of the parts that there are now; one that is gone is forgotten.
            patience: of each, how many looks it may stand still.
        """
        still = {}
        for name, pulse in pulses.items():
            stands = pulse.is_due and self._last.get(name) == pulse.beats
            still[name] = self._still.get(name, 0) + 1 if stands else 0
        self._last, self._still = {name: pulse.beats for name, pulse in pulses.items()}, still
        return [name for name in pulses if still[name] > patience[name]]
