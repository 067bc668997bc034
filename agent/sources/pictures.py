"""A picture from the bytes of a JPEG, PNG or BMP file; its size is looked up before anything is decoded."""

from __future__ import annotations

import re
import struct

import cv2
import numpy as np

from agent.errors import PermanentError
from agent.frame import PIXELS_MAX, Pixels

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp"})
"""Of the files that are read as pictures."""

_JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers that begin with a picture's size: SOF0 to SOF15 (ITU-T T.81, table B.1)."""


_JPEG_MARKER = re.compile(rb"\xff+[^\xff]", re.DOTALL)
"""Any number of fill bytes may come before a marker (T.81, B.1.1.2)."""

_JPEG_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})
"""Markers without a length: TEM and RST0 to RST7."""

_JPEG_SCAN = 0xDA

_JPEG_SEGMENTS_MAX = 4096
"""Before the size: cameras write ten, a colour profile in pieces up to 255."""


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
    for _ in range(_JPEG_SEGMENTS_MAX):
        begin = _JPEG_MARKER.match(data, at)
        if begin is None:
            break
        marker, at = data[begin.end() - 1], begin.end()
        if marker in _JPEG_ALONE:
            continue
        (length,) = struct.unpack_from(">H", data, at)
        if marker in _JPEG_SIZES:
            height, width = struct.unpack_from(">HH", data, at + 3)
            return width, height
        if length < 2 or marker == _JPEG_SCAN:
            break
        at += length
    raise PermanentError(f"picture of {len(data)} bytes is cut off or damaged: nothing in it tells its size")
