"""A picture from the bytes of a JPEG, PNG or BMP file; its size is looked up before anything is decoded."""

from __future__ import annotations

import struct

import cv2
import numpy as np

from agent.errors import PermanentError
from agent.frame import PIXELS_MAX, Pixels

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp"})
"""Of the files that are read as pictures."""

_JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers that begin with a picture's size: SOF0 to SOF15 (ITU-T T.81, table B.1)."""


def decode_picture(data: bytes) -> Pixels:
    """Return uint8 [H, W, 3] BGR.

    Raises:
        PermanentError: no picture of a known kind, damaged, or too large to be decoded.
    """
    width, height = _size(data)
    if width * height > PIXELS_MAX:
        raise PermanentError(f"picture is {width}x{height}, more than {PIXELS_MAX} pixels")
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise PermanentError(f"picture cannot be decoded: {' '.join(str(error).split())[:200]}") from error
    if pixels is None or pixels.size == 0:
        raise PermanentError(f"picture of {len(data)} bytes is damaged")
    return pixels  # type: ignore[return-value]


def _size(data: bytes) -> tuple[int, int]:
    try:
        if data[:8] == b"\x89PNG\r\n\x1a\n":
            width, height = struct.unpack_from(">II", data, 16)
            return width, height
        if data[:2] == b"BM":
            width, height = struct.unpack_from("<ii", data, 18)
            return abs(width), abs(height)
        if data[:2] == b"\xff\xd8":
            return _jpeg_size(data)
    except struct.error:
        raise PermanentError(f"picture of {len(data)} bytes is cut off") from None
    raise PermanentError(f"{len(data)} bytes are no JPEG, PNG or BMP picture")


def _jpeg_size(data: bytes) -> tuple[int, int]:
    at = 2
    while at < len(data):
        marker, length = struct.unpack_from(">xBH", data, at)
        if marker in _JPEG_SIZES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        at += 2 + length
    raise PermanentError(f"picture of {len(data)} bytes is cut off")
