"""Releases on disk: contents under their SHA-256, one folder a release, and one small file that says which serves."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agent.core.release import Release, ReleaseFile, ReleaseRefusedError
from agent.core.shelf import Ended, Shelf, Trial, folder_name
from agent.durable import replace_file, set_aside, sync_folder

log = logging.getLogger(__name__)

FORMAT = 1
FILE = "updates.json"
BYTES_MAX = 1 << 20
"""16 models at 1 kB are 16 kB."""
RESERVE_BYTES = 64 << 20
"""Of the disk, what an update leaves to everybody else."""


class ReleaseStore:
    """The folder `updates` below `state.dir`. One thread at a time.

    `updates.json` is replaced as a whole and is the only truth: folders and contents that it does not name are
    leavings of a power cut, and go at the next `prune`.

    Args:
        folder: `state.dir`; made when something is written.
    """

    def __init__(self, folder: Path) -> None:
        self._root = folder / "updates"
        self._contents = self._root / "contents"
        self._releases = self._root / "releases"

    def load(self, *, sets_aside: bool = True) -> dict[str, Shelf]:
        """Return the shelves by model; with a damaged file every model is the settings' own again.

        Args:
            sets_aside: whether the damaged file is, so that the next one can be written.
        """
        file = self._root / FILE
        try:
            with file.open("rb") as stream:
                return _decode(json.loads(stream.read(BYTES_MAX)))
        except FileNotFoundError:
            return {}
        except OSError as error:
            log.error("%s: cannot be read (%s): the settings' own models serve", file, error.strerror)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            log.error("%s: is damaged (%s): the settings' own models serve", file, error)
            if sets_aside:
                set_aside(file)
        return {}

    def save(self, shelves: Mapping[str, Shelf]) -> None:
        """Write the shelves down; they are on disk when this returns.

        Raises:
            OSError: the disk is full, read-only or absent; what was there is there still.
        """
        self._root.mkdir(parents=True, exist_ok=True)
        body = {"format": FORMAT, "models": {name: asdict(shelf) for name, shelf in shelves.items()}}
        replace_file(self._root / FILE, json.dumps(body).encode())

    def folder(self, release: str) -> Path:
        """Return where a release's folder is, whether it is there or not."""
        return self._releases / release

    def content(self, file: ReleaseFile) -> Path:
        """Return where a file's content is, once it is complete and verified."""
        return self._contents / file.sha256

    def partial(self, file: ReleaseFile) -> Path:
        """Return where its first bytes are gathered."""
        return self._contents / f"{file.sha256}.part"

    def make_room(self, release: Release) -> None:
        """Make the folders, and see that a release fits.

        Raises:
            ReleaseRefusedError: `disk_full`.
            OSError: the folders cannot be made.
        """
        self._contents.mkdir(parents=True, exist_ok=True)
        self._releases.mkdir(parents=True, exist_ok=True)
        missing = sum(file.size_bytes for file in release.files if not self.content(file).exists())
        free, needed = shutil.disk_usage(self._contents).free, 2 * missing + RESERVE_BYTES
        if free < needed:
            raise ReleaseRefusedError("disk_full", f"{self._root}: {free >> 20} MiB free, {needed >> 20} MiB needed")

    def accept(self, file: ReleaseFile) -> None:
        """Turn a partial file that is complete into a content; its bytes are on disk when this returns.

        Raises:
            ReleaseRefusedError: `corrupt`; the partial file is gone.
            OSError: the disk.
        """
        partial = self.partial(file)
        with partial.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            os.fsync(stream.fileno())
        if digest != file.sha256:
            partial.unlink()
            raise ReleaseRefusedError("corrupt", f"{file.path}: SHA-256 is {digest}, the manifest says {file.sha256}")
        partial.replace(self.content(file))
        sync_folder(self._contents)

    def assemble(self, release: Release, digest: str) -> str:
        """Make the folder of a release whose contents are all there; return its name.

        Raises:
            OSError: the disk.
        """
        name = folder_name(release.name, release.seq, digest)
        folder, partial = self.folder(name), self._releases / f".{name}.part"
        if folder.is_dir():
            return name
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(mode=0o755)
        for file in release.files:
            os.link(self.content(file), partial / file.path)
        sync_folder(partial)
        partial.rename(folder)
        sync_folder(self._releases)
        return name

    def prune(self, shelves: Mapping[str, Shelf]) -> None:
        """Remove every release that no shelf keeps, and every content that no release holds, as far as that works."""
        kept = {name for shelf in shelves.values() for name in shelf.kept}
        with contextlib.suppress(OSError):
            for folder in _entries(self._releases):
                if folder.name not in kept:
                    shutil.rmtree(folder, ignore_errors=True)
            for content in _entries(self._contents):
                # A hard link to it is in each release's folder.
                if content.stat().st_nlink == 1:
                    content.unlink(missing_ok=True)


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _decode(body: Any) -> dict[str, Shelf]:
    if body["format"] != FORMAT:
        raise ValueError(f"its format is {body['format']!r}, this agent knows {FORMAT}")
    return {str(name): _shelf(values) for name, values in body["models"].items()}


def _shelf(values: Any) -> Shelf:
    trial, ended = values["trial"], values["ended"]
    return Shelf(
        base=str(values["base"]),
        seq_max=int(values["seq_max"]),
        current=_folder_name(values["current"]),
        previous=_folder_name(values["previous"]),
        trial=None
        if trial is None
        else Trial(_folder_name(trial["folder"]), int(trial["seq"]), str(trial["digest"]), int(trial["starts"])),
        ended=None
        if ended is None
        else Ended(**{key: ended[key] for key in ("digest", "seq", "phase", "code", "reason")}),
        starts=int(values.get("starts", 0)),
    )


def _folder_name(value: Any) -> str:
    if not isinstance(value, str) or "/" in value or value.startswith("."):
        raise ValueError(f"{value!r} is no folder of a release")
    return value
