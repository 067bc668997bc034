"""One thread: pictures of what the streams see, for those who watch, each small enough for any broker."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import cv2

from agent.clock import NEVER_NS, Clock
from agent.core.leases import Leases
from agent.core.message import Message
from agent.frame import Frame, Pixels
from agent.loops.annotate import draw
from agent.loops.quiet_log import QuietLog
from agent.result import Payload

log = logging.getLogger(__name__)

WIDTH_MAX = 1280
"""Wider pictures are made smaller first: a JPEG of 1280x720 takes 5 ms and mostly fits
(docs/benchmarks.md)."""
WIDTH_MIN = 160
"""Below it a picture tells nothing: it is dropped instead."""
QUALITIES = (85, 70, 50, 30)
"""Tried in this order, then the width is halved."""
SNAPSHOTS_MAX = 8
"""Waiting for the next frame of their stream."""

EXPIRY_S = 600
"""In MQTT 5 the broker forgets a picture by itself when the agent could not take it away: it was killed."""

TellPicture = Callable[[Frame, bytes | None], None]


@dataclass(frozen=True, slots=True)
class ImagePolicy:
    """What holds for all pictures.

    Attributes:
        interval_ns: least time between two pictures of a stream.
        bytes_max: of one picture on `image/{stream}`.
        on_find: whether one is also sent when something is found that the result before did not have.
    """

    interval_ns: int
    bytes_max: int
    on_find: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class _Snapshot:
    stream: str
    is_annotated: bool
    bytes_max: int
    by_ns: int
    tell: TellPicture


class ImageLoop:
    """Draws and encodes the newest published frame of each stream that is watched.

    A picture is a retained message of QoS 0; it is taken away when the last lease of its stream ends. `show` costs
    the inference thread one look-up while nobody watches. Holds one frame a watched stream.

    Args:
        leftovers: streams whose picture a run that was killed may have left at the broker.
        policy: see there.
        emit: hands a picture to egress.
        clock: the agent's.
    """

    def __init__(
        self, leftovers: Collection[str], policy: ImagePolicy, emit: Callable[[Message], None], clock: Clock
    ) -> None:
        self._leftovers = frozenset(leftovers)
        self._policy = policy
        self._emit = emit
        self._clock = clock
        self._faults = QuietLog(log, clock)
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._is_stopping = False
        self._leases = Leases()
        self._snapshots: list[_Snapshot] = []
        self._wanted: frozenset[str] = frozenset()
        self._waiting: dict[str, tuple[Frame, Payload]] = {}
        self._next_ns: dict[str, int] = {}
        self._labels: dict[str, frozenset[str]] = {}
        self._finds: set[str] = set()
        self._shown: set[str] = set()
        self._counts = Counter(sent=0, removed=0, oversize=0, snapshots=0)

    def show(self, frame: Frame, payload: Payload) -> None:
        """Offer a published frame with its payload; the newest is drawn when it is time. Any thread."""
        is_find = self._policy.on_find and self._has_new_find(frame.stream, payload)
        if not is_find and frame.stream not in self._wanted:
            return
        with self._lock:
            if is_find:
                self._finds.add(frame.stream)
            self._waiting[frame.stream] = (frame, payload)
        self._wake.set()

    def watch(self, stream: str, holder: str, duration_ns: int) -> bool:
        """Give, renew or (with 0) end a lease; False when too many are held. Any thread."""
        with self._lock:
            if duration_ns:
                is_held = self._leases.hold(stream, holder, self._clock.now_ns() + duration_ns)
            else:
                is_held = True
                self._leases.release(stream, holder)
            self._find_wanted()
        self._wake.set()
        return is_held

    def take_snapshot(
        self, stream: str, *, is_annotated: bool, bytes_max: int, wait_ns: int, tell: TellPicture
    ) -> bool:
        """Tell the next published frame of a stream as a JPEG, None where it does not fit. Any thread.

        Args:
            stream: whose frame.
            is_annotated: whether what was found is drawn on it.
            bytes_max: of the file.
            wait_ns: for a frame; then nothing is told.
            tell: called once, in this loop's thread.

        Returns:
            False when too many wait.
        """
        by_ns = self._clock.now_ns() + wait_ns
        with self._lock:
            if len(self._snapshots) >= SNAPSHOTS_MAX:
                return False
            self._snapshots.append(_Snapshot(stream, is_annotated, bytes_max, by_ns, tell))
            self._find_wanted()
        self._wake.set()
        return True

    def connected(self) -> None:
        """Take away soon what a run that was killed left at the broker. Any thread."""
        with self._lock:
            self._shown |= self._leftovers - self._leases.streams
            self._leftovers = frozenset()
        self._wake.set()

    def run(self) -> None:
        """The thread's body; at its end every picture is taken away again."""
        while not self._is_stopping:
            self._wake.clear()
            now_ns = self._clock.now_ns()
            self._clock.wait(self._wake, self.step(now_ns) - now_ns)
        with self._lock:
            self._leases.expire(NEVER_NS)
        self._take_away()

    def stop(self) -> None:
        """End the thread. Any thread."""
        self._is_stopping = True
        self._wake.set()

    def step(self, now_ns: int) -> int:
        """Do what is due and return when the next is. The loop's thread."""
        with self._lock:
            self._leases.expire(now_ns)
            told = [(one, *self._waiting[one.stream]) for one in self._snapshots if one.stream in self._waiting]
            self._snapshots = [
                one for one in self._snapshots if one.stream not in self._waiting and now_ns < one.by_ns
            ]
            self._find_wanted()
            due = {s: pair for s, pair in self._waiting.items() if now_ns >= self._next_ns.get(s, 0)}
            for stream in due:
                del self._waiting[stream]
            self._finds -= due.keys()
        self._take_away()
        for snapshot, frame, payload in told:
            self._counts["snapshots"] += 1
            pixels = draw(frame.pixels, payload) if snapshot.is_annotated else frame.pixels
            snapshot.tell(frame, encode_within(pixels, snapshot.bytes_max))
        for stream, (frame, payload) in due.items():
            self._next_ns[stream] = now_ns + self._policy.interval_ns
            self._publish(stream, frame, payload)
        with self._lock:
            waits = [self._next_ns.get(stream, 0) for stream in self._waiting]
            return min([self._leases.next_ns(), *waits, *(one.by_ns for one in self._snapshots)])

    def snapshot(self) -> dict[str, Any]:
        """Return figures for health. Any thread."""
        with self._lock:
            return {**self._counts, "watched": sorted(self._leases.streams), "leases": len(self._leases)}

    def _find_wanted(self) -> None:
        """Note whose frames are wanted; one assignment, which `show` reads without the lock."""
        watched = self._leases.streams
        self._wanted = watched | {one.stream for one in self._snapshots}
        # Nobody waits for the other frames any more: each is 6.2 MB at 1080p.
        kept = watched | self._finds
        self._waiting = {stream: pair for stream, pair in self._waiting.items() if stream in kept}

    def _has_new_find(self, stream: str, payload: Payload) -> bool:
        found = payload.get("detections") or payload.get("classes") or []
        labels = frozenset(item["label"] for item in found)
        before, self._labels[stream] = self._labels.get(stream, frozenset()), labels
        return not labels <= before

    def _take_away(self) -> None:
        """Remove the pictures that nobody watches any more; those of finds stay for whoever looks."""
        if self._policy.on_find:
            return
        with self._lock:
            over = self._shown - self._leases.streams
            self._shown -= over
        for stream in sorted(over):
            self._send(stream, b"")

    def _publish(self, stream: str, frame: Frame, payload: Payload) -> None:
        jpeg = encode_within(draw(frame.pixels, payload), self._policy.bytes_max)
        if jpeg is None:
            self._counts["oversize"] += 1
            self._faults.warn(stream, f"a picture does not fit into {self._policy.bytes_max} bytes and is dropped")
            return
        with self._lock:
            self._shown.add(stream)
        self._send(stream, jpeg)

    def _send(self, stream: str, payload: bytes) -> None:
        self._counts["sent" if payload else "removed"] += 1
        self._emit(
            Message(
                kind="image",
                topic=f"image/{stream}",
                body={},
                captured_at_ns=self._clock.now_ns(),
                qos=0,
                retain=True,
                payload=payload,
                content_type="image/jpeg",
                expiry_s=None if self._policy.on_find or not payload else EXPIRY_S,
            )
        )


def encode_within(pixels: Pixels, bytes_max: int) -> bytes | None:
    """Return a frame as a JPEG of at most so many bytes: the best quality, then the greatest size that fits.

    Args:
        pixels: uint8 [H, W, 3] BGR or [H, W] grey.
        bytes_max: of the file.

    Returns:
        None where not even a picture of `WIDTH_MIN` fits, or the frame cannot be encoded.
    """
    width = min(pixels.shape[1], WIDTH_MAX)
    while True:
        height = max(1, round(pixels.shape[0] * width / pixels.shape[1]))
        scaled = pixels
        if width != pixels.shape[1]:
            scaled = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
        for quality in QUALITIES:
            is_encoded, jpeg = cv2.imencode(".jpg", scaled, [cv2.IMWRITE_JPEG_QUALITY, quality])
            if is_encoded and len(jpeg) <= bytes_max:
                return jpeg.tobytes()
        width //= 2
        if width < WIDTH_MIN:
            return None
