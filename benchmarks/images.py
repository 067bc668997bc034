"""What a picture of a watched stream costs: drawing, encoding, bytes; and what `show` costs the inference thread."""

from __future__ import annotations

import statistics
import time

import cv2

from agent.clock import NEVER_NS, NS_PER_S, SystemClock
from agent.frame import Frame, Pixels
from agent.loops.annotate import draw
from agent.loops.images import ImageLoop, ImagePolicy, encode_within
from agent.result import Payload
from benchmarks import harness

SIZES = ((640, 480), (1280, 720), (1920, 1080), (3840, 2160))
BYTES_MAX = 256 << 10
SHOWS = 100_000
FOUND: Payload = {
    "detections": [{"label": "cat", "class_id": 17, "score": 0.9, "box": [5.0, 5.0, 300.0, 300.0]} for _ in range(3)]
}


def main() -> int:
    """Print a line for each size, in CPU time: the machine may be busy."""
    parser = harness.parser("CPU and bytes of a picture, and of offering a frame.")
    parser.add_argument("--frames", type=int, default=60)
    args = parser.parse_args()
    clip = cv2.VideoCapture(str(harness.CLIP))
    frames: list[Pixels] = []
    while len(frames) < args.frames and (read := clip.read())[0]:
        frames.append(read[1])  # type: ignore[arg-type]
    cv2.setNumThreads(1)
    for size in SIZES:
        costs_ms, sizes_kb = [], []
        for frame in frames:
            pixels: Pixels = cv2.resize(frame, size)  # type: ignore[assignment]
            begun = time.process_time()
            jpeg = encode_within(draw(pixels, FOUND), BYTES_MAX)
            costs_ms.append((time.process_time() - begun) * 1e3)
            sizes_kb.append(len(jpeg or b"") / 1e3)
        cost = f"CPU p50 {statistics.median(costs_ms):.1f} max {max(costs_ms):.1f} ms"
        harness.say(
            f"{size[0]}x{size[1]}: {cost}, size p50 {statistics.median(sizes_kb):.0f} max {max(sizes_kb):.0f} kB"
        )
    loop = ImageLoop((), ImagePolicy(NS_PER_S, BYTES_MAX), lambda _: None, SystemClock())
    frame = Frame("door", 1, 0, NEVER_NS, frames[0])
    for what in ("nobody watches", "somebody watches"):
        begun = time.process_time()
        for _ in range(SHOWS):
            loop.show(frame, FOUND)
        harness.say(f"show, {what}: {(time.process_time() - begun) / SHOWS * 1e6:.2f} us")
        loop.watch("door", "bench", 60 * NS_PER_S)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
