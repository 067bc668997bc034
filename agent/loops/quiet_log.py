"""Says a fault once for each change, not once for each try."""

from __future__ import annotations

import logging

from agent.clock import NS_PER_S, Clock

REPEAT_AFTER_NS = 60 * NS_PER_S
"""An unchanged fault is said again after a minute, with the number of times it was held back."""


class QuietLog:
    """Writes a warning when its text changed or a minute has passed. One thread."""

    def __init__(self, log: logging.Logger, clock: Clock) -> None:
        self._log = log
        self._clock = clock
        self._said: dict[str, tuple[str, int]] = {}
        self._held_back: dict[str, int] = {}

    def warn(self, subject: str, text: str) -> bool:
        """Write `subject: text` unless it was just said; return whether it was written."""
        now_ns = self._clock.now_ns()
        last_text, said_at_ns = self._said.get(subject, ("", 0))
        if text == last_text and now_ns - said_at_ns < REPEAT_AFTER_NS:
            self._held_back[subject] = self._held_back.get(subject, 0) + 1
            return False
        held_back = self._held_back.pop(subject, 0)
        self._log.warning("%s: %s%s", subject, text, f" ({held_back} more since)" if held_back else "")
        self._said[subject] = (text, now_ns)
        return True

    def clear(self, subject: str) -> bool:
        """Note that the fault is over, so that it is said at once if it returns; return whether there was one."""
        self._held_back.pop(subject, None)
        return self._said.pop(subject, None) is not None
