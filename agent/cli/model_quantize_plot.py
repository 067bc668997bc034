"""Draws what `model quantize` found: each layer's error, the worst on top."""

from __future__ import annotations

from pathlib import Path

from agent.cli.plots import new_figure, write_plot
from agent.modeltools.report import Report

BARS_MAX = 60
"""More are too small to be read; --json has them all."""


def draw(report: Report, file: Path) -> None:
    """Write a picture; see `write_plot`."""
    layers = (report.layers or ())[:BARS_MAX][::-1]
    kept = set(report.kept_float)
    figure = new_figure(10, 1.5 + 0.2 * max(4, len(layers)))
    axes = figure.subplots()
    places = range(len(layers))
    colors = ["#e07b39" if layer.name in kept else "#2a7f4f" for layer in layers]
    axes.barh(places, [layer.own_db for layer in layers], color=colors, label="this layer alone")
    axes.plot(
        [layer.total_db for layer in layers], places, "o", color="#b3261e", markersize=4, label="with all before it"
    )
    axes.set_yticks(places, [f"{layer.name[-60:]} ({layer.operator})" for layer in layers], fontsize="x-small")
    axes.set_xlabel("SQNR, dB: higher is better, 6 dB are one bit (orange: kept in float)")
    axes.set_title(f"{Path(report.model).name}: {len(layers)} worst of {len(report.layers or ())} layers")
    axes.legend(loc="lower right", fontsize="small")
    write_plot(figure, file)
