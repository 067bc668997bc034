"""Whatever a network gives: a payload that keeps the contract, or an error of that frame, and nothing else."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from agent.decoders.options import DecoderInput
from agent.errors import PermanentError
from agent.fitting import build_decoder
from agent.interfaces import Placement
from tests.schemas import validator
from tests.unit.decoders.reference import spec

LABELS = ["a", "b"]
OPEN = (None, None, None, None)

CASES: dict[str, tuple[dict[str, Any], dict[str, int]]] = {
    "ssd": ({"boxes": "x", "scores": "y", "activation": "sigmoid"}, {"x": 3, "y": 3}),
    "ssd background": ({"boxes": "x", "scores": "y", "background": True}, {"x": 3, "y": 3}),
    "ssd codes": ({"boxes": "x", "scores": "y", "strides": [16], "anchors": [[[9, 9]]]}, {"x": 3, "y": 3}),
    "tfod": ({"boxes": "x", "scores": "y", "classes": "z", "count": "n"}, {"x": 3, "y": 2, "z": 2, "n": 1}),
    "yolo v8": ({"head": "v8"}, {"x": 3}),
    "yolo v5": ({"head": "v5", "keypoints": ["k"], "output": "x"}, {"x": 3}),
    "yolo yolox": ({"head": "yolox", "strides": [16]}, {"x": 3}),
    "yolo end_to_end": ({"head": "end_to_end"}, {"x": 3}),
    "yolo masks": ({"head": "v8", "output": "x", "prototypes": "y"}, {"x": 3, "y": 4}),
    "gfl": ({"reg_max": 1, "strides": [16]}, {"x": 3}),
    "anchors": (
        {"boxes": ["x"], "scores": ["y"], "strides": [16], "per_cell": [1], "keypoints": ["k"]},
        {"x": 3, "y": 3},
    ),
    "classification": ({"scores": "x", "activation": "auto"}, {"x": 2}),
    "segmentation": ({"layout": "NCHW"}, {"x": 4}),
    "segmentation classes": ({"layout": "NHW"}, {"x": 3}),
    "pose heatmap": ({"kind": "heatmap", "keypoints": LABELS}, {"x": 4}),
    "pose simcc": ({"kind": "simcc", "keypoints": LABELS, "output": "x", "output_y": "y"}, {"x": 3, "y": 3}),
    "pose coordinates": ({"kind": "coordinates", "keypoints": LABELS}, {"x": 3}),
    "ctc": ({"activation": "softmax"}, {"x": 3}),
    "embedding": ({}, {"x": 2}),
    "regression": ({"names": LABELS}, {"x": 2}),
    "anomaly": ({"threshold": 0.5}, {"x": 4}),
    "raw": ({}, {"x": 3}),
}

SPECIAL = [np.nan, np.inf, -np.inf, 1e30, -1e30, 0.0, -0.0, 1.0]


ENVELOPE = {
    "id": "b-1",
    "boot": "b",
    "seq": 1,
    "stream": "s",
    "captured_at": "2026-01-01T00:00:00Z",
    "age_ms": 1.0,
    "frame": 1,
    "model": "m",
    "model_version": "1",
    "variant": "full",
    "task": "t",
    "source": {"width": 192, "height": 80},
}


@st.composite
def tensor(draw: Any, rank: int) -> Any:
    """Draw a tensor of a rank, with sizes that may fit, and a few numbers that are none."""
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    shape = [1, *draw(st.lists(st.integers(0, 9), min_size=rank - 1, max_size=rank - 1))][:rank]
    values = rng.uniform(-0.5, 1.5, shape) * draw(st.sampled_from([0.5, 1, 1, 30]))
    if values.size and draw(st.booleans()):
        values.ravel()[rng.integers(values.size)] = draw(st.sampled_from(SPECIAL))
    return values.astype(draw(st.sampled_from([np.float32, np.float32, np.float16])))


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
@pytest.mark.parametrize("case", CASES)
@settings(max_examples=50, deadline=None)
@drawn(st.data())
def test_any_output_is_a_payload_or_an_error_of_the_frame(case: str, data: Any) -> None:
    """Sizes that were open at load, NaN, infinities, huge numbers, nothing at all."""
    options, ranks = CASES[case]
    specs = tuple(spec(name, *OPEN[:rank]) for name, rank in ranks.items())
    chosen = {"name": case.split(maxsplit=1)[0], **options}
    decoder = build_decoder(DecoderInput("model.toml", chosen, specs, LABELS, 0))
    outputs = [data.draw(tensor(rank)) for rank in ranks.values()]
    payload: Any = None
    with contextlib.suppress(PermanentError):
        payload = decoder.decode(outputs, Placement(0.25, 0.25, 0, 6, 48, 32, 192, 80))
    if payload is None:
        return
    body = json.loads(json.dumps(payload, allow_nan=False))
    validator("result").validate({**ENVELOPE, **body})
    for found in body.get("detections", []):
        x1, y1, x2, y2 = found["box"]
        assert 0 <= x1 <= x2 <= 192
        assert 0 <= y1 <= y2 <= 80
