"""Heads with their own suppression, of distributions (NanoDet) and of anchors (BlazeFace), against plain Python."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from agent.decoders.anchors import AnchorsDecoder
from agent.decoders.gfl import GflDecoder
from agent.decoders.ssd import SsdDecoder
from agent.decoders.tfod import TfodDecoder
from agent.errors import ConfigError, PermanentError
from tests.unit.decoders.reference import Found, around, assert_same, cells, given, nms, place, spec, undo

LABELS = ["a", "b", "c"]
seeds = st.integers(0, 2**32 - 1)
WHERE = place((200, 120), (64, 32))


@settings(max_examples=30, deadline=None)
@drawn(seeds, st.sampled_from([0.0, 0.5]), st.sampled_from([(64, 32), (72, 40)]))
def test_nanodet_agrees_with_the_reference(seed: int, point: float, model: tuple[int, int]) -> None:
    """Scores, the means of four distributions, cells that are cut off at the edge, both kinds of points."""
    rng, strides = np.random.default_rng(seed), (8, 16, 32, 64)
    grid = cells(*model, strides)
    rows = np.concatenate(
        [
            rng.permutation(np.linspace(0.01, 0.99, len(grid) * 3)).reshape(-1, 3),
            rng.normal(0, 2, (len(grid), 4 * 5)),
        ],
        axis=1,
    ).astype(np.float32)
    where = place((200, 120), model)
    candidates = []
    for number, (row, (column, line, stride)) in enumerate(zip(rows.tolist(), grid, strict=True)):
        best = row.index(max(row[:3]))
        x, y = (column + point) * stride, (line + point) * stride
        sides = []
        for side in range(4):
            powers = [math.exp(v) for v in row[3 + side * 5 : 8 + side * 5]]
            sides.append(sum(k * v for k, v in enumerate(powers)) / sum(powers) * stride)
        box = [x - sides[0], y - sides[1], x + sides[2], y + sides[3]]
        candidates.append(Found(best, row[best], box, number))
    options = {"name": "gfl", "reg_max": 4, "point": point, "normalized": True}
    payload = GflDecoder(given(options, [spec("o", *rows[None].shape)], LABELS)).decode([rows[None]], where)
    wanted = nms([one for one in candidates if one.score >= 0.35], 0.6, where)
    assert_same(payload, wanted, LABELS, shares_of=where)


def test_nanodet_refuses_what_does_not_fit() -> None:
    """Columns, labels, rows and NaN."""
    for shape, said in [
        ((1, 20, 32), r"gfl needs \[1,N,classes \+ 32\]"),
        ((1, 20, 40), "3 labels for a model of 8 classes"),
    ]:
        with pytest.raises(ConfigError, match=said):
            GflDecoder(given({"name": "gfl"}, [spec("o", *shape)], LABELS))
    decoder = GflDecoder(given({"name": "gfl"}, [spec("o", 1, None, 35)], LABELS))
    with pytest.raises(PermanentError, match="gives 20 boxes; strides"):
        decoder.decode([np.full((1, 20, 35), 0.9, np.float32)], WHERE)
    with pytest.raises(PermanentError, match="NaN"):
        decoder.decode([np.full((1, 20, 35), np.nan, np.float32)], WHERE)


@settings(max_examples=30, deadline=None)
@drawn(seeds)
def test_blazeface_agrees_with_the_reference(seed: int) -> None:
    """Two levels of outputs, anchors in the middle of their cells, logits, boxes and keypoints."""
    rng, model = np.random.default_rng(seed), (64, 32)
    where = place((100, 100), model)
    levels = [cells(*model, (8,)), cells(*model, (16,))]
    counts = [len(levels[0]) * 2, len(levels[1]) * 6]
    logits = np.split(rng.permutation(np.linspace(-6, 6, sum(counts)))[None, :, None].astype("f4"), [counts[0]], 1)
    boxes = [
        np.concatenate(
            [rng.normal(0, 5, (1, count, 2)), rng.uniform(4, 30, (1, count, 2)), rng.normal(0, 9, (1, count, 4))],
            axis=2,
        ).astype(np.float32)
        for count in counts
    ]
    anchors = [cell for level, copies in zip(levels, (2, 6), strict=True) for cell in level for _ in range(copies)]
    rows = np.concatenate(boxes, axis=1)[0].tolist()
    scores = np.concatenate(logits, axis=1).ravel().tolist()
    candidates = []
    for number, (row, score, (column, line, stride)) in enumerate(zip(rows, scores, anchors, strict=True)):
        x, y = (column + 0.5) * stride, (line + 0.5) * stride
        candidates.append(
            Found(0, 1 / (1 + math.exp(-score)), around(x + row[0], y + row[1], row[2], row[3]), number)
        )
    expected = nms([one for one in candidates if one.score >= 0.5], 0.3, where)
    options: dict[str, Any] = {
        "name": "anchors",
        "boxes": ["b8", "b16"],
        "scores": ["s8", "s16"],
        "keypoints": ["eye", "ear"],
    }
    options |= {"normalized": True}
    outputs = [*logits, *boxes]
    specs = [spec(name, *one.shape) for name, one in zip(["s8", "s16", "b8", "b16"], outputs, strict=True)]
    payload = AnchorsDecoder(given(options, specs, ["face"])).decode(outputs, where)
    assert_same(payload, expected, ["face"], shares_of=where)
    for one, wanted in zip(payload["detections"], expected, strict=True):
        column, line, stride = anchors[wanted.row]
        ear = [rows[wanted.row][6 + axis] + ((column, line)[axis] + 0.5) * stride for axis in (0, 1)]
        moved = (ear[0] - where.offset_x) / where.scale_x, (ear[1] - where.offset_y) / where.scale_y
        got = one["keypoints"][1]
        assert got["name"] == "ear"
        assert np.allclose((got["x"], got["y"]), np.clip(moved, 0, 100), atol=0.12)
    before = [output.copy() for output in outputs]
    AnchorsDecoder(given(options, specs, ["face"])).decode(outputs, where)
    assert all((one == two).all() for one, two in zip(before, outputs, strict=True))


def test_anchors_refuse_what_does_not_fit() -> None:
    """Columns of another number of keypoints, other levels, and rows that no grid makes."""
    outputs = [spec("s", 1, 896, 1), spec("b", 1, 896, 16)]
    chosen = {"name": "anchors", "boxes": ["b"], "scores": ["s"]}
    with pytest.raises(ConfigError, match=r"needs? boxes \[1,N,4\] \(0 keypoints\)"):
        AnchorsDecoder(given(chosen, outputs, ["face"]))
    with pytest.raises(ConfigError, match="one number a level"):
        AnchorsDecoder(given({**chosen, "per_cell": [2]}, outputs, ["face"]))
    with pytest.raises(ConfigError, match="2 labels for a model of 1 classes"):
        AnchorsDecoder(given({**chosen, "keypoints": list("abcdef")}, outputs, ["face", "hand"]))
    decoder = AnchorsDecoder(given({**chosen, "keypoints": list("abcdef")}, outputs, ["face"]))
    with pytest.raises(PermanentError, match="gives 896 boxes; strides"):
        decoder.decode([np.zeros((1, 896, 1), "f4"), np.zeros((1, 896, 16), "f4")], WHERE)


TFOD = {"name": "tfod", "boxes": "b", "scores": "s", "classes": "c", "count": "n"}
TFOD_OUTPUTS = [spec("b", 1, 10, 4), spec("s", 1, 10), spec("c", 1, 10), spec("n", 1)]


def tfod(scores: Any, count: float = 10, first_id: int = 1, classes: Any = None, **options: Any) -> Any:
    """Decode boxes that move to the right."""
    boxes = np.array([[0.25, k / 20, 0.75, k / 20 + 0.25] for k in range(10)], np.float32)
    padded = np.zeros(10, np.float32)
    padded[: len(scores)] = scores
    kinds = np.full(10, 2.0, np.float32) if classes is None else np.asarray(classes, np.float32)
    outputs = [boxes[None], padded[None], kinds[None], np.array([count], np.float32)]
    return TfodDecoder(given({**TFOD, **options}, TFOD_OUTPUTS, LABELS, first_id)).decode(outputs, WHERE)[
        "detections"
    ]


def test_a_head_with_its_own_suppression_is_taken_as_it_is() -> None:
    """By falling score, whatever overlaps; rows behind the count are rubbish; ids are the model's own."""
    found = tfod([0.6, 0.9, 0.4, 0.99], count=3)
    assert [(one["label"], one["class_id"], one["score"]) for one in found] == [("b", 2, 0.9), ("b", 2, 0.6)]
    scale, left = WHERE.scale_x, WHERE.offset_x
    x1, x2 = (64 / 20 - left) / scale, (64 * 0.3 - left) / scale
    assert np.allclose(found[0]["box"], [max(0, x1), 32 * 0.25 / scale, x2, 32 * 0.75 / scale], atol=0.06)


@settings(max_examples=40, deadline=None)
@drawn(seeds, st.sampled_from(["share", "input", "source"]), st.booleans(), st.booleans(), st.booleans())
def test_tfod_agrees_with_the_reference(
    seed: int, unit: str, is_y_first: bool, has_count: bool, has_batch: bool
) -> None:
    """Every unit and order, rows behind the count, with and without a batch axis: all that reach the threshold."""
    rng, rows = np.random.default_rng(seed), 30
    size = {"share": (1, 1), "input": (64, 32), "source": (200, 120)}[unit]
    # What undoes the unit: nothing where the model gives source pixels, else a placement in an input of that size.
    where = place((200, 120), (200, 120)) if unit == "source" else WHERE
    grow_x, grow_y = where.input_width / size[0], where.input_height / size[1]
    low = rng.uniform(-0.2, 0.8, (rows, 2))
    corners = np.concatenate([low, low + rng.uniform(-0.05, 0.6, (rows, 2))], axis=1) * [*size, *size]
    boxes = (corners[:, [1, 0, 3, 2]] if is_y_first else corners).astype(np.float32)
    scores = rng.permutation(np.linspace(0.02, 0.98, rows)).astype(np.float32)
    classes = rng.integers(1, 4, rows).astype(np.float32)
    count = int(rng.integers(0, rows + 1)) if has_count else rows
    expected = []
    for number in range(count):
        x1, y1, x2, y2 = (float(v) for v in corners[number])
        box = [*undo(x1 * grow_x, y1 * grow_y, where), *undo(x2 * grow_x, y2 * grow_y, where)]
        if scores[number] >= 0.5 and box[0] < box[2] and box[1] < box[3]:
            expected.append(Found(int(classes[number]) - 1, float(scores[number]), box, number))
    expected.sort(key=lambda one: -one.score)
    options = {"name": "tfod", "boxes": "b", "scores": "s", "classes": "c", "box_unit": unit, "normalized": True}
    options |= {"box_format": "yxyx" if is_y_first else "xyxy"} | ({"count": "n"} if has_count else {})
    outputs = [one[None] if has_batch else one for one in (boxes, scores, classes)]
    outputs += [np.array([count], np.float32)] if has_count else []
    specs = [spec(name, *one.shape) for name, one in zip("bscn", outputs, strict=False)]
    payload = TfodDecoder(given(options, specs, LABELS, 1)).decode(outputs, WHERE)
    assert_same(payload, expected, LABELS, 1, shares_of=WHERE)


@pytest.mark.parametrize("unit", ["input", "source"])
def test_boxes_in_pixels_of_the_input_or_the_source(unit: str) -> None:
    """The same numbers mean other places; RT-DETR gives pixels of the source, without a batch axis elsewhere."""
    outputs = [np.array([[12.0, 8, 40, 24]], np.float32), np.array([0.9], np.float32), np.array([1])]
    specs = [spec(name, *one.shape, dtype=one.dtype) for name, one in zip("bsc", outputs, strict=True)]
    options = {"name": "tfod", "boxes": "b", "scores": "s", "classes": "c", "box_unit": unit, "box_format": "xyxy"}
    (found,) = TfodDecoder(given(options, specs, LABELS)).decode(outputs, WHERE)["detections"]
    wanted = [12.0, 8, 40, 24]
    if unit == "input":
        wanted = [(v - o) / WHERE.scale_x for v, o in zip(wanted, [WHERE.offset_x, WHERE.offset_y] * 2, strict=True)]
    assert (found["label"], found["class_id"]) == ("b", 1)
    assert np.allclose(found["box"], wanted, atol=0.06)


def test_a_class_without_a_label_and_nan_fail_the_frame() -> None:
    """Ids start at the first label's."""
    with pytest.raises(PermanentError, match="gives class 4; the labels are 1 to 3"):
        tfod([0.9], classes=[4] * 10)
    with pytest.raises(PermanentError, match="gives class 0; the labels are 1 to 3"):
        tfod([0.9], classes=[0] * 10)
    with pytest.raises(PermanentError, match="NaN or infinite scores"):
        tfod([np.nan])
    with pytest.raises(PermanentError, match="NaN or infinite classes"):
        tfod([0.9], classes=[np.nan] * 10)
    assert tfod([0.9], count=0) == []


def test_a_head_without_suppression_is_no_tfod() -> None:
    """It is sent to the other decoder, and the other way round."""
    with pytest.raises(ConfigError, match="tfod needs boxes"):
        TfodDecoder(given(TFOD, [TFOD_OUTPUTS[0], spec("s", 1, 10, 3), *TFOD_OUTPUTS[2:]], LABELS))
    with pytest.raises(ConfigError, match="that is the decoder tfod"):
        SsdDecoder(given({"name": "ssd", "boxes": "b", "scores": "s"}, TFOD_OUTPUTS, LABELS))


def test_ssd_with_background_and_logits() -> None:
    """The first column has no label, and softmax makes probabilities of the others."""
    boxes = np.array([[[0.25, 0.25, 0.75, 0.75], [0.3, 0.3, 0.7, 0.7]]], np.float32)
    logits = np.array([[[0.0, 0, 3, 0], [4.0, 0, 0, 1]]], np.float32)
    options = {"name": "ssd", "boxes": "b", "scores": "s", "background": True, "activation": "softmax"}
    decoder = SsdDecoder(given(options, [spec("b", 1, 2, 4), spec("s", 1, 2, 4)], LABELS, 1))
    (found,) = decoder.decode([boxes, logits], WHERE)["detections"]
    assert (found["label"], found["class_id"]) == ("b", 2)
    assert found["score"] == pytest.approx(math.exp(3) / (math.exp(3) + 3), abs=1e-4)
