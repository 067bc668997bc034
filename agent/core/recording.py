"""The last seconds of what the streams showed, in memory, bounded in time and in bytes."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, eq=False)
class Recorded:
    """One published frame.

    Attributes:
        stream: its name.
        sequence: of the frame.
        captured_at_ns: `Clock.now_ns`.
        jpeg: the frame as it came.
        payload: what was found.
    """

    stream: str
    sequence: int
    captured_at_ns: int
    jpeg: bytes
    payload: Mapping[str, Any]


class Recording:
    """Keeps the newest frames; the oldest give way. Not thread-safe.

    Args:
        keep_ns: how far back it reaches.
        bytes_max: of all JPEGs; payloads are below a tenth of that.
    """

    def __init__(self, keep_ns: int, bytes_max: int) -> None:
        self._keep_ns = keep_ns
        self._bytes_max = bytes_max
        self._frames: deque[Recorded] = deque()
        self.bytes_held = 0

    def add(self, frame: Recorded, now_ns: int) -> None:
        """Take in a frame."""
        self._frames.append(frame)
        self.bytes_held += len(frame.jpeg)
        self.expire(now_ns)

    def expire(self, now_ns: int) -> None:
        """Let go of what is too old or too much."""
        while self._frames and (
            self.bytes_held > self._bytes_max or now_ns - self._frames[0].captured_at_ns > self._keep_ns
        ):
            self.bytes_held -= len(self._frames.popleft().jpeg)

    def frames(self) -> list[Recorded]:
        """Return what is kept, the oldest first."""
        return list(self._frames)
