"""How a change is told: on `settings/reported`, as an event, in the audit and in the log."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agent.clock import Clock
from agent.core.desired import Document
from agent.core.field_errors import FieldError, as_body, cut, masked
from agent.core.message import Message
from agent.core.token_bucket import TokenBucket
from agent.desired.audit import Audit

log = logging.getLogger(__name__)

REJECTIONS_PER_S, REJECTIONS_BURST = 1, 10
"""Rejections that are written to the audit and told as events, with 5 errors at most, 3 kB; each is reported, which
takes no disk."""
ERRORS_TOLD_MAX = 5
RELOAD_ASKED_BY = "SIGHUP"
PROBLEMS_LOGGED_MAX = 20
"""Of a settings file: one that was replaced as a whole may be wrong everywhere, nobody reads more in a log."""
PROBLEM_CHARS_MAX = 300

ReportEvent = Callable[[str, Mapping[str, Any]], None]


class Reporting:
    """Tells what became of a document. The control thread.

    Args:
        emit: hands a message to egress.
        report: sends an event.
        audit: keeps who changed what.
        clock: the agent's.
    """

    def __init__(self, emit: Callable[[Message], None], report: ReportEvent, audit: Audit, clock: Clock) -> None:
        self._emit = emit
        self._report = report
        self._audit = audit
        self._clock = clock
        self._rejections = TokenBucket(REJECTIONS_PER_S, REJECTIONS_BURST)

    def state(self, body: Mapping[str, Any]) -> None:
        """Publish the state, retained."""
        now_ns = self._clock.now_ns()
        self._emit(
            Message(kind="state", topic="settings/reported", body=body, captured_at_ns=now_ns, qos=1, retain=True)
        )

    def change(self, event: str, document: Document, body: Mapping[str, Any]) -> None:
        """Tell of a document that was accepted, proven or taken back."""
        told = {"version": document.version, "asked_by": document.asked_by, **body}
        self._report(f"settings_{event}", told)
        self._audit.add(event, told)

    def file_change(self, event: str, version: int, body: Mapping[str, Any]) -> None:
        """Tell of a settings file that was read again; `version` is of the document above it."""
        told = {"version": version, "asked_by": RELOAD_ASKED_BY, **body}
        self._report(f"settings_{event}", told)
        self._audit.add(event, told)

    def file_rejected(self, file: str, version: int, problems: Sequence[str]) -> None:
        """Tell of a settings file that changed nothing; each problem names file, line and field."""
        shown = [cut(masked(problem), PROBLEM_CHARS_MAX) for problem in problems]
        for problem in shown[:PROBLEMS_LOGGED_MAX]:
            log.error("SIGHUP: %s", problem)
        log.error("SIGHUP: %s: nothing is changed; the settings in force stay", file)
        told = {"file": file, "problems": shown[:ERRORS_TOLD_MAX], "errors_count": len(shown)}
        self.file_change("rejected", version, told)

    def rejected(self, version: int | None, errors: Sequence[FieldError]) -> None:
        """Tell of a document that changed nothing, unless there were many of late: a flood must not wear the disk."""
        now_ns = self._clock.now_ns()
        if self._rejections.next_ns(now_ns) > now_ns:
            return
        self._rejections.spend(now_ns)
        first = f"{errors[0].path or 'document'}: {errors[0].message}"
        log.warning("settings v%s: rejected, %d errors: %s", version, len(errors), first)
        body = {"version": version, "errors": as_body(errors[:ERRORS_TOLD_MAX]), "errors_count": len(errors)}
        self._report("settings_rejected", body)
        self._audit.add("rejected", body)

    def not_kept(self, reason: str) -> None:
        """Tell that the disk did not take the state."""
        log.error("settings: the state cannot be written: %s", reason)
        self._report("settings_not_kept", {"reason": reason})


def told(changed: Mapping[str, Sequence[Any]]) -> str:
    """Return the first changes as one line."""
    parts = [f"{path} {before!r} -> {after!r}" for path, (before, after) in list(changed.items())[:5]]
    return ", ".join(parts) + (f" and {len(changed) - 5} more" if len(changed) > 5 else "") or "no value differs"
