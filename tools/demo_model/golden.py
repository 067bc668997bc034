"""Writes the golden sample: a picture and the detections that it must give on every device."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from tools.demo_model.evaluate import SCORE_THRESHOLD, Detection, detect, open_session
from tools.demo_model.manifest import BOX_TOLERANCE_PX, LABELS, SCORE_TOLERANCE
from tools.demo_model.pictures import COFFEE, INPUT_SIDE_PX, load, model_input

GOLDEN_WINDOW = (75, 325, 99, 388)
"""Top, bottom, left and right of the golden picture in the coffee picture.

Of 330 random windows of the clip's pictures this one tells most: swapped axes lose
the cup, swapped colours cost it a third of its score, the quantisation error is among the
smallest, and nothing else scores above 0.35 (so that no other CPU's rounding makes a
detection come or go)."""

UNDECIDED_SCORES = (0.35, 0.60)
"""Scores that another CPU could carry over the threshold of 0.5."""

MARGIN = 0.5
"""Share of the tolerance that this machine may use up; the rest is for other CPUs."""


@dataclass(frozen=True, slots=True)
class Deviation:
    """How far a model is from fp32 on the golden picture."""

    score: float
    """Largest difference of a score."""

    box_px: float
    """Largest difference of a box's side, in pixels of the golden picture."""


def payload(detections: list[Detection]) -> dict[str, Any]:
    """Writes detections as the agent does: boxes in pixels as x1, y1, x2, y2, within the picture."""
    return {
        "detections": [
            {
                "label": LABELS[found.category - 1],
                "class_id": found.category,
                "score": round(found.score, 4),
                "box": [round(float(side), 2) for side in box_px(found)],
            }
            for found in detections
        ]
    }


def box_px(detection: Detection) -> NDArray[np.float32]:
    """Returns a box as float32 [4]: x1, y1, x2, y2 in pixels of the golden picture."""
    top, left, bottom, right = np.clip(detection.box, 0.0, 1.0) * np.float32(INPUT_SIDE_PX)
    return np.array([left, top, right, bottom], np.float32)


def measure(expected: list[Detection], actual: list[Detection], name: str) -> Deviation | None:
    """Prints and returns how far `actual` is from `expected`; None where the objects differ."""
    if [found.category for found in expected] != [found.category for found in actual]:
        print(f"golden picture, {name}: other objects than expected")
        return None
    pairs = list(zip(expected, actual, strict=True))
    deviation = Deviation(
        max((abs(a.score - b.score) for a, b in pairs), default=0.0),
        max((float(np.abs(box_px(a) - box_px(b)).max()) for a, b in pairs), default=0.0),
    )
    print(f"golden picture, {name}: score off by {deviation.score:.3f}, box by {deviation.box_px:.1f} px")
    return deviation


def is_within(deviation: Deviation | None, share: float) -> bool:
    """Tells whether the objects are the same and deviate by at most a share of the tolerance."""
    return (
        deviation is not None
        and deviation.score <= SCORE_TOLERANCE * share
        and deviation.box_px <= BOX_TOLERANCE_PX * share
    )


def check_notices_faults(expected: list[Detection], int8: Path, picture: NDArray[np.uint8]) -> None:
    """Demands that the usual mistakes of preprocessing end outside the tolerance.

    Raises:
        ValueError: The golden picture would pass on a device that feeds it wrongly.
    """
    session = open_session(int8)
    faults = {
        "red and blue swapped": picture[..., ::-1],
        "rows and columns swapped": picture.transpose(0, 2, 1, 3),
    }
    for fault, wrong in faults.items():
        found = detect(session, np.ascontiguousarray(wrong))
        if is_within(measure(expected, found, fault), share=1.0):
            raise ValueError(f"golden picture: it does not notice {fault}")


def write_golden(fp32: Path, int8: Path, output: Path) -> Deviation:
    """Writes `golden.png` and `golden.json` into `output`, and returns int8's largest deviation.

    What is expected comes from the fp32 model: a quantised model that is wrong cannot
    write its own expectation.

    Raises:
        ValueError: The picture gives a score near the threshold, int8 is too far from fp32,
            or the picture would not notice a wrong input.
    """
    top, bottom, left, right = GOLDEN_WINDOW
    picture = model_input(load(COFFEE)[top:bottom, left:right])
    sessions = {
        "fp32": open_session(fp32),
        "int8": open_session(int8),
        "int8 without optimisation": open_session(int8, is_optimized=False),
    }
    low, high = UNDECIDED_SCORES
    expected: list[Detection] = []
    largest = Deviation(0.0, 0.0)
    for name, session in sessions.items():
        every = detect(session, picture, threshold=low)
        if any(found.score < high for found in every):
            raise ValueError(f"golden picture: {name} gives a score between {low} and {high}")
        found = detect(session, picture, threshold=SCORE_THRESHOLD)
        expected = expected or found
        deviation = measure(expected, found, name)
        if deviation is None or not is_within(deviation, MARGIN):
            raise ValueError(f"golden picture: {name} uses up more than {MARGIN} of the tolerance")
        largest = Deviation(max(largest.score, deviation.score), max(largest.box_px, deviation.box_px))
    check_notices_faults(expected, int8, picture)
    cv2.imwrite(str(output / "golden.png"), cv2.cvtColor(picture[0], cv2.COLOR_RGB2BGR))
    text = json.dumps(payload(expected), indent=2)
    (output / "golden.json").write_text(text + "\n", encoding="utf-8")
    return largest
