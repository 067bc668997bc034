"""Progress bars on standard error, so that standard output stays clean; nothing where it is no terminal."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[], None]
Stage = Callable[[str, int], Advance]
"""Begins a stage of so many steps; what it returns is called after each."""


def silent(_name: str, _steps: int) -> Advance:
    """Begin a stage that nobody sees."""
    return lambda: None


@contextmanager
def bars() -> Iterator[Stage]:
    """Give a way to begin stages, each with a bar of its own; without rich, which a device need not have, none."""
    if importlib.util.find_spec("rich") is None:
        yield silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<12}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:

        def stage(name: str, steps: int) -> Advance:
            task = progress.add_task(name, total=steps)
            return lambda: progress.advance(task)

        yield stage
