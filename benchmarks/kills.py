"""What the benches that kill an agent at random moments share: their command line and their verdict."""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from benchmarks import harness

KillOften = Callable[[Path, int, int, random.Random], Counter[str]]
"""Kills an agent with its state in a folder and the broker at a port so many times; counts `wrong` among others."""


def main(name: str, description: str, kill_often: KillOften) -> int:
    """Kill, start, look; print the counts. Return the exit code."""
    parser = harness.parser(description)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    harness.end_with_us()
    with tempfile.TemporaryDirectory() as folder, harness.broker() as port:
        counts = kill_often(Path(folder), port, args.kills, random.Random(args.seed))
    wrong = counts["wrong"]
    verdict = harness.Verdict("starts on anything else", wrong, "= 0", wrong == 0)
    return harness.conclude(name, [dict(counts)], [verdict], as_json=args.json)
