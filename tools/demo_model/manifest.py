"""Writes the demo model's manifest and labels."""

from __future__ import annotations

import hashlib
from pathlib import Path

SCORE_TOLERANCE = 0.1
BOX_TOLERANCE_PX = 12.0

LABELS = tuple(
    """
    person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light,
    fire hydrant, street sign, stop sign, parking meter, bench, bird, cat, dog, horse, sheep,
    cow, elephant, bear, zebra, giraffe, hat, backpack, umbrella, shoe, eye glasses,
    handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove,
    skateboard, surfboard, tennis racket, bottle, plate, wine glass, cup, fork, knife, spoon,
    bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut,
    cake, chair, couch, potted plant, bed, mirror, dining table, window, desk, toilet,
    door, tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster,
    sink, refrigerator, blender, book, clock, vase, scissors, teddy bear, hair drier, toothbrush
    """.replace("\n", " ")
    .strip()
    .split(", ")
)
"""COCO categories 1..90 of the original list of 91. Ten of them (street sign, hat, ...)
were never annotated; the model's outputs for them stay near zero."""

MANIFEST = """\
schema = 1
name = "coco-ssd"
version = "1.0.0"
task = "detection"
license = "Apache-2.0"
description = "SSDLite-MobileNetV2 for the COCO categories, int8 (see NOTICE for its origin)"

[model]
path = "model.onnx"
sha256 = "{sha256}"

[input]
name = "images"
layout = "NHWC"
dtype = "uint8"
width = 300
height = 300
color = "RGB"
resize = "stretch"

[decoder]
name = "ssd"
boxes = "boxes"
scores = "scores"
box_format = "yxyx"    # corners, 0..1
score_threshold = 0.5
iou_threshold = 0.5
detections_max = 100

[labels]
path = "labels.txt"
first_id = 1           # line 1 of the file is COCO category 1

[golden]
image = "golden.png"
expected = "golden.json"   # what the fp32 model detects

# Measured on this picture: int8 is at most {score_error:.3f} and {box_error_px:.1f} px from what is expected,
# with ONNX Runtime's integer kernels and with its float ones. The tolerance is several
# times that, for other CPUs; an input with swapped colours or axes is far outside it.
[golden.tolerance]
score = {score_tolerance}            # absolute
box = {box_tolerance_px}             # pixels of the golden picture
"""


def write_labels(output: Path) -> None:
    """Writes `labels.txt`, one name a line: line n names COCO category n."""
    (output / "labels.txt").write_text("\n".join(LABELS) + "\n", encoding="utf-8")


def write_manifest(output: Path, *, score_error: float, box_error_px: float) -> None:
    """Writes `model.toml` with the digest of the `model.onnx` beside it.

    Args:
        output: The model's folder.
        score_error: What int8 was found to deviate from fp32 on the golden picture.
        box_error_px: The same for a box's side, in pixels.
    """
    digest = hashlib.sha256((output / "model.onnx").read_bytes()).hexdigest()
    text = MANIFEST.format(
        sha256=digest,
        score_tolerance=SCORE_TOLERANCE,
        box_tolerance_px=BOX_TOLERANCE_PX,
        score_error=score_error,
        box_error_px=box_error_px,
    )
    (output / "model.toml").write_text(text, encoding="utf-8")
