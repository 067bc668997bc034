"""Draws a simulation: the age of each result, and what became of the frames over time."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from agent.cli.plots import new_figure, write_plot
from agent.clock import NS_PER_S
from agent.core.ledger import Outcome
from agent.core.simulation import Report

COLORS = {
    Outcome.PUBLISHED: "#2a7f4f",
    Outcome.LATE: "#b3261e",
    Outcome.ABORTED: "#e07b39",
    Outcome.UNREACHABLE: "#8c6bb1",
    Outcome.EXPIRED: "#c2a83e",
    Outcome.SUPERSEDED: "#9aa5b1",
    Outcome.UNCHANGED: "#9ccfb0",
    Outcome.SKIPPED: "#d5dbe1",
    Outcome.QUEUE_FULL: "#7f4f2a",
    Outcome.FAILED: "#000000",
    Outcome.SHUTDOWN: "#555555",
}

BINS_MAX = 240
"""Bars over the length of the trace, each at least a quarter of a second."""


def draw(report: Report, file: Path) -> None:
    """Write a picture; see `write_plot`."""
    seconds = max(0.25, report.end_ns / NS_PER_S)
    figure = new_figure(11, 6.5)
    ages, outcomes = figure.subplots(2, 1, sharex=True)
    for index, (stream, policy) in enumerate(report.intake.policies.items()):
        ends = [end for end in report.ends if end.stream == stream and end.outcome is Outcome.PUBLISHED]
        color = f"C{index % 10}"
        ages.scatter(
            [end.at_ns / NS_PER_S for end in ends], [end.age_ns / 1e6 for end in ends], s=5, color=color, label=stream
        )
        if policy.budget_ns is not None:
            ages.axhline(policy.budget_ns / 1e6, color="#b3261e", linewidth=0.8, linestyle="--")
    ages.set_ylabel("age of results, ms (dashed: deadlines)")
    ages.set_ylim(bottom=0)
    ages.legend(loc="upper right", fontsize="small", ncols=4)
    bins = min(BINS_MAX, max(1, int(seconds * 4)))
    width = seconds / bins
    base = [0.0] * bins
    for outcome, color in COLORS.items():
        counts = Counter(
            min(bins - 1, int(end.at_ns / NS_PER_S / width)) for end in report.ends if end.outcome is outcome
        )
        if counts:
            heights = [counts[index] / width for index in range(bins)]
            left = [index * width for index in range(bins)]
            outcomes.bar(left, heights, width, bottom=base, align="edge", color=color, label=str(outcome))
            base = [low + height for low, height in zip(base, heights, strict=True)]
    outcomes.set_ylabel("frames a second, by outcome")
    outcomes.set_xlabel("seconds")
    outcomes.legend(loc="upper right", fontsize="small", ncols=5)
    write_plot(figure, file)
