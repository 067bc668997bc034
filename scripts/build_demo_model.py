"""Rebuilds the demo model: converts, quantises, measures, and writes its folder."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from agent.modeltools.agreement import Agreement
from tools.demo_model.convert import convert
from tools.demo_model.evaluate import compare, detect, median_latencies_ms, open_session
from tools.demo_model.golden import write_golden
from tools.demo_model.manifest import LABELS, write_labels, write_manifest
from tools.demo_model.pictures import HELD_OUT, clip_frames, load, model_input, random_views
from tools.demo_model.quantize import calibration_inputs, quantize

CLIP = Path("config/demo/clip.mp4")
CLIP_TRUTH = Path("config/demo/clip.truth.txt")

CALIBRATION_STRIDE = 5
"""Every fifth frame of the clip calibrates, the others measure."""

VIEWS_PER_PICTURE = 32
F1_MIN = 0.9

OBJECT_SHOWN = {"coffee": "cup", "astronaut": "person", "chelsea": "cat"}
"""What each picture of the clip shows, as a label."""


def held_out_inputs(frames: list[NDArray[np.uint8]]) -> dict[str, list[NDArray[np.uint8]]]:
    """Collects the inputs to measure with, uint8 [1, 300, 300, 3], by where they come from.

    The clip's frames are new to the model but show pictures that calibrated it; the
    views of the held-out pictures show nothing that it has seen.
    """
    unseen = [
        view for seed, picture in enumerate(HELD_OUT) for view in random_views(load(picture), VIEWS_PER_PICTURE, seed)
    ]
    rest = [frame for index, frame in enumerate(frames) if index % CALIBRATION_STRIDE]
    return {
        "clip frames that did not calibrate": [model_input(frame) for frame in rest],
        "views of pictures that did not calibrate": [model_input(view) for view in unseen],
    }


def count_clip_hits(session: ort.InferenceSession, frames: list[NDArray[np.uint8]]) -> dict[str, tuple[int, int]]:
    """Counts, for each picture of the clip, the frames with the right answer and all frames.

    Right is: the object shown is among the detections, or nothing is where nothing is shown.
    """
    hits: dict[str, tuple[int, int]] = {}
    truth = CLIP_TRUTH.read_text(encoding="utf-8").split()
    for frame, shown in zip(frames, truth, strict=True):
        labels = [LABELS[found.category - 1] for found in detect(session, model_input(frame))]
        is_right = OBJECT_SHOWN[shown] in labels if shown in OBJECT_SHOWN else not labels
        right, total = hits.get(shown, (0, 0))
        hits[shown] = (right + is_right, total + 1)
    return hits


def report(fp32: Path, int8: Path, frames: list[NDArray[np.uint8]]) -> float:
    """Prints agreement, sizes and latency, and returns the lowest F1 of the held-out sets."""
    reference, candidate = open_session(fp32), open_session(int8)
    lowest = 1.0
    total = Agreement()
    for name, pictures in held_out_inputs(frames).items():
        agreement = compare(reference, candidate, pictures)
        total += agreement
        lowest = min(lowest, agreement.f1)
        print(f"F1 {agreement.f1:.3f}  {len(pictures)} {name}: {agreement}")
    print(f"F1 {total.f1:.3f}  all held-out pictures")
    for name, session in (("fp32", reference), ("int8", candidate)):
        found = {shown: f"{right}/{all_}" for shown, (right, all_) in count_clip_hits(session, frames).items()}
        print(f"{name} on the clip, frames with the right answer: {found}")
    print(f"bytes: fp32 {fp32.stat().st_size}, int8 {int8.stat().st_size}")
    fp32_ms, int8_ms = median_latencies_ms([reference, candidate], model_input(frames[-1]))
    print(f"median latency, 1 thread: fp32 {fp32_ms:.1f} ms, int8 {int8_ms:.1f} ms, ratio {int8_ms / fp32_ms:.2f}")
    return lowest


def main() -> int:
    """Builds the model's folder; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--package", type=Path, required=True, help="the unpacked npm package")
    parser.add_argument("--output", type=Path, required=True, help="folder to write into")
    arguments = parser.parse_args()
    package: Path = arguments.package
    output: Path = arguments.output
    frames = clip_frames(CLIP)
    with tempfile.TemporaryDirectory() as folder:
        fp32, int8 = Path(folder) / "fp32.onnx", Path(folder) / "model.onnx"
        convert(package / "models" / "coco-ssd", fp32)
        quantize(fp32, int8, calibration_inputs(frames[::CALIBRATION_STRIDE]))
        f1 = report(fp32, int8, frames)
        if f1 < F1_MIN:
            print(f"F1 {f1:.3f} is below {F1_MIN}: nothing was written", file=sys.stderr)
            return 1
        output.mkdir(parents=True, exist_ok=True)
        deviation = write_golden(fp32, int8, output)
        shutil.copyfile(int8, output / "model.onnx")
    shutil.copyfile(package / "LICENSE", output / "LICENSE")
    write_labels(output)
    write_manifest(output, score_error=deviation.score, box_error_px=deviation.box_px)
    return 0


if __name__ == "__main__":
    sys.exit(main())
