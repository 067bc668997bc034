"""A folder of pictures, in the order of their names."""

from __future__ import annotations

from collections import deque
from pathlib import Path

from agent.clock import NS_PER_S, Clock
from agent.errors import PermanentError
from agent.frame import Capture
from agent.sources.pacing import Pacer
from agent.sources.pictures import SUFFIXES, decode_picture

FPS_ASSUMED = 1.0
"""A folder states no rate; once a second leaves time to look at each."""

PICTURE_BYTES_MAX = 100_000_000
"""Of one file: 100 megapixels as a good JPEG."""


class ImageFolderSource:
    """See `interfaces.Source`.

    Args:
        folder: its JPEG, PNG and BMP files are read; those in folders below it are not.
        clock: paces and stamps.
        is_paced: one picture each 1/fps; else as fast as they are consumed.
        repeat: start again at the end, with what is there then.
        fps: rate to pace at; None for one a second.
    """

    def __init__(self, folder: Path, clock: Clock, *, is_paced: bool, repeat: bool, fps: float | None) -> None:
        self._folder = folder
        self._pacer = Pacer(clock, is_paced=is_paced)
        self._repeat = repeat
        self._interval_ns = round(NS_PER_S / (fps or FPS_ASSUMED))
        self._waiting: deque[Path] = deque()
        self._read = 0

    def open(self) -> None:
        """See `Source.open`."""
        try:
            found = [file for file in self._folder.iterdir() if file.suffix.lower() in SUFFIXES]
        except OSError as error:
            raise PermanentError(f"{self._folder}: cannot be read: {error.strerror}") from error
        if not found:
            raise PermanentError(f"{self._folder}: holds no picture ({', '.join(sorted(SUFFIXES))})")
        self._waiting = deque(sorted(found))
        self._read = 0
        self._pacer.restart()

    def read(self) -> Capture | None:
        """See `Source.read`; a file that is no picture is named."""
        if not self._waiting:
            if not self._repeat:
                return None
            self.open()
        file = self._waiting.popleft()
        captured_at_ns, _ = self._pacer.wait(self._read * self._interval_ns)
        self._read += 1
        if self._pacer.is_interrupted:
            return None
        try:
            size = file.stat().st_size
            data = file.read_bytes() if size <= PICTURE_BYTES_MAX else b""
        except OSError as error:
            raise PermanentError(f"{file}: cannot be read: {error.strerror}") from error
        if size > PICTURE_BYTES_MAX:
            raise PermanentError(f"{file}: has {size} bytes, more than {PICTURE_BYTES_MAX}")
        try:
            return Capture(captured_at_ns, decode_picture(data))
        except PermanentError as error:
            raise PermanentError(f"{file}: {error}") from None

    def close(self) -> None:
        """See `Source.close`."""
        self._waiting.clear()

    def interrupt(self) -> None:
        """See `Source.interrupt`: ends a wait for the next picture's time."""
        self._pacer.interrupt()
