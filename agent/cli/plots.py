"""What the plots of all commands share: matplotlib, which is no dependency of the agent, and the file."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING

from agent.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg")
DPI = 110


def check_plot(file: Path | None) -> None:
    """Look whether a plot could be drawn, before the work that it is to show; None for none.

    Raises:
        ConfigError: the name is that of no picture, its folder takes no file, or matplotlib is missing.
    """
    if file is None:
        return
    if file.suffix not in SUFFIXES:
        raise ConfigError(f"--plot {file}: the name must end in {' or '.join(SUFFIXES)}")
    if not file.parent.is_dir():
        raise ConfigError(f"--plot {file}: cannot be written: {file.parent} is no folder")
    if file.is_dir():
        raise ConfigError(f"--plot {file}: cannot be written: it is a folder")
    if not os.access(file if file.exists() else file.parent, os.W_OK):
        raise ConfigError(f"--plot {file}: cannot be written: Permission denied")
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError("--plot needs matplotlib: pip install 'edgebeat[tools]'")


def new_figure(width_in: float, height_in: float) -> Figure:
    """Return an empty figure of so many inches; see `check_plot`."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "edgebeat"  # The same figures give the same file.
    return Figure(figsize=(width_in, height_in), layout="constrained")


def write_plot(figure: Figure, file: Path) -> None:
    """Write a figure, PNG or SVG by the file's name.

    Raises:
        ConfigError: the file cannot be written.
    """
    try:
        figure.savefig(file, dpi=DPI)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"--plot {file}: cannot be written: {why}") from error
