"""Pictures that the scikit-image wheel carries, and frames of the demo clip.

All pictures are uint8 [H, W, 3]. They are RGB here; only OpenCV's reader and writer
see BGR.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import as_file, files
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

INPUT_SIDE_PX = 300
"""Width and height of the model's input."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture inside the scikit-image wheel and the terms it comes under."""

    file: str
    """Name of the file in `skimage/data`."""

    sha256: str
    """Digest of that file: another wheel with another picture must not pass unseen."""

    licence: str
    """The terms, as the docstrings of `skimage.data` state them."""

    credit: str
    """Who took the picture."""


COFFEE = Picture(
    "coffee.png",
    "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
    "CC0 1.0",
    "Rachel Michetti, courtesy of Pikolo Espresso Bar",
)
CHELSEA = Picture(
    "chelsea.png",
    "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
    "CC0 1.0",
    "Stefan van der Walt",
)
ASTRONAUT = Picture(
    "astronaut.png",
    "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
    "public domain",
    "NASA (Great Images in NASA: Eileen Collins)",
)
HUBBLE = Picture(
    "hubble_deep_field.jpg",
    "3a19c5dd8a927a9334bb1229a6d63711b1c0c767fb27e2286e7c84a3e2c2f5f4",
    "public domain",
    "NASA",
)
RETINA = Picture(
    "retina.jpg",
    "38a07f36f27f095e818aea7b96d34202c05176d30253c66733f2e00379e9e0e6",
    "CC0 1.0",
    "Mikael Häggström",
)
ROCKET = Picture(
    "rocket.jpg",
    "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c",
    "public domain",
    "SpaceX",
)
MOTORCYCLE_LEFT = Picture(
    "motorcycle_left.png",
    "db18e9c4157617403c3537a6ba355dfeafe9a7eabb6b9b94cb33f6525dd49179",
    "terms not stated",
    "Middlebury Stereo 2014",
)
MOTORCYCLE_RIGHT = Picture(
    "motorcycle_right.png",
    "5fc913ae870e42a4b662314bc904d1786bcad8e2f0b9b67dba5a229406357797",
    "terms not stated",
    "Middlebury Stereo 2014",
)

CALIBRATION = (ASTRONAUT, CHELSEA, COFFEE, HUBBLE, RETINA, ROCKET)
"""Every colour photograph of the wheel that is CC0 or in the public domain."""

HELD_OUT = (MOTORCYCLE_LEFT, MOTORCYCLE_RIGHT)
"""Read from the installed wheel to measure with, never copied into this project:
their terms are not stated."""


def load(picture: Picture) -> NDArray[np.uint8]:
    """Reads one picture as uint8 [H, W, 3] RGB.

    Raises:
        ValueError: The installed wheel holds a different file, or it cannot be decoded.
    """
    with as_file(files("skimage") / "data" / picture.file) as path:
        content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != picture.sha256:
        installed = version("scikit-image")
        raise ValueError(f"{picture.file} of scikit-image {installed} is not the picture named in NOTICE")
    bgr = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    if bgr is None:
        raise ValueError(f"{picture.file} cannot be decoded")
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def clip_frames(clip: Path) -> list[NDArray[np.uint8]]:
    """Decodes every frame of a clip as uint8 [H, W, 3] RGB.

    Raises:
        ValueError: No frame could be read.
    """
    capture = cv2.VideoCapture(str(clip))
    frames: list[NDArray[np.uint8]] = []
    try:
        while True:
            decoded, bgr = capture.read()
            if not decoded:
                break
            frames.append(np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8))
    finally:
        capture.release()
    if not frames:
        raise ValueError(f"{clip}: no frame could be read; run scripts/build_demo_clip first")
    return frames


def model_input(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Stretches uint8 [H, W, 3] to the model's input, uint8 [1, 300, 300, 3]."""
    stretched = cv2.resize(picture, (INPUT_SIDE_PX, INPUT_SIDE_PX), interpolation=cv2.INTER_LINEAR)
    return np.asarray(stretched, np.uint8)[np.newaxis]


def mirrored(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Swaps left and right of uint8 [H, W, 3]."""
    return np.ascontiguousarray(picture[:, ::-1])


def random_views(picture: NDArray[np.uint8], count: int, seed: int) -> list[NDArray[np.uint8]]:
    """Cuts `count` windows of half to full size out of uint8 [H, W, 3], every second one mirrored."""
    rng = np.random.default_rng(seed)
    height, width = picture.shape[:2]
    views = []
    for index in range(count):
        scale = rng.uniform(0.5, 1.0)
        view_height, view_width = int(height * scale), int(width * scale)
        top = int(rng.integers(0, height - view_height + 1))
        left = int(rng.integers(0, width - view_width + 1))
        view = np.ascontiguousarray(picture[top : top + view_height, left : left + view_width])
        views.append(mirrored(view) if index % 2 else view)
    return views
