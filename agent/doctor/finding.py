"""What a check finds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from agent.settings import Settings


class Level(StrEnum):
    """How much it matters."""

    OK = "ok"
    UNKNOWN = "unknown"
    """The device does not tell."""
    ADVICE = "advice"
    """It works, and would work better."""
    PROBLEM = "problem"
    """It does not work, or gives wrong results."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    Attributes:
        topic: `cpu`, `memory`, ...
        level: see `Level`.
        text: what was found, with its figures.
        advice: what to do, one line; empty where nothing is to be done.
    """

    topic: str
    level: Level
    text: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Device:
    """Where the checks look.

    Attributes:
        root: of /proc, /sys, /etc and /dev.
        machine: `uname -m`.
        settings: None where they are not valid, or none were named.
        wall_ns: nanoseconds since 1970.
    """

    root: Path
    machine: str
    settings: Settings | None
    wall_ns: int

    def text(self, name: str) -> str:
        """Return a file below the root, at most 1 MiB; empty where it cannot be read."""
        try:
            with (self.root / name).open("rb") as stream:
                return stream.read(1 << 20).decode("utf-8", "replace")
        except OSError:
            return ""

    def number(self, name: str) -> int | None:
        """Return the number that a file holds, None where it holds none."""
        text = self.text(name).strip()
        return int(text) if text.lstrip("-").isdigit() else None


Check = Callable[[Device], list[Finding]]


def ok(topic: str, text: str) -> Finding:
    """Return a finding that needs nothing."""
    return Finding(topic, Level.OK, text)


def unknown(topic: str, text: str) -> Finding:
    """Return that the device does not tell."""
    return Finding(topic, Level.UNKNOWN, text)


def advice(topic: str, text: str, what_to_do: str) -> Finding:
    """Return what would work better."""
    return Finding(topic, Level.ADVICE, text, what_to_do)


def problem(topic: str, text: str, what_to_do: str) -> Finding:
    """Return what does not work."""
    return Finding(topic, Level.PROBLEM, text, what_to_do)
