"""How records look on standard error: for a terminal, for the journal, or as JSON."""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import Literal, TextIO

from agent.clock import NS_PER_S, iso_utc

_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
"""Python's levels as the journal's (sd-daemon(3), syslog(3))."""


class JournalFormatter(logging.Formatter):
    """`<4>thread: message`: the journal takes the level from the prefix and stamps the record itself."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's lines, each with its level, since the journal takes them one by one."""
        level = _PRIORITIES.get(record.levelno, 5)
        return "\n".join(f"<{level}>{line}" for line in super().format(record).splitlines())


class JsonFormatter(logging.Formatter):
    """One object a line: at, level, logger, thread, message, and the trace of an exception."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as JSON."""
        values = {
            "at": iso_utc(int(record.created * NS_PER_S)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "thread": record.threadName,
            "message": record.getMessage(),
        }
        if record.exc_info:
            values["trace"] = self.formatException(record.exc_info)
        return json.dumps(values)


def set_up_logging(level: str, style: Literal["text", "json"] = "text", stream: TextIO | None = None) -> None:
    """Write records to standard error."""
    handler = logging.StreamHandler(stream or sys.stderr)
    if style == "json":
        handler.setFormatter(JsonFormatter())
    elif "JOURNAL_STREAM" in os.environ:
        handler.setFormatter(JournalFormatter("%(threadName)s: %(message)s"))
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(threadName)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    # paho repeats each transition that we report ourselves.
    logging.getLogger("agent.sinks.paho_client").setLevel(logging.ERROR)
