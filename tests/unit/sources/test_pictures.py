"""Pictures from files and messages: decoded, or one counted refusal."""

from __future__ import annotations

import contextlib
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from agent.clock import SystemClock
from agent.errors import PermanentError
from agent.sources.image_folder import ImageFolderSource
from agent.sources.network import NetworkSource
from agent.sources.pictures import decode_picture
from tests.mjpeg import MjpegServer


def encoded(suffix: str, width: int = 64, height: int = 48) -> bytes:
    """Encode a grey picture."""
    is_encoded, data = cv2.imencode(suffix, np.full((height, width, 3), 90, np.uint8))
    assert is_encoded
    return data.tobytes()


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header promises more than it holds, as a bomb does."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp"])
def test_pictures_of_each_kind_are_decoded(suffix: str) -> None:
    """uint8 [H, W, 3]."""
    assert decode_picture(encoded(suffix)).shape == (48, 64, 3)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "0 bytes are no JPEG, PNG or BMP picture"),
        (b"GIF89a", "are no JPEG"),
        (encoded(".png")[:18], "is cut off"),
        (encoded(".jpg")[:30], "is cut off"),
        (png_of_size(20_000, 20_000), "picture is 20000x20000, more than 67108864 pixels"),
        (png_of_size(10_000, 10_000), "picture is 10000x10000"),
        (png_of_size(64, 48), "is damaged"),
        (b"\xff\xd8" + b"\xff\xc0" + struct.pack(">HBHHB", 11, 8, 30_000, 30_000, 1) + bytes(99), "30000x30000"),
        (b"BM" + bytes(16) + struct.pack("<ii", 30_000, -30_000), "30000x30000"),
        (b"\xff\xd8" + b"\xff\xe0\0\0" * 9, "cut off"),
    ],
)
def test_what_is_no_picture_is_refused_before_it_is_decoded(data: bytes, reason: str) -> None:
    """Nothing of 67 megapixels is allocated."""
    with pytest.raises(PermanentError, match=reason):
        decode_picture(data)


def test_fill_bytes_and_markers_without_a_length_may_come_before_any_marker() -> None:
    """As the standard allows; one library writes them to align what follows."""
    jpeg = encoded(".jpg")
    at = 2
    while jpeg[at + 1] not in (0xC0, 0xDA):
        jpeg = jpeg[:at] + b"\xff\x01" + b"\xff" * at + jpeg[at:]
        at += 2 + at
        at += 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
    assert decode_picture(jpeg[:at] + b"\xff\xff" + jpeg[at:]).shape == (48, 64, 3)


def test_a_jpeg_that_never_comes_to_its_size_is_refused() -> None:
    """Empty segments without an end, or only fill bytes."""
    for tail in (b"\xff\xe0\0\2" * 100_000, b"\xff" * 100_000, b"\xff\x01" * 100_000, encoded(".jpg")[-200:]):
        with pytest.raises(PermanentError, match="cut off or damaged"):
            decode_picture(b"\xff\xd8" + tail)


def announced(width: int, height: int) -> bytes:
    """Return a small JPEG whose header says that it is larger."""
    jpeg = encoded(".jpg")
    at = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:at] + struct.pack(">HH", height, width) + jpeg[at + 4 :]


@pytest.mark.parametrize("is_from_the_start", [False, True])
def test_a_picture_of_a_camera_on_the_net_is_looked_at_before_it_is_decoded(is_from_the_start: bool) -> None:
    """As in a folder: each is one frame that failed, with its size; the others are served."""
    with MjpegServer() as server:
        large = announced(10_000, 10_000)
        server.picture = large if is_from_the_start else None
        source = NetworkSource(server.url, SystemClock())
        source.open()
        server.picture = large
        with pytest.raises(PermanentError, match="picture is 10000x10000, more than 67108864"):
            read_until_refused(source)
        server.picture = None
        seen = None
        while seen is None:
            with contextlib.suppress(PermanentError):
                seen = source.read()
        assert seen.pixels.shape == (48, 64, 3)
        source.close()


def read_until_refused(source: NetworkSource) -> None:
    """Read past the frames that are on their way."""
    while True:
        source.read()


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    """Files that are no picture by name are left out; those that are not one inside are one error each."""
    for name, level in {"b.png": 20, "a.jpg": 10, "c.BMP": 30}.items():
        cv2.imwrite(str(tmp_path / name), np.full((8, 8, 3), level, np.uint8))
    (tmp_path / "aa.png").touch()
    (tmp_path / "notes.txt").write_text("none")
    source = ImageFolderSource(tmp_path, SystemClock(), is_paced=False, repeat=False, fps=None)
    source.open()
    first = source.read()
    assert first is not None
    levels = [int(first.pixels[0, 0, 0])]
    with pytest.raises(PermanentError, match=r"aa\.png: 0 bytes are no JPEG"):
        source.read()
    while (capture := source.read()) is not None:
        levels.append(int(capture.pixels[0, 0, 0]))
    assert levels == [10, 20, 30]


def test_an_empty_folder_is_no_source(tmp_path: Path) -> None:
    """It says what it looked for; so does one that is not there."""
    for folder, reason in ((tmp_path, "holds no picture"), (tmp_path / "x", "cannot be read")):
        with pytest.raises(PermanentError, match=reason):
            ImageFolderSource(folder, SystemClock(), is_paced=False, repeat=False, fps=None).open()
