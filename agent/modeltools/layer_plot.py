"""Draws each layer's error, the worst on top."""

from __future__ import annotations

from pathlib import Path

from agent.errors import ConfigError
from agent.modeltools.report import Report

BARS_MAX = 60
"""More are too small to be read; --json has them all."""


def draw(report: Report, file: Path) -> None:
    """Write a picture, PNG or SVG by the file's name.

    Raises:
        ConfigError: matplotlib is missing, or the file cannot be written.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("--plot needs matplotlib: pip install 'edgebeat[tools]'") from error
    mpl.rcParams["svg.hashsalt"] = "edgebeat"  # The same errors give the same file.
    layers = (report.layers or ())[:BARS_MAX][::-1]
    kept = set(report.kept_float)
    figure = Figure(figsize=(10, 1.5 + 0.2 * max(4, len(layers))), layout="constrained")
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
    try:
        figure.savefig(file, dpi=110)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--plot {file}: cannot be written: {error}") from error
