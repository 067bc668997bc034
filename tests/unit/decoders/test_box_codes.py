"""Box codes against anchors, against plain Python and against a network that undoes its own."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from onnx import TensorProto
from onnx.helper import make_tensor_value_info
from onnx.numpy_helper import to_array

from agent.clock import SystemClock
from agent.decoders.ssd import SsdDecoder
from agent.errors import ConfigError, PermanentError
from agent.interfaces import Variant
from agent.loading import load_model
from agent.models.ssd_anchors import tensorflow_anchors, tensorflow_cells
from agent.settings import ModelSettings
from agent.sources.video_file import VideoFileSource
from tests.paths import CLIP, CLIP_FRAMES, COCO_SSD
from tests.unit.decoders.reference import Found, around, assert_same, given, nms, place, spec

LABELS = ["a", "b", "c"]
MODEL = (72, 40)
SIZES = [[[12.0, 8.0], [20.0, 28.0]], [[30.0, 10.0], [16.0, 16.0], [40.0, 36.0]]]
"""Pixels, of two levels."""


def anchors_of(kind: str) -> tuple[dict[str, Any], list[list[float]]]:
    """Return the options, and middle x, y, width and height in pixels, one anchor at a time."""
    width, height = MODEL
    grids = [(9, 5), (5, 3)]
    found = []
    for (columns, rows), sizes, stride in zip(grids, SIZES, (8, 16), strict=True):
        step_x, step_y = (stride, stride) if kind == "strides" else (width / columns, height / rows)
        for row in range(rows):
            for column in range(columns):
                found += [[(column + 0.5) * step_x, (row + 0.5) * step_y, *size] for size in sizes]
    if kind == "strides":
        return {"strides": [8, 16], "anchors": SIZES}, found
    shares = [[[w / width, h / height] for w, h in level] for level in SIZES]
    return {"cells": grids, "anchors": shares}, found


@settings(max_examples=40, deadline=None)
@drawn(st.integers(0, 2**32 - 1), st.sampled_from(["strides", "cells"]), st.booleans(), st.booleans())
def test_it_agrees_with_the_reference(seed: int, kind: str, is_y_first: bool, is_tensorflows: bool) -> None:
    """Both kinds of grids, both orders, other factors, a background, logits, the letterbox undone."""
    rng, where = np.random.default_rng(seed), place((200, 120), MODEL)
    grids, anchors = anchors_of(kind)
    variances = [0.1, 0.1, 0.2, 0.2] if is_tensorflows else [0.3, 0.2, 0.1, 0.4]
    count = len(anchors)
    codes = np.concatenate([rng.normal(0, 4, (count, 2)), rng.normal(0, 1.5, (count, 2))], axis=1).astype("f4")
    logits = rng.permutation(np.linspace(-5, 5, count * 4)).reshape(count, 4).astype("f4")
    candidates = []
    for number, (code, row, (x, y, w, h)) in enumerate(zip(codes.tolist(), logits.tolist(), anchors, strict=True)):
        dx, dy, dw, dh = (code[1], code[0], code[3], code[2]) if is_y_first else code
        box = around(
            x + dx * variances[0] * w,
            y + dy * variances[1] * h,
            w * math.exp(dw * variances[2]),
            h * math.exp(dh * variances[3]),
        )
        candidates += [Found(k, 1 / (1 + math.exp(-row[k + 1])), box, number) for k in range(3)]
    # The overlap of clipped boxes counts, in source pixels.
    clipped = nms(candidates, 2.0, where)
    expected = nms([one for one in clipped if one.score >= 0.5], 0.5, place((200, 120), (200, 120)))[:100]
    options = {
        "name": "ssd",
        "boxes": "b",
        "scores": "s",
        "box_format": "yxyx" if is_y_first else "xyxy",
        "background": True,
        "activation": "sigmoid",
        "normalized": True,
        "variances": variances,
        **grids,
    }
    decoder = SsdDecoder(given(options, [spec("b", 1, count, 4), spec("s", 1, count, 4)], LABELS, 1))
    assert_same(decoder.decode([codes[None], logits[None]], where), expected, LABELS, 1, shares_of=where)


def decode(codes: Any, **changes: Any) -> Any:
    """Decode with one anchor in the middle of a square input."""
    options = {"name": "ssd", "boxes": "b", "scores": "s", "cells": [[1, 1]], "anchors": [[[0.5, 0.25]]], **changes}
    codes = np.asarray(codes, np.float32)[None]
    outputs = [codes, np.full((1, codes.shape[1], 3), 0.9, np.float32)]
    specs = [spec("b", 1, None, 4), spec("s", 1, None, 3)]
    return SsdDecoder(given(options, specs, LABELS)).decode(outputs, place((64, 64), (64, 64)))["detections"]


def test_a_code_of_zeros_is_its_anchor() -> None:
    """And a wild one is clipped, not infinite."""
    assert decode([[0, 0, 0, 0]])[0]["box"] == [16.0, 24.0, 48.0, 40.0]
    assert decode([[0, 0, 1e30, 1e30]])[0]["box"] == [0.0, 0.0, 64.0, 64.0]
    assert decode([[1e38, 0, 0, 0]]) == []


def test_another_number_of_anchors_fails_the_frame_or_the_load() -> None:
    """At load where the number is known, else with the first frame."""
    with pytest.raises(PermanentError, match="gives 2 boxes; the anchors are 1 on 64x64"):
        decode([[0, 0, 0, 0]] * 2)
    with pytest.raises(PermanentError, match="NaN or infinite boxes"):
        decode([[0, 0, np.nan, 0]])
    options = {"name": "ssd", "boxes": "b", "scores": "s", "cells": [[1, 1]], "anchors": [[[0.5, 0.25]]]}
    with pytest.raises(ConfigError, match="make 1 boxes, the model gives 7"):
        SsdDecoder(given(options, [spec("b", 1, 7, 4), spec("s", 1, 7, 3)], LABELS))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cells": []}, "need strides or cells, one for each of 1 levels"),
        ({"strides": [8]}, "need strides or cells"),
        ({"cells": [[1, 1], [2, 2]]}, "one for each of 1 levels"),
        ({"anchors": []}, "anchors: are missing"),
        ({"anchors": [[]]}, "each with 1 to 64"),
        ({"anchors": [[[0.5, 0]]]}, "above 0"),
        ({"cells": [[0, 1]]}, "are 1 to 1024"),
        ({"cells": [[1, 1]] * 17, "anchors": [[[1, 1]]] * 17}, "16 levels at most"),
    ],
)
def test_anchors_that_make_no_sense_are_refused(changes: dict[str, Any], said: str) -> None:
    """At load, with what is needed."""
    with pytest.raises(ConfigError, match=said):
        decode([[0, 0, 0, 0]], **changes)


def test_tensorflows_anchors_are_squares_in_pixels_on_any_input() -> None:
    """1,917 on 300 pixels; the geometric mean of two levels' scales; the shorter side counts."""
    square = tensorflow_anchors(300, 300)
    cells = tensorflow_cells(300, 300)
    assert sum(x * y * len(level) for (x, y), level in zip(cells, square, strict=True)) == 1917
    assert square[0] == [[0.1, 0.1], [0.2828427, 0.1414214], [0.1414214, 0.2828427]]
    assert square[1][0] == [0.35, 0.35]
    assert square[5][-1] == [round(math.sqrt(0.95), 7)] * 2
    (width, height), *_ = tensorflow_anchors(640, 320)[1]
    assert (width * 640, height * 320) == pytest.approx((0.35 * 320, 0.35 * 320))


def load(path: Path) -> Variant:
    """Load a model folder, or a bare network as what it seems to be."""
    return load_model(ModelSettings(name="m", path=path), 1, SystemClock()).variants[0]


def test_a_tensorflow_graph_that_ends_in_codes_needs_no_model_toml(tmp_path: Path) -> None:
    """COCO-SSD cut off before it undoes its boxes finds what the whole one does: with the anchors that it has inside.

    Told by the names that TensorFlow gives such outputs, with a background among the scores.
    """
    network = onnx.load(COCO_SSD / "model.onnx")
    graph = network.graph
    nodes = {node.op_type: node for node in graph.node if node.op_type in ("Split", "Exp", "Sigmoid")}
    # The sizes of the boxes are half of their anchors' times what Exp gives.
    (scaled,) = [node for node in graph.node if nodes["Exp"].output[0] in node.input]
    (halves,) = [to_array(one)[0] for one in graph.initializer if one.name in scaled.input]
    own = zip(tensorflow_cells(300, 300), tensorflow_anchors(300, 300), strict=True)
    sides = np.concatenate([np.tile(sizes, (columns * rows, 1)) for (columns, rows), sizes in own])
    assert np.allclose(sides, 2 * halves[:, ::-1], atol=1e-6)
    names = {
        nodes["Split"].input[0]: ("raw_outputs/box_encodings", 4),
        nodes["Sigmoid"].output[0]: ("raw_outputs/class_predictions", 91),
    }
    del graph.output[:]
    for tensor, (name, width) in names.items():
        graph.node.append(onnx.helper.make_node("Identity", [tensor], [name]))
        graph.output.append(make_tensor_value_info(name, TensorProto.FLOAT, [1, 1917, width]))
    onnx.save(network, tmp_path / "codes.onnx")
    whole, cut = load(COCO_SSD), load(tmp_path / "codes.onnx")
    clip = VideoFileSource(CLIP, SystemClock(), is_paced=False, repeat=False, fps=None)
    clip.open()
    seen = 0
    for number in range(CLIP_FRAMES):
        capture = clip.read()
        assert capture is not None
        if number % 26:
            continue
        found = [
            model.decoder.decode(model.engine.run(inputs, model.engine.new_abort()), placement)["detections"]
            for model in (whole, cut)
            for inputs, placement in [model.preprocess(capture.pixels)]
        ]
        for one, two in zip(*found, strict=True):
            assert (one["label"], one["class_id"]) == (two["label"], two["class_id"])
            assert one["score"] == pytest.approx(two["score"], abs=2e-3)
            # The whole one computes corners in int8: in steps of 2.5 pixels of the frame.
            assert np.allclose(one["box"], two["box"], atol=3)
            seen += 1
    clip.close()
    assert seen >= 3
