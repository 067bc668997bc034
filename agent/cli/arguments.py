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


def positive(text: str) -> float:
    """Return a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def count(text: str) -> int:
    """Return a whole number from 1 to 1024: streams, threads."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if not 1 <= value <= 1024:
        raise argparse.ArgumentTypeError(f"{text} is not from 1 to 1024")
    return value


def share(text: str) -> float:
    """Return a number above 0, to 1."""
    value = positive(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"{text} is not a share: above 0, to 1")
    return value
