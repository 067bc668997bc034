"""Draws what `model tune` found: CPU time against the 95th percentile of a frame, one mark a candidate."""

from __future__ import annotations

from pathlib import Path

from agent.cli.plots import new_figure, write_plot
from agent.tuning import Found

COLORS = ("#2a7f4f", "#8c6bb1", "#e07b39", "#2f6fa8", "#c2a83e", "#7f4f2a", "#b3527f", "#555555")
"""By variant, the most accurate first."""


def draw(found: Found, file: Path) -> None:
    """Write a picture; see `write_plot`."""
    figure = new_figure(9, 6)
    axes = figure.subplots()
    variants = list(dict.fromkeys(row.candidate.variant for row in found.rows))
    for row in found.rows:
        if row.figures is None:
            continue
        color = COLORS[variants.index(row.candidate.variant) % len(COLORS)]
        place = (row.figures.p95_ms, row.figures.cpu_ms)
        axes.scatter(*place, s=160 if row.is_taken else 45, marker="*" if row.is_taken else "o", color=color)
        axes.annotate(
            f"{row.candidate}{' (taken)' if row.is_taken else ''}",
            place,
            xytext=(7, 3),
            textcoords="offset points",
            fontsize=8,
            fontweight="bold" if row.is_taken else "normal",
        )
    axes.axvline(found.target.deadline_ms, color="#b3261e", linewidth=0.8, linestyle="--")
    axes.set_xlabel("95th percentile of a frame, ms (dashed: deadline)")
    axes.set_ylabel(f"CPU a frame at {found.target.fps:g} fps, ms")
    slowest = max((row.figures.p95_ms for row in found.rows if row.figures is not None), default=0.0)
    axes.set_xlim(0, 1.35 * max(slowest, found.target.deadline_ms))  # Room for the texts.
    axes.set_ylim(bottom=0)
    axes.set_title(f"{found.path}: {found.target}", fontsize=10)
    write_plot(figure, file)
