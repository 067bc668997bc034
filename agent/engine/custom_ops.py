"""Libraries of custom operators: code that runs with the agent's rights, so only what nobody else may change."""

from __future__ import annotations

import importlib.util
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from agent.engine.session import EXTENSIONS, library_path
from agent.errors import ConfigError


def check_custom_ops(libraries: Sequence[str]) -> None:
    """Refuse libraries that are absent, or that somebody else could have changed or could change.

    Args:
        libraries: `engine.custom_ops`.

    Raises:
        ConfigError: with every problem.
    """
    problems = [f"engine.custom_ops: {library}: {why}" for library in libraries if (why := _problem(library))]
    if problems:
        raise ConfigError(problems)


def _problem(library: str) -> str | None:
    if library == EXTENSIONS and importlib.util.find_spec(EXTENSIONS) is None:
        return f"is not installed: pip install {EXTENSIONS.replace('_', '-')}"
    try:
        file = Path(library_path(library))
    except Exception as error:  # noqa: BLE001  Whatever a package from elsewhere raises at its import.
        return f"cannot be imported: {' '.join(str(error).split())[:200]}"
    if not file.is_absolute():
        return f"must be an absolute path, or {EXTENSIONS}"
    if file.is_symlink():
        return "is a symbolic link: name the file itself"
    if not file.is_file():
        return "there is no such file" if library != EXTENSIONS else f"its library {file} is not there"
    return _owner_problem(file)


def _owner_problem(file: Path) -> str | None:
    """Return who else could change a file, or replace it or a folder above it."""
    for path in _way_to(file):
        state = path.lstat()
        if state.st_uid not in (0, os.geteuid()):
            return f"{path} belongs to user {state.st_uid}: only root's files and the agent's own are loaded"
        # A folder such as /tmp is safe in this respect: its sticky bit keeps others from replacing what is ours.
        is_sticky = stat.S_ISDIR(state.st_mode) and state.st_mode & stat.S_ISVTX
        if state.st_mode & 0o022 and not is_sticky and not stat.S_ISLNK(state.st_mode):
            return f"{path} may be written by others: chmod go-w {path}"
    return None


def _way_to(file: Path) -> list[Path]:
    """Return a file and every folder and link that leads to it, those behind the links included."""
    way: dict[Path, None] = {}
    waiting = [file]
    while waiting:
        path = waiting.pop()
        for step in (path, *path.parents):
            if step in way:
                continue
            way[step] = None
            if step.is_symlink():
                waiting.append(step.parent / step.readlink())
    return list(way)
