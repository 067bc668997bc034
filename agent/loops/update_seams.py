"""What the updater is asked for, and what it needs of the rest of the agent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from agent.clock import Clock
from agent.core.message import Message
from agent.core.probation import Readings
from agent.core.release import Release, ReleaseFile
from agent.core.shelf import Shelf, folder_name, seq_of

Figures = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Offer:
    """A manifest whose signature holds and whose terms fit.

    Attributes:
        release: what it says.
        digest: SHA-256 of its payload, in hex.
        asked_by: who published it, as far as the broker tells.
    """

    release: Release
    digest: str
    asked_by: str = ""

    @property
    def folder(self) -> str:
        """What its folder is called once it is there."""
        return folder_name(self.release.name, self.release.seq, self.digest)


@dataclass(frozen=True, slots=True)
class WayBack:
    """What somebody wants to be given up.

    Attributes:
        model: whose release it is.
        folder: of the release: another one that came meanwhile is left alone.
        to_folder: what serves then; empty for the settings' own.
        asked_by: who asked, as far as the broker tells.
    """

    model: str
    folder: str
    to_folder: str
    asked_by: str = ""

    @property
    def seq(self) -> int:
        """Of the release that is to be given up."""
        return seq_of(self.folder)

    @property
    def to_seq(self) -> int:
        """Of what serves then; 0 for the settings' own."""
        return seq_of(self.to_folder)


class Store(Protocol):
    """See `updates.store.ReleaseStore`. Everything but `folder`, `content` and `partial` may raise OSError."""

    def save(self, shelves: Mapping[str, Shelf]) -> None:
        """Write the shelves down."""

    def folder(self, release: str) -> Path:
        """Return where a release's folder is."""

    def content(self, file: ReleaseFile) -> Path:
        """Return where a file's content is."""

    def partial(self, file: ReleaseFile) -> Path:
        """Return where its first bytes are."""

    def make_room(self, release: Release) -> None:
        """See that it fits. Raises ReleaseRefusedError."""

    def accept(self, file: ReleaseFile) -> None:
        """Verify a partial file. Raises ReleaseRefusedError."""

    def assemble(self, release: Release, digest: str) -> str:
        """Make the release's folder and return its name."""

    def prune(self, shelves: Mapping[str, Shelf]) -> None:
        """Remove what no shelf keeps."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the updater needs of the agent.

    Attributes:
        fetch: gets what is missing of a file into its partial file, calling back with the bytes that are there;
            raises TransientError, ReleaseRefusedError or OSError.
        qualify: tries a release's folder in a child process; returns figures, raises ReleaseRefusedError.
        canary: lets it see live frames beside the model that serves; likewise.
        serve: lets the models serve that the shelves name; raises ConfigError, and then nothing was changed.
        read: looks at streams, memory and broker.
        emit: hands a message to egress.
        report: sends an event.
        clock: the agent's.
    """

    fetch: Callable[[ReleaseFile, Path, Callable[[int], bool]], None]
    qualify: Callable[[str, Path], Figures]
    canary: Callable[[str, Path], Figures]
    serve: Callable[[Mapping[str, Shelf]], None]
    read: Callable[[], Readings]
    emit: Callable[[Message], None]
    report: Callable[[str, Figures], None]
    clock: Clock
