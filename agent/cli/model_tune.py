"""`edgebeat model tune`: how a model runs best on this device, measured, and kept for the next start."""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent.cli import exit_codes
from agent.cli.arguments import add_tool, positive
from agent.cli.load import read_layers
from agent.cli.plots import check_plot
from agent.cli.run import config_file
from agent.clock import SystemClock
from agent.errors import ConfigError
from agent.settings import Settings
from agent.tuning import MEASURE_S, Found, Row, Search, Tell, target_of, tune

NAME = "model"
"""Of the model in the settings that are made up where no file is given."""

SIDE_MAX = 8192


def add_arguments(commands: Any) -> None:
    """Add the command."""
    parser = add_tool(
        commands,
        "tune",
        "find out how it runs best on this device, for the next start",
        path="a model",
        plot="CPU against the time of a frame, .png or .svg",
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="settings whose limits and streams count (default: $EDGEBEAT_CONFIG, or none)",
    )
    parser.add_argument("--fps", type=positive, metavar="N", help="to keep up with (default: its streams', or 5)")
    parser.add_argument(
        "--deadline-ms", type=positive, metavar="MS", help="of a frame (default: its streams' tightest, or 250)"
    )
    parser.add_argument(
        "--variants",
        type=lambda text: tuple(text.split(",")),
        metavar="NAME,...",
        help="that may be taken (default: all where degradation.steps holds 'variant')",
    )
    parser.add_argument(
        "--size",
        type=_size,
        action="append",
        default=[],
        metavar="WxH",
        help="try a network with open dimensions on this input too; may be given again",
    )
    parser.add_argument(
        "--seconds", type=positive, default=MEASURE_S, metavar="S", help="for measuring (default %(default)g)"
    )


def run(args: argparse.Namespace) -> int:
    """Search, print and keep; exit 1 when no candidate keeps up, or when it cannot be kept."""
    check_plot(args.plot)
    settings, model = _settings(args.path, config_file(args))
    search = Search(
        settings,
        model,
        target_of(settings, model, args.fps, args.deadline_ms),
        variants=args.variants,
        sizes=tuple(args.size),
        measure_s=args.seconds,
    )
    try:
        with _progress() as tell:
            found = tune(search, SystemClock(), tell)
    except OSError as error:
        print(
            f"edgebeat: {error.filename or settings.state.dir}: {error.strerror}: nothing was kept", file=sys.stderr
        )
        return exit_codes.FAILED
    print(json.dumps(found.as_json()) if args.json else text_of(found))
    if args.plot is not None:
        from agent.cli.model_tune_plot import draw

        draw(found, args.plot)
    if found.fault is not None:
        print(f"edgebeat: {found.fault}", file=sys.stderr)
    return exit_codes.FAILED if found.way is None or found.fault is not None else exit_codes.DONE


def text_of(found: Found) -> str:
    """Return what was found for people: the table, what is taken and why."""
    rows = [["", "variant", "threads", "spins", "arena", "providers", "p50 ms", "p95 ms", "cpu ms", "MiB", ""]]
    rows += [_cells(row) for row in found.rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    frames = max((row.figures.frames for row in found.rows if row.figures is not None), default=0)
    taken = (
        "nothing is taken and nothing was kept: allow a lighter variant, a longer deadline or fewer frames"
        if found.way is None
        else f"kept in {found.kept}: used from the next start on"
        if found.kept is not None
        else "not kept"
    )
    return "\n".join(
        [
            f"{found.path}: {found.target}; {len(found.rows)} candidates in turns, {frames} frames each",
            *lines,
            *(f"  {text}" for text in found.why),
            *(f"  note: {note}" for note in found.notes),
            taken,
        ]
    )


def _cells(row: Row) -> list[str]:
    one, figures = row.candidate, row.figures
    numbers = ["-"] * 4
    if figures is not None:
        numbers = [f"{value:.1f}" for value in (figures.p50_ms, figures.p95_ms, figures.cpu_ms, figures.memory_mb)]
    return [
        "*" if row.is_taken else "",
        one.variant,
        str(one.threads),
        "yes" if one.spins else "no",
        "yes" if one.has_arena else "no",
        "+".join(one.providers),
        *numbers,
        row.refusal,
    ]


def _settings(path: Path, file: Path | None) -> tuple[Settings, str]:
    """Return the settings that count and the model's name in them.

    Raises:
        ConfigError: they are wrong, or name no such model.
    """
    if file is None:
        stream = {"name": "tune", "source": "synthetic:", "model": NAME}
        given = {"models": [{"name": NAME, "path": str(path)}], "streams": [stream]}
        return read_layers(None, given).load().settings, NAME
    settings = read_layers(file, {}).load().settings
    wanted = path.resolve()
    for model in settings.models:
        if wanted in (model.path.resolve(), model.path.resolve().parent) or wanted.parent == model.path.resolve():
            return settings, model.name
    known = ", ".join(str(model.path) for model in settings.models)
    raise ConfigError(f"{path}: is no model of {file}, which names {known}")


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,4})x(\d{1,4})", text)
    if found is None or not all(1 <= int(side) <= SIDE_MAX for side in found.groups()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 320x240")
    return int(found[1]), int(found[2])


@contextmanager
def _progress() -> Iterator[Tell]:
    """Give what shows the progress on standard error; nothing where it is no terminal, or rich is not there."""
    if not sys.stderr.isatty() or importlib.util.find_spec("rich") is None:
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns: Sequence[Any] = (
        TextColumn("{task.description:<8}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        tasks: dict[str, Any] = {}

        def tell(stage: str, done: int, steps: int) -> None:
            if stage not in tasks:
                for before in tasks.values():
                    progress.update(before, completed=progress.tasks[before].total)
                tasks[stage] = progress.add_task(stage, total=steps)
            progress.update(tasks[stage], completed=done)

        yield tell
