"""Arguments that several commands share, and checks of values; argparse reports errors beside the option's name."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any


def add_tool(commands: Any, name: str, summary: str, *, path: str, plot: str) -> argparse.ArgumentParser:
    """Add a command that works on a model, and prints and draws what it found.

    Args:
        commands: of argparse, what `add_subparsers` returned.
        name: of the command.
        summary: what it does.
        path: what the model is to be.
        plot: what is drawn.
    """
    parser: argparse.ArgumentParser = commands.add_parser(name, help=summary)
    parser.add_argument("path", type=Path, metavar="FOLDER_OR_FILE", help=path)
    parser.add_argument("--plot", type=Path, metavar="FILE", help=f"draw {plot}; needs matplotlib")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


POSITIVE_MIN, POSITIVE_MAX = 1e-6, 1e9
"""From a nanosecond given in ms to 31 years given in s: no product or quotient of such numbers overflows."""


def positive(text: str) -> float:
    """Return a number above 0, within `POSITIVE_MIN` and `POSITIVE_MAX`."""
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    if not POSITIVE_MIN <= value <= POSITIVE_MAX:
        raise argparse.ArgumentTypeError(f"{text} is not from {POSITIVE_MIN:g} to {POSITIVE_MAX:g}")
    return value


def count(text: str) -> int:
    """Return a whole number from 1 to 1024: streams, threads."""
    return _whole(text, 1)


def count_or_none(text: str) -> int:
    """Return a whole number from 0 to 1024: stalls, drops."""
    return _whole(text, 0)


def share(text: str) -> float:
    """Return a number above 0, to 1."""
    value = positive(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"{text} is not a share: above 0, to 1")
    return value


def deviation(text: str) -> float:
    """Return a number from 0 to 1."""
    value = _number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 1")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def _whole(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if not least <= value <= 1024:
        raise argparse.ArgumentTypeError(f"{text} is not from {least} to 1024")
    return value
