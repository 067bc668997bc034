"""One thread, where `capture.seconds` asks for it: keeps the last seconds of frames, and writes them when asked."""

from __future__ import annotations

import json
import shutil
import threading
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from agent.clock import NS_PER_S, Clock, iso_utc
from agent.core.recording import Recorded, Recording
from agent.frame import Frame
from agent.loops.images import encode_within
from agent.result import Payload

INTERVAL_NS = NS_PER_S // 5
"""Between two frames of a stream that are kept: 5 a second show what happened, for 10 to 100 ms of CPU a second."""
FRAME_BYTES_MAX = 128 << 10
CAPTURES_MAX = 4
"""Folders that are kept; the oldest is removed before another is written."""

Tell = Callable[[Mapping[str, Any] | OSError], None]


class RecorderLoop:
    """Holds at most one waiting frame a stream beside its recording.

    Args:
        keep_ns: how far back a capture reaches.
        bytes_max: of the pictures, in memory and of one capture on disk.
        folder: where captures are written, each into a folder of its own.
        clock: the agent's.
    """

    def __init__(self, keep_ns: int, bytes_max: int, folder: Path, clock: Clock) -> None:
        self._recording = Recording(keep_ns, bytes_max)
        self._folder = folder
        self._clock = clock
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._is_stopping = False
        self._waiting: dict[str, tuple[Frame, Payload]] = {}
        self._next_ns: dict[str, int] = {}
        self._asked: deque[Tell] = deque()
        self.unkept = 0
        """Frames of which no picture was small enough."""

    def show(self, frame: Frame, payload: Payload) -> None:
        """Offer a published frame with its payload. Any thread."""
        if frame.captured_at_ns < self._next_ns.get(frame.stream, 0):
            return
        self._next_ns[frame.stream] = frame.captured_at_ns + INTERVAL_NS
        with self._lock:
            self._waiting[frame.stream] = (frame, payload)
        self._wake.set()

    def capture(self, tell: Tell) -> None:
        """Write what is kept; tell its place and figures, or the disk's error, in this loop's thread. Any thread."""
        self._asked.append(tell)
        self._wake.set()

    def run(self) -> None:
        """The thread's body."""
        while not self._is_stopping:
            self._clock.wait(self._wake, NS_PER_S)
            self._wake.clear()
            self.step()

    def stop(self) -> None:
        """End the thread. Any thread."""
        self._is_stopping = True
        self._wake.set()

    def step(self) -> None:
        """Take in what waits, then write what was asked for. The loop's thread."""
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        for frame, payload in waiting.values():
            jpeg = encode_within(frame.pixels, FRAME_BYTES_MAX)
            if jpeg is None:
                self.unkept += 1
                continue
            kept = Recorded(frame.stream, frame.sequence, frame.captured_at_ns, jpeg, payload)
            self._recording.add(kept, self._clock.now_ns())
        self._recording.expire(self._clock.now_ns())
        while self._asked:
            tell = self._asked.popleft()
            try:
                tell(self._write())
            except OSError as error:
                tell(error)

    def snapshot(self) -> dict[str, Any]:
        """Return figures for health. Any thread."""
        return {"bytes_held": self._recording.bytes_held, "unkept": self.unkept}

    def _write(self) -> dict[str, Any]:
        """Write a folder of pictures and `results.ndjson`, and put it in its place when it is whole."""
        now_ns, wall_ns = self._clock.now_ns(), self._clock.wall_ns()
        frames = self._recording.frames()
        self._folder.mkdir(parents=True, exist_ok=True)
        for leftover in self._folder.glob(".*.part"):
            shutil.rmtree(leftover)
        known = sorted(path for path in self._folder.iterdir() if path.is_dir())
        for old in known[: max(0, len(known) - CAPTURES_MAX + 1)]:
            shutil.rmtree(old)
        place = self._folder / iso_utc(wall_ns).replace(":", "").replace("-", "").replace(".", "")
        partial = place.with_name(f".{place.name}.part")
        partial.mkdir()
        lines = []
        for number, frame in enumerate(frames):
            name = f"{number:05d}.jpg"
            (partial / name).write_bytes(frame.jpeg)
            captured_at = iso_utc(wall_ns - (now_ns - frame.captured_at_ns))
            head = {"picture": name, "stream": frame.stream, "frame": frame.sequence, "captured_at": captured_at}
            lines.append(json.dumps({**head, **frame.payload}, separators=(",", ":")))
        (partial / "results.ndjson").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        partial.rename(place)
        span_ns = frames[-1].captured_at_ns - frames[0].captured_at_ns if frames else 0
        size = sum(len(frame.jpeg) for frame in frames)
        return {"folder": str(place), "frames": len(frames), "bytes": size, "span_s": round(span_ns / NS_PER_S, 3)}
