"""The SSD decoder, against a reference in plain Python."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.decoders.options import DecoderInput
from agent.decoders.ssd import SsdDecoder
from agent.errors import ConfigError, PermanentError
from agent.interfaces import Placement, TensorSpec

PLACE = Placement(0.5, 0.5, 10, 0, 320, 240, 600, 480)
OUTPUTS = (TensorSpec("b", np.dtype(np.float32), (1, 20, 4)), TensorSpec("s", np.dtype(np.float32), (1, 20, 3)))


def decoder(labels: list[str] | None = None, outputs: tuple[TensorSpec, ...] = OUTPUTS, **options: Any) -> SsdDecoder:
    """Build a decoder for 20 anchors and 3 classes."""
    chosen = {"name": "ssd", "boxes": "b", "scores": "s", **options}
    return SsdDecoder(DecoderInput("model.toml", chosen, outputs, labels or ["a", "b", "c"], 1))


def iou(one: list[float], two: list[float]) -> float:
    """Return the overlap of two corner boxes."""
    width = min(one[2], two[2]) - max(one[0], two[0])
    height = min(one[3], two[3]) - max(one[1], two[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, two)]
    return width * height / (sum(areas) - width * height)


def reference(boxes: Any, scores: Any) -> list[tuple[str, float, list[float]]]:
    """Decode one candidate at a time: undo the letterbox, clip, keep the best of each overlapping class group."""
    found: list[tuple[str, float, list[float]]] = []
    candidates = sorted(((scores[i][k], i, k) for i in range(20) for k in range(3)), key=lambda item: -item[0])
    for score, i, k in candidates:
        if score < 0.5:
            break
        y1, x1, y2, x2 = (float(v) for v in boxes[i])
        corners = [(x1 * 320 - 10) / 0.5, y1 * 240 / 0.5, (x2 * 320 - 10) / 0.5, y2 * 240 / 0.5]
        limits = (600, 480, 600, 480)
        corners = [min(max(v, 0.0), float(limit)) for v, limit in zip(corners, limits, strict=True)]
        label = "abc"[k]
        if all(other[0] != label or iou(other[2], corners) <= 0.5 for other in found):
            found.append((label, float(score), corners))
    return found


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1))
def test_it_agrees_with_the_reference(seed: int) -> None:
    """Random boxes and scores: the same labels, scores and boxes in source pixels."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0.0, 0.7, (20, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0.05, 0.4, (20, 2))], axis=1).astype(np.float32)
    scores = rng.permutation(np.linspace(0.2, 0.95, 60)).reshape(20, 3).astype(np.float32)
    payload = decoder().decode([boxes[None], scores[None]], PLACE)
    expected = reference(boxes, scores)
    assert [found["label"] for found in payload["detections"]] == [label for label, _, _ in expected]
    for found, (label, score, box) in zip(payload["detections"], expected, strict=True):
        assert found["class_id"] == "abc".index(label) + 1
        assert found["score"] == pytest.approx(score, abs=1e-4)
        assert found["box"] == pytest.approx(box, abs=0.06)


def test_nothing_found_is_an_empty_list() -> None:
    """Zero detections is a result like any other."""
    assert decoder().decode([np.zeros((1, 20, 4), "f4"), np.zeros((1, 20, 3), "f4")], PLACE) == {"detections": []}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_is_never_a_result(value: float) -> None:
    """NaN compares false with everything: without a check a broken model would look like an empty scene."""
    boxes, scores = np.zeros((1, 20, 4), "f4"), np.zeros((1, 20, 3), "f4")
    scores[0, 3, 1] = value
    with pytest.raises(PermanentError, match="NaN or infinite scores"):
        decoder().decode([boxes, scores], PLACE)
    boxes[0, 0, 0], scores[:] = value, 0.9
    with pytest.raises(PermanentError, match="NaN or infinite boxes"):
        decoder().decode([boxes, scores], PLACE)


def test_the_number_of_detections_is_bounded() -> None:
    """A payload has a largest size."""
    boxes = np.zeros((1, 20, 4), "f4")
    boxes[0, :, 0] = boxes[0, :, 1] = np.linspace(0, 0.9, 20)
    boxes[0, :, 2:] = boxes[0, :, :2] + 0.01
    payload = decoder(detections_max=3).decode([boxes, np.full((1, 20, 3), 0.9, "f4")], PLACE)
    assert len(payload["detections"]) == 3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"labels": ["a", "b"]}, "2 labels for a model of 3 classes"),
        ({"boxes": "nothing"}, "names output 'nothing'; the model has b float32[1,20,4]"),
        ({"boxes": "s"}, "ssd needs boxes"),
        ({"score_threshold": 2}, "score_threshold"),
        ({"scor_threshold": 0.5}, "did you mean 'score_threshold'"),
    ],
)
def test_what_does_not_fit_is_refused_at_load(changes: dict[str, Any], said: str) -> None:
    """Labels of another length, outputs that do not exist, options that are wrong."""
    with pytest.raises(ConfigError, match=said.replace("[", r"\[")):
        decoder(**changes)
