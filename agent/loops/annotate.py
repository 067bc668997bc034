"""One thread: draws the newest prediction on its frame and replaces a JPEG file, at most once a second."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from agent.clock import NS_PER_S, Clock
from agent.frame import Frame, Pixels
from agent.loops.quiet_log import QuietLog
from agent.result import Payload

log = logging.getLogger(__name__)

INTERVAL_NS = NS_PER_S
JPEG_QUALITY = 85
COUNTS = ("zones", "lines")
"""Keys of a payload that tell nothing to be seen."""

_COLOR_BGR = (64, 220, 64)


class AnnotateLoop:
    """Writes each stream's `annotated_image`. `show` costs the inference thread one assignment.

    Only frames with something on them replace a picture, so that the last find stays to be looked at.
    """

    def __init__(self, files: dict[str, Path], clock: Clock) -> None:
        self._files = files
        self._clock = clock
        self._faults = QuietLog(log, clock)
        self._waiting: dict[str, tuple[Frame, Payload]] = {}
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self.failures = 0

    def show(self, frame: Frame, payload: Payload) -> None:
        """Offer a frame with its prediction; the newest is drawn when the second is over. Any thread."""
        if frame.stream not in self._files or not any(value for key, value in payload.items() if key not in COUNTS):
            return
        with self._lock:
            self._waiting[frame.stream] = (frame, payload)
        self._wake.set()

    def run(self) -> None:
        """The thread's body; what waits at the end is still drawn."""
        is_last = False
        while not is_last:
            self._wake.wait()
            self._wake.clear()
            is_last = self._stopping.is_set()
            with self._lock:
                waiting, self._waiting = self._waiting, {}
            for stream, (frame, payload) in waiting.items():
                self._write(stream, frame, payload)
            self._clock.wait(self._stopping, INTERVAL_NS)

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        self._wake.set()

    def _write(self, stream: str, frame: Frame, payload: Payload) -> None:
        file = self._files[stream]
        try:
            write_jpeg(file, draw(frame.pixels, payload))
        except OSError as error:
            self.failures += 1
            self._faults.warn(f"{stream}: annotated_image {file}", f"cannot be written: {error.strerror}")
        else:
            self._faults.clear(f"{stream}: annotated_image {file}")


def draw(pixels: Pixels, payload: Payload) -> Pixels:
    """Return a copy of the frame, uint8 [H, W, 3] BGR, with boxes, outlines, points and names on it."""
    canvas = cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR) if pixels.ndim == 2 else pixels.copy()
    scale = max(0.5, canvas.shape[1] / 1280)
    texts = []
    for found in payload.get("detections", []):
        x1, y1, x2, y2 = (round(v) for v in found["box"])
        cv2.rectangle(canvas, (x1, y1), (x2, y2), _COLOR_BGR, max(2, round(2 * scale)))
        number = f"#{found['track_id']} " if "track_id" in found else ""
        texts.append((f"{number}{found['label']} {found['score']:.2f}", x1, y1))
    for outline in _outlines(payload):
        cv2.polylines(canvas, [outline], isClosed=True, color=_COLOR_BGR, thickness=max(1, round(scale)))
    for body in (*payload.get("detections", []), *payload.get("poses", [])):
        for point in body.get("keypoints", []):
            cv2.circle(
                canvas, (round(point["x"]), round(point["y"])), max(2, round(2 * scale)), _COLOR_BGR, cv2.FILLED
            )
    texts += [
        (f"{found['label']} {found['score']:.2f}", 4, round(24 * scale * (line + 1)))
        for line, found in enumerate(payload.get("classes", []))
    ]
    for text, x, y in texts:
        (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
        foot = max(y, height + 6)
        cv2.rectangle(canvas, (x, foot - height - 6), (x + width + 4, foot), _COLOR_BGR, cv2.FILLED)
        cv2.putText(canvas, text, (x + 2, foot - 4), cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), 1, cv2.LINE_AA)
    return canvas  # type: ignore[return-value]


def _outlines(payload: Payload) -> list[npt.NDArray[np.int32]]:
    """Return every polygon of a payload; run lengths are for programs."""
    masks = [found.get("mask", {}) for found in (*payload.get("detections", []), *payload.get("segments", []))]
    outlines = [outline for mask in masks for outline in mask.get("polygons", [])]
    return [np.rint(np.array(outline).reshape(-1, 2)).astype(np.int32) for outline in outlines]


def write_jpeg(file: Path, pixels: Pixels) -> None:
    """Replace a JPEG file as a whole: a reader never sees half of one, a full disk leaves the old one.

    Raises:
        OSError: the folder is missing, not writable or full.
    """
    _, encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    partial = file.with_name(f".{file.name}.part")
    try:
        partial.write_bytes(encoded.tobytes())
        partial.replace(file)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
