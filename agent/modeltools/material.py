"""What a model is calibrated and judged with: pictures, or windows of recordings, and where each came from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from agent.frame import Content, Pixels
from agent.models.manifest import Manifest
from agent.modeltools.pictures import Place, read, split
from agent.modeltools.recordings import Take, split_recordings
from agent.modeltools.task import Task


class Item(NamedTuple):
    """One picture or window.

    Attributes:
        file: where it is from.
        content: see `Content`.
        follows: False where a state starts anew.
    """

    file: Path
    content: Content
    follows: bool


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """Two sets without an item in common, read when they are needed.

    Attributes:
        kind: `pictures` or `windows`.
        calibration_count: items to calibrate with; 0 for dynamic quantisation.
        held_out_count: items to judge with.
        calibration: begins to read the former.
        held_out: begins to read the latter.
        picture: reads one of the latter by its index, as a golden picture; None for signals.
    """

    kind: str
    calibration_count: int
    held_out_count: int
    calibration: Callable[[], Iterator[Item]]
    held_out: Callable[[], Iterator[Item]]
    picture: Callable[[int], Pixels] | None

    def with_held_out_max(self, count: int) -> Material:
        """Return the same with at most so many held-out items: pictures evenly spread, windows from the first on."""
        if count >= self.held_out_count:
            return self
        if self.picture is None:
            return replace(self, held_out_count=count, held_out=lambda: islice(self.held_out(), count))
        read_one, last = self.picture, self.held_out_count - 1
        chosen = [round(index * last / (count - 1)) for index in range(count)]
        wanted = frozenset(chosen)
        return replace(
            self,
            held_out_count=count,
            held_out=lambda: (item for index, item in enumerate(self.held_out()) if index in wanted),
            picture=lambda index: read_one(chosen[index]),
        )


def gather(task: Task, manifest: Manifest, *, is_dynamic: bool) -> Material:
    """Choose pictures or recordings by what the model takes.

    Raises:
        ConfigError: unreadable, or too few.
    """
    if manifest.signal is not None:
        takes = split_recordings(task.calibrate, task.held_out, manifest.signal, is_dynamic=is_dynamic)
        return Material(
            kind="windows",
            calibration_count=sum(len(take.windows) for take in takes.calibration),
            held_out_count=sum(len(take.windows) for take in takes.held_out),
            calibration=lambda: _windows(takes.calibration),
            held_out=lambda: _windows(takes.held_out),
            picture=None,
        )
    places = split(task.calibrate, task.held_out, task.pictures_max)
    return Material(
        kind="pictures",
        calibration_count=0 if is_dynamic else len(places.calibration),
        held_out_count=len(places.held_out),
        calibration=lambda: _pictures(places.calibration),
        held_out=lambda: _pictures(places.held_out),
        picture=lambda index: next(pixels for _, pixels in read((places.held_out[index],))),
    )


def _windows(takes: Iterable[Take]) -> Iterator[Item]:
    for take in takes:
        for index, window in enumerate(take.windows):
            yield Item(take.file, window, index > 0)


def _pictures(places: tuple[Place, ...]) -> Iterator[Item]:
    for index, (place, pixels) in enumerate(read(places)):
        yield Item(place.file, pixels, index > 0)
