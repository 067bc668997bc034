"""Answered commands on disk."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from agent.core.commands import REMEMBERED_MAX, Answered, CommandMemory
from agent.journal import LINES_MAX, CommandJournal


def entry(number: int) -> Answered:
    """Build one."""
    return Answered(f"desk/{number}", "ping", {"state": "ok", "n": number}, "2026-01-01T00:00:00.000Z", "who=anna")


def write(folder: Path, numbers: range, memory: CommandMemory) -> None:
    """Answer commands in one run."""
    journal = CommandJournal(folder, may_make=True)
    journal.read()
    for number in numbers:
        memory.add(entry(number))
        journal.append(entry(number), memory.entries(), durable=number % 50 == 0)


def test_what_was_answered_is_known_to_the_next_run(tmp_path: Path) -> None:
    """As it was written."""
    write(tmp_path / "state", range(3), CommandMemory())
    assert CommandJournal(tmp_path / "state", may_make=True).read() == [entry(n) for n in range(3)]


def test_the_file_stays_bounded(tmp_path: Path) -> None:
    """It is written anew with what is remembered."""
    memory = CommandMemory()
    write(tmp_path, range(LINES_MAX + 10), memory)
    lines = (tmp_path / "commands.jsonl").read_bytes().splitlines()
    assert REMEMBERED_MAX <= len(lines) < LINES_MAX
    known = CommandMemory(CommandJournal(tmp_path, may_make=True).read())
    assert known.entries() == memory.entries()


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_half_of_a_line_costs_that_line_alone(tmp_path: Path, cut: int) -> None:
    """A power cut in the middle of an append: the ones before and after are read."""
    write(tmp_path, range(2), CommandMemory())
    file = tmp_path / "commands.jsonl"
    file.write_bytes(file.read_bytes()[:-cut])
    write(tmp_path, range(2, 4), CommandMemory())
    keys = [read.key for read in CommandJournal(tmp_path, may_make=True).read()]
    assert keys[0] == "desk/0"
    assert keys[-2:] == ["desk/2", "desk/3"]


@pytest.mark.parametrize(
    "content", [b"\xff\xfe\n", b"[]\n", b'{"key":1}\n', b"[" * 100_000 + b"\n", b'{"body":[]}\n']
)
def test_a_damaged_file_holds_what_can_be_read(tmp_path: Path, content: bytes) -> None:
    """Nothing in it stops the agent."""
    (tmp_path / "commands.jsonl").write_bytes(content)
    assert CommandJournal(tmp_path, may_make=True).read() == []


def test_a_folder_that_cannot_be_written_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The agent remembers until it ends."""
    journal = CommandJournal(tmp_path / "absent", may_make=False)
    assert journal.read() == []
    with caplog.at_level(logging.WARNING):
        journal.append(entry(1), [entry(1)], durable=True)
        journal.append(entry(2), [entry(2)], durable=False)
    assert caplog.text.count("commands are remembered until the agent ends") == 1
