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

    Args:
        patience: by part, how many looks it may stand still.
    """

    def __init__(self, patience: Mapping[str, int]) -> None:
        self._patience = patience
        self._last: dict[str, int] = {}
        self._still: dict[str, int] = {}

    def look(self, pulses: Mapping[str, Pulse]) -> list[str]:
        """Return the parts that stand still for longer than they may."""
        for name, pulse in pulses.items():
            stands = pulse.is_due and self._last.get(name) == pulse.beats
            self._still[name] = self._still.get(name, 0) + 1 if stands else 0
            self._last[name] = pulse.beats
        return [name for name in pulses if self._still[name] > self._patience[name]]
