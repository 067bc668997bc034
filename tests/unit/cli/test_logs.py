"""What records look like."""

from __future__ import annotations

import json
import logging

from agent.cli.logs import JournalFormatter, JsonFormatter


def record(text: str, level: int = logging.WARNING) -> logging.LogRecord:
    """Build a record with an exception."""
    error = ValueError("bad")
    return logging.LogRecord("agent.x", level, __file__, 1, text, (), (ValueError, error, None))


def test_json_is_one_object_a_line() -> None:
    """Also with a trace and a line break in it."""
    line = JsonFormatter().format(record("two\nlines"))
    assert "\n" not in line
    values = json.loads(line)
    assert (values["level"], values["logger"], values["message"]) == ("warning", "agent.x", "two\nlines")
    assert "ValueError: bad" in values["trace"]
    assert values["at"].endswith("Z")


def test_the_journal_gets_the_level_of_each_line() -> None:
    """It takes lines one by one: a trace without its level would be information."""
    lines = JournalFormatter("%(message)s").format(record("it broke", logging.ERROR)).splitlines()
    assert lines[0] == "<3>it broke"
    assert all(line.startswith("<3>") for line in lines)
