"""Checks of command line values that several commands share."""

from __future__ import annotations

import argparse
import math


def positive_seconds(text: str) -> float:
    """Return a duration, seconds; argparse reports the error beside the option's name."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds") from None
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value
