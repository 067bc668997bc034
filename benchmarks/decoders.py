"""What stands before and behind a network: preprocessing against the best by hand, decoding, and a stream's steps."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np

from agent.clock import NS_PER_S
from agent.core.steps.chain import Steps
from agent.decoders.options import DecoderInput
from agent.decoders.yolo import YoloDecoder
from agent.frame import Pixels
from agent.interfaces import Placement, TensorSpec
from agent.models.manifest import InputSpec
from agent.models.preprocess import build_preprocess
from agent.settings.steps import StepsSettings
from benchmarks import harness

SIDE = 640
ANCHORS, CLASSES = 8400, 80
RATIO_MAX = 1.2
DECODE_MS_MAX = 2.0
PLACE = Placement(0.5, 0.5, 0, 80, SIDE, SIDE, 1280, 960)

Run = Callable[[], object]


def main() -> int:
    """Let everything take turns and print the medians."""
    parser = harness.parser("Preprocessing, decoding and steps, one thread.")
    parser.add_argument("--rounds", type=int, default=300)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    runs: dict[str, Run] = {**_preprocess(), **_decode(), **_steps()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(args.rounds):
        for name, run in runs.items():
            started_ns = time.perf_counter_ns()
            run()
            times[name].append((time.perf_counter_ns() - started_ns) / 1e6)
    rows: list[dict[str, Any]] = [
        {"what": name, "median ms": statistics.median(own), "least ms": min(own)} for name, own in times.items()
    ]
    medians = {row["what"]: row["median ms"] for row in rows}
    verdicts = [
        _verdict("preprocess agent / best by hand", medians["agent"] / medians["by hand"], RATIO_MAX),
        *(
            _verdict(f"{name}, ms", medians[name], DECODE_MS_MAX)
            for name in ("v8, 20 things", "v8, nothing", "v5, 20 things", "end_to_end, 20 things")
        ),
    ]
    return harness.conclude("decoders", rows, verdicts, as_json=args.json)


def _verdict(name: str, value: float, bound: float) -> harness.Verdict:
    return harness.Verdict(name, value, f"<= {bound:g}", value <= bound)


def _preprocess() -> dict[str, Run]:
    """640x640 BGR to normalised float32 NCHW RGB, without a resize."""
    pixels: Pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    spec = InputSpec.model_validate(
        {"name": "x", "layout": "NCHW", "dtype": "float32", "width": SIDE, "height": SIDE}
    )
    agent = build_preprocess(spec)
    table = (np.arange(256) / 255).astype(np.float32)

    def by_hand() -> object:
        tensor = np.empty((3, SIDE, SIDE), np.float32)
        for plane, out in zip(cv2.split(pixels)[::-1], tensor, strict=True):
            cv2.LUT(plane, table, dst=out)
        return tensor[None]

    def multiplied() -> object:
        tensor = np.empty((3, SIDE, SIDE), np.float32)
        for index in range(3):
            np.multiply(pixels[..., 2 - index], np.float32(1 / 255), out=tensor[index])
        return tensor[None]

    assert np.array_equal(agent(pixels)[0]["x"], by_hand())  # type: ignore[arg-type]
    blob = cv2.dnn.blobFromImage
    return {
        "agent": lambda: agent(pixels),
        "by hand": by_hand,
        "np.multiply a channel": multiplied,
        "blobFromImage": lambda: blob(pixels, 1 / 255, swapRB=True),
    }


def _decode() -> dict[str, Run]:
    """8,400 anchors of 80 classes; a thing has 12 boxes that overlap, which is what a trained head gives."""
    labels = [str(index) for index in range(CLASSES)]

    def decoder(head: str, width: int, rows: int, *, is_turned: bool = False) -> YoloDecoder:
        shape = (1, width, rows) if is_turned else (1, rows, width)
        spec = TensorSpec("o", np.dtype(np.float32), shape)
        return YoloDecoder(DecoderInput("bench", {"name": "yolo", "head": head}, (spec,), labels, 0))

    v8 = decoder("v8", 4 + CLASSES, ANCHORS, is_turned=True)
    v5 = decoder("v5", 5 + CLASSES, 3 * ANCHORS)
    ended = decoder("end_to_end", 6, 300)
    nothing, few, many = (np.ascontiguousarray(_rows(things).T[None]) for things in (0, 20, 100))
    chance = np.zeros((1, 3 * ANCHORS, 5 + CLASSES), np.float32)
    rows = _rows(20)
    chance[0, :ANCHORS] = np.concatenate([rows[:, :4], np.minimum(rows[:, 4:].max(axis=1, keepdims=True) * 1.05, 1),
                                          rows[:, 4:]], axis=1)  # fmt: skip
    pairs = np.zeros((1, 300, 6), np.float32)
    pairs[0, :20] = [[30 * k, 100, 30 * k + 25, 200, 0.9 - k / 100, k] for k in range(20)]
    return {
        "v8, 20 things": lambda: v8.decode([few], PLACE),
        "v8, nothing": lambda: v8.decode([nothing], PLACE),
        "v8, 100 things": lambda: v8.decode([many], PLACE),
        "v5, 20 things": lambda: v5.decode([chance], PLACE),
        "end_to_end, 20 things": lambda: ended.decode([pairs], PLACE),
    }


def _rows(things: int) -> np.ndarray[Any, Any]:
    """Return [8400, 84] rows of which 12 a thing are above the threshold."""
    rng = np.random.default_rng(1)
    rows = rng.uniform(0, 0.02, (ANCHORS, 4 + CLASSES)).astype(np.float32)
    rows[:, :4] = rng.uniform(20, 600, (ANCHORS, 4))
    for thing in range(things):
        own = slice(12 * thing, 12 * thing + 12)
        middle = (60 + 58 * (thing % 10), 60 + 58 * (thing // 10))
        rows[own, :2] = middle + rng.normal(0, 2, (12, 2))
        rows[own, 2:4] = 50 + rng.normal(0, 2, (12, 2))
        rows[own, 4 + thing % CLASSES] = rng.uniform(0.4, 0.95, 12)
    return rows


def _steps() -> dict[str, Run]:
    """Filter, tracker, four zones, two lines, presence and changes on things that move."""
    square = [[0.1, 0.1], [0.6, 0.1], [0.6, 0.6], [0.1, 0.6]]
    settings = StepsSettings.model_validate(
        {
            "filter": {"score_min": 0.1},
            "tracker": {},
            "zones": [{"name": f"z{index}", "polygon": square} for index in range(4)],
            "lines": [{"name": f"l{index}", "start": [0.5, 0], "end": [0.5, 1]} for index in range(2)],
            "presence": {},
            "changes": {},
        }
    )
    return {f"steps, {count} things": _stepper(settings, count) for count in (5, 20, 100)}


def _stepper(settings: StepsSettings, count: int) -> Run:
    steps, frames = Steps("s", settings), iter(range(1_000_000))
    places: Sequence[tuple[float, float]] = [(90.0 * (k % 12), 90.0 * (k // 12)) for k in range(count)]

    def run() -> object:
        frame = next(frames)
        shift = 10 * np.sin(frame / 10)
        found = [
            {"label": "a", "class_id": 0, "score": 0.9, "box": [x + shift, y, x + 60 + shift, y + 60]}
            for x, y in places
        ]
        payload, _ = steps.observe({"detections": found}, frame * NS_PER_S // 30, 1280, 960)  # type: ignore[typeddict-item]
        return steps.is_news(payload, frame * NS_PER_S // 30, 1280, 960)

    return run


if __name__ == "__main__":
    sys.exit(main())
