"""Progress bars on standard error, so that standard output stays clean; nothing where it is no terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from agent.modeltools.task import Advance, Stage


@contextmanager
def bars() -> Iterator[Stage]:
    """Give a way to begin stages, each with a bar of its own."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<12}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:

        def stage(name: str, steps: int) -> Advance:
            task = progress.add_task(name, total=steps)
            return lambda: progress.advance(task)

        yield stage
