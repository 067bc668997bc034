"""Networks that others trained, on pictures of which the content is known: the clip, and scikit-image's own.

scripts/bench_pictures --assets DIR --pictures DIR

`--assets` holds the networks, which are not part of the project: docs/models.md says where each is from. `--pictures`
is `skimage/data` of the package scikit-image.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from agent.clock import SystemClock
from agent.frame import Pixels
from agent.interfaces import Variant
from agent.loading import load_model, try_variants
from agent.modeltools.draft import manifest_text
from agent.settings import ModelSettings
from benchmarks import harness

TRUTH = {"coffee": "cup", "astronaut": "person", "chelsea": "cat", "none": None}

FACE = (176, 68, 272, 178)
"""In astronaut.png, by hand: x1, y1, x2, y2 from hair to chin and between the ears."""

INSIDE = [(230, 40), (225, 120), (160, 90), (240, 220), (100, 300), (240, 420), (80, 440), (330, 330), (170, 385)]
OUTSIDE = [(30, 100), (60, 60), (20, 250), (110, 60), (340, 60), (400, 40), (420, 180), (480, 250), (330, 200)]
"""Points in astronaut.png, by hand: hair, face, suit; flag, wall, shuttle. The helmet is left out."""


def main() -> int:
    """Print what each network makes of its pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--assets", type=Path, required=True)
    parser.add_argument("--pictures", type=Path, required=True)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        for name in ("cocossd_f32", "cocossd_u8"):
            _detector(name, _load(args.assets / f"{name}.onnx", Path(folder), {}))
        exact = {"input": {"scale": 1 / 127.5, "mean": (1.0,)}}
        _detector("cocossd_f32, pixels of -1..1", _load(args.assets / "cocossd_f32.onnx", Path(folder), exact))
        _faces(_load(args.assets / "face_detection_front_128x128_barracuda.onnx", Path(folder), {}), args.pictures)
        _selfie(_load(args.assets / "human_selfie.onnx", Path(folder), {}), args.pictures)
        sizes = {"width": 192, "height": 48, "color": "BGR", "resize": "letterbox", "align": "start", "pad": 127}
        paddle = {"input": {**sizes, "mean": (0.5,), "std": (0.5,)}, "labels": {"names": ("upright", "turned")}}
        _turned(_load(args.assets / "ch_ppocr_mobile_v2.0_cls_infer.onnx", Path(folder), paddle), args.pictures)
    return 0


def _load(network: Path, folder: Path, changes: dict[str, dict[str, Any]]) -> Variant:
    """Load a network as it seems to be, or with a manifest of that and some changes."""
    file = folder / network.name
    shutil.copyfile(network, file)
    (folder / "model.toml").unlink(missing_ok=True)
    if changes:
        manifest, _ = try_variants(file, 1, SystemClock())
        update = {key: getattr(manifest, key).model_copy(update=values) for key, values in changes.items()}
        (folder / "model.toml").write_text(manifest_text(manifest.model_copy(update=update)))
    return load_model(ModelSettings(name="m", path=file), 1, SystemClock()).variants[0]


def _look(model: Variant, pixels: Pixels) -> Any:
    inputs, placement = model.preprocess(pixels)
    return model.decoder.decode(model.engine.run(inputs, model.engine.new_abort()), placement)


def _frames() -> Iterator[tuple[str, Pixels]]:
    """Yield what a frame of the clip shows, and the frame."""
    truth = harness.CLIP.with_name("clip.truth.txt").read_text().split()
    clip = cv2.VideoCapture(str(harness.CLIP))
    for name in truth:
        is_read, pixels = clip.read()
        assert is_read
        yield name, pixels  # type: ignore[misc]


def _detector(name: str, model: Variant) -> None:
    hits = dict.fromkeys(TRUTH, 0)
    frames = dict.fromkeys(TRUTH, 0)
    others, scores = 0, []
    for shown, pixels in _frames():
        found = _look(model, pixels)["detections"]
        own = [one["score"] for one in found if one["label"] == TRUTH[shown]]
        frames[shown] += 1
        hits[shown] += bool(own) if TRUTH[shown] else not found
        others += len(found) - len(own)
        scores += own[:1]
    counts = ", ".join(f"{shown} {hits[shown]}/{frames[shown]}" for shown in TRUTH)
    harness.say(f"{name}: {counts}; other detections {others}; mean score {statistics.mean(scores):.3f}")


def _faces(model: Variant, pictures: Path) -> None:
    shown = [(name, len(_look(model, pixels)["detections"])) for name, pixels in _frames()]
    right = sum(count == 1 for name, count in shown if name == "astronaut")
    wrong = {other: sum(count for name, count in shown if name == other) for other in TRUTH if other != "astronaut"}
    total = sum(name == "astronaut" for name, _ in shown)
    (face,) = _look(model, _read(pictures / "astronaut.png"))["detections"]
    harness.say(
        f"BlazeFace: one face in {right}/{total} frames of the astronaut, others: {wrong}; "
        f"astronaut.png: score {face['score']}, IoU with the box by hand {_iou(face['box'], FACE):.2f}"
    )


def _selfie(model: Variant, pictures: Path) -> None:
    (person,) = _look(model, _read(pictures / "astronaut.png"))["segments"]
    rows, columns = person["mask"]["size"]
    flat = np.concatenate([np.full(count, index % 2) for index, count in enumerate(person["mask"]["counts"])])
    mask = flat.reshape(columns, rows).T
    inside, outside = (
        sum(bool(mask[y * rows // 512, x * columns // 512]) for x, y in points) for points in (INSIDE, OUTSIDE)
    )
    harness.say(
        f"selfie: astronaut.png: share {person['share']}, points on the person {inside}/{len(INSIDE)}, beside her "
        f"{outside}/{len(OUTSIDE)}"
    )


def _turned(model: Variant, pictures: Path) -> None:
    lines = _lines(cv2.imread(str(pictures / "page.png"), cv2.IMREAD_GRAYSCALE))
    right = {"upright": 0, "turned": 0}
    for line in lines:
        for label, pixels in (("upright", line), ("turned", line[::-1, ::-1])):
            best = _look(model, np.ascontiguousarray(pixels))["classes"][0]
            right[label] += best["label"] == label
    harness.say(f"text turned: upright {right['upright']}/{len(lines)}, turned {right['turned']}/{len(lines)}")


def _lines(page: Any) -> list[Pixels]:
    """Cut a page into lines, rows with ink between rows without, and these into pieces of 6 times their height."""
    ink = cv2.adaptiveThreshold(page, 255, cv2.ADAPTIVE_THRESH_MEAN_C, cv2.THRESH_BINARY_INV, 31, 20) > 0
    has_ink = ink.sum(axis=1) > 6
    edges = np.flatnonzero(np.diff(has_ink.astype(int)))
    pairs = zip(edges[::2] if has_ink[edges[0] + 1] else edges[1::2], edges[1::2], strict=False)
    cut = [(max(0, a - 2), b + 3) for a, b in pairs if b - a >= 8]
    lines = []
    for top, bottom in cut:
        columns = np.flatnonzero(ink[top:bottom].any(axis=0))
        width = 6 * (bottom - top)
        starts = range(columns[0], max(columns[0] + 1, columns[-1] - width), width)
        lines += [page[top:bottom, start : start + width] for start in starts]
    return lines


def _read(file: Path) -> Pixels:
    return cv2.imread(str(file))  # type: ignore[return-value]


def _iou(one: Sequence[float], two: Sequence[float]) -> float:
    width, height = min(one[2], two[2]) - max(one[0], two[0]), min(one[3], two[3]) - max(one[1], two[1])
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, two))
    shared = max(0.0, width) * max(0.0, height)
    return shared / (areas - shared)


if __name__ == "__main__":
    sys.exit(main())
