"""Pictures to calibrate and to measure with, from a folder or a clip, the two never the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2

from agent.errors import ConfigError
from agent.frame import Pixels

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})

SET_MIN = 2
"""Pictures in each set: one picture fixes no range and proves nothing."""


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a picture is: a file of a folder, or a frame of a clip."""

    file: Path
    frame: int | None = None


@dataclass(frozen=True, slots=True)
class Split:
    """Two sets of places without a picture in common."""

    calibration: tuple[Place, ...]
    held_out: tuple[Place, ...]


def split(calibrate: Path, held_out: Path | None, pictures_max: int) -> Split:
    """Choose at most `pictures_max` different pictures, evenly spread, half of them to calibrate with.

    Of one source every second picture calibrates. Frames of one clip look alike, so that a source of its own for
    `held_out` is the honest measure.

    Raises:
        ConfigError: unreadable, or too few different pictures.
    """
    if held_out is None:
        every = _different(calibrate, pictures_max, set())
        chosen = Split(tuple(every[::2]), tuple(every[1::2]))
    else:
        seen: set[bytes] = set()
        half = max(SET_MIN, pictures_max // 2)
        chosen = Split(tuple(_different(calibrate, half, seen)), tuple(_different(held_out, half, seen)))
    found = len(chosen.calibration) + len(chosen.held_out)
    if min(len(chosen.calibration), len(chosen.held_out)) < SET_MIN:
        sources = str(calibrate) if held_out is None else f"{calibrate} and {held_out}"
        raise ConfigError(
            f"{sources}: {found or 'no'} different picture(s): calibration and measurement need at least {SET_MIN} "
            "each of their own, and 100 are better"
        )
    return chosen


def read(places: tuple[Place, ...]) -> Iterator[tuple[Place, Pixels]]:
    """Yield each place with its picture, uint8 [H, W, 3] BGR, in the order of files and frames."""
    clips: dict[Path, set[int]] = {}
    for place in places:
        if place.frame is None:
            yield place, _picture(place.file)
        else:
            clips.setdefault(place.file, set()).add(place.frame)
    for file, wanted in clips.items():
        for index, pixels in _clip(file, wanted):
            yield Place(file, index), pixels


def _different(source: Path, count_max: int, seen: set[bytes]) -> list[Place]:
    """Return places of pictures that were not seen before."""
    places = []
    for place, pixels in read(tuple(_spread(_places(source), count_max))):
        digest = hashlib.blake2b(pixels.tobytes(), digest_size=16).digest()
        if digest not in seen:
            seen.add(digest)
            places.append(place)
    return places


def _places(source: Path) -> list[Place]:
    if source.is_dir():
        files = sorted(file for file in source.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
        if not files:
            raise ConfigError(f"{source}: holds no pictures ({', '.join(sorted(SUFFIXES))})")
        return [Place(file) for file in files]
    if not source.is_file():
        raise ConfigError(f"{source}: there is no such folder or clip")
    capture = _open(source)
    frames = 0
    # Counted, not asked for: what a header promises is often wrong.
    while capture.grab():
        frames += 1
    capture.release()
    if not frames:
        raise ConfigError(f"{source}: holds no frame that can be decoded")
    return [Place(source, index) for index in range(frames)]


def _spread(places: list[Place], count_max: int) -> list[Place]:
    if len(places) <= count_max:
        return places
    return [places[round(index * (len(places) - 1) / (count_max - 1))] for index in range(count_max)]


def _picture(file: Path) -> Pixels:
    try:
        pixels = cv2.imread(str(file), cv2.IMREAD_COLOR)
    except cv2.error as error:  # More pixels than OpenCV takes, by the header.
        raise ConfigError(f"{file}: is not a readable picture: {_one_line(error)}") from error
    if pixels is None:
        raise ConfigError(f"{file}: is not a readable picture: mend it or take it out")
    return pixels  # type: ignore[return-value]


def _clip(file: Path, wanted: set[int]) -> Iterator[tuple[int, Pixels]]:
    capture = _open(file)
    try:
        for index in range(max(wanted) + 1):
            if not capture.grab():
                return
            if index in wanted:
                try:
                    decoded, pixels = capture.retrieve()
                except cv2.error as error:
                    raise ConfigError(f"{file}: frame {index} cannot be decoded: {_one_line(error)}") from error
                if decoded and pixels is not None and pixels.size:
                    yield index, pixels  # type: ignore[misc]
    finally:
        capture.release()


def _one_line(error: cv2.error) -> str:
    return " ".join(str(error).split())[:200]


def _open(file: Path) -> cv2.VideoCapture:
    capture = cv2.VideoCapture(str(file), cv2.CAP_FFMPEG)
    if not capture.isOpened():
        raise ConfigError(f"{file}: is not a video that FFmpeg can read")
    return capture
