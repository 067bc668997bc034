"""The YOLO heads, against plain Python."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from agent.decoders.yolo import YoloDecoder
from agent.errors import ConfigError, PermanentError
from tests.unit.decoders.reference import Found, around, assert_same, cells, given, nms, paint, place, spec, undo

LABELS = ["a", "b", "c"]
SIZES = [((640, 480), (64, 64)), ((30, 90), (64, 32)), ((64, 64), (64, 64)), ((1920, 1080), (96, 64))]
HEADS = ["v8", "v8 turned", "v5", "yolox", "end_to_end"]


def table(rng: np.random.Generator, count: int, model: tuple[int, int], head: str) -> np.ndarray[Any, Any]:
    """Return random rows [count, values] as that head gives them; no two scores are alike."""
    boxes = np.concatenate([rng.uniform(-8, max(model), (count, 2)), rng.uniform(2, 40, (count, 2))], axis=1)
    scores = rng.permutation(np.linspace(0.05, 0.98, count * 3)).reshape(count, 3)
    chance = rng.uniform(0.3, 1, (count, 1))
    if head == "end_to_end":
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        return np.concatenate([corners, scores[:, :1], rng.integers(0, 3, (count, 1))], axis=1)
    if head == "yolox":
        boxes = np.concatenate([rng.normal(0, 2, (count, 2)), rng.normal(0, 1, (count, 2))], axis=1)
    return np.concatenate([boxes, *([] if head.startswith("v8") else [chance]), scores], axis=1)


def expected(rows: Any, head: str, where: Any) -> list[Found]:
    """Decode one row at a time."""
    candidates = []
    grid = cells(where.input_width, where.input_height, (8, 16, 32))
    for number, row in enumerate(rows):
        values = [float(v) for v in row]
        if head == "end_to_end":
            candidates.append(Found(int(values[5]), values[4], values[:4], number))
            continue
        chance, scores = (1.0, values[4:7]) if head.startswith("v8") else (values[4], values[5:8])
        best = max(range(3), key=lambda k: scores[k])
        box = around(*values[:4])
        if head == "yolox":
            column, line, stride = grid[number]
            middle = (values[0] + column) * stride, (values[1] + line) * stride
            box = around(*middle, math.exp(values[2]) * stride, math.exp(values[3]) * stride)
        candidates.append(Found(best, chance * scores[best], box, number))
    above = [one for one in candidates if one.score >= 0.25]
    return nms(above, 2.0 if head == "end_to_end" else 0.7, where)


@settings(max_examples=40, deadline=None)
@drawn(st.integers(0, 2**32 - 1), st.sampled_from(HEADS), st.sampled_from(SIZES), st.booleans(), st.booleans())
def test_every_head_agrees_with_the_reference(
    seed: int, head: str, sizes: Any, is_letterbox: bool, is_half: bool
) -> None:
    """Labels, scores and boxes in source pixels, for letterbox and stretch, float32 and float16."""
    source, model = sizes
    where = place(source, model, letterbox=is_letterbox)
    count = len(cells(model[0], model[1], (8, 16, 32))) if head == "yolox" else 60
    rows = table(np.random.default_rng(seed), count, model, head).astype(np.float16 if is_half else np.float32)
    output = rows.T[None] if head == "v8" else rows[None]
    options = {"name": "yolo", "head": head.split(maxsplit=1)[0], "normalized": True}
    decoder = YoloDecoder(given(options, [spec("o", *output.shape, dtype=rows.dtype)], LABELS))
    wanted = expected(rows.astype(np.float64), head, where)
    assert_same(decoder.decode([output], where), wanted, LABELS, shares_of=where)


def decode(output: Any, where: Any = None, labels: Any = LABELS, extra: Any = (), **options: Any) -> Any:
    """Decode one output of a v8 head, unless the options say otherwise."""
    specs = [spec("o", *output.shape), *(spec("p", *one.shape) for one in extra)]
    chosen = {"name": "yolo", "head": "v8", "output": "o", **options}
    return YoloDecoder(given(chosen, specs, labels)).decode([output, *extra], where or place((64, 64), (64, 64)))


def v8(*rows: tuple[float, ...], more: int = 0) -> np.ndarray[Any, Any]:
    """Return a v8 output of these rows, and 40 empty ones."""
    values = np.zeros((len(rows) + 40, 7 + more), np.float32)
    for number, row in enumerate(rows):
        values[number, : len(row)] = row
    return values.T[None]


def test_nothing_found_is_an_empty_list() -> None:
    """Zero detections is a result like any other, of every head."""
    assert decode(v8()) == {"detections": []}
    assert decode(np.zeros((1, 300, 6), np.float32), head="end_to_end") == {"detections": []}
    assert decode(np.zeros((1, 84, 8), np.float32), head="yolox") == {"detections": []}


def test_boxes_outside_are_clipped_and_normalised_where_asked() -> None:
    """In pixels and in shares of the frame, whose proportions are not the input's."""
    where = place((200, 100), (64, 64))
    (found,) = decode(v8((0, 32, 64, 64, 0.9)), where, normalized=True)["detections"]
    assert found["box"] == [0.0, 0.0, 100.0, 100.0]
    assert found["box_normalized"] == [0.0, 0.0, 0.5, 1.0]


def test_boxes_in_shares_of_the_input() -> None:
    """Some exports give 0..1 instead of pixels."""
    (found,) = decode(v8((0.5, 0.5, 0.25, 0.25, 0.9)), box_unit="share")["detections"]
    assert found["box"] == [24.0, 24.0, 40.0, 40.0]


def test_overlap_counts_within_a_class_only() -> None:
    """Two names for one thing are both reported; the same name twice is not."""
    same = (30, 30, 20, 20)
    found = decode(v8((*same, 0.9, 0, 0), (*same, 0.8, 0, 0), (*same, 0, 0.7, 0)))["detections"]
    assert [(one["label"], one["score"]) for one in found] == [("a", 0.9), ("b", 0.7)]


def test_the_number_of_detections_and_candidates_is_bounded() -> None:
    """4,000 boxes that do not overlap: the best are kept."""
    rows = np.zeros((4000, 7), np.float32)
    rows[:, 0], rows[:, 1] = np.arange(4000) % 64, np.arange(4000) // 64
    rows[:, 2:4], rows[:, 4] = 0.5, np.linspace(0.3, 0.99, 4000)
    found = decode(rows.T[None], detections_max=1000)["detections"]
    assert len(found) == 1000
    assert found[0]["score"] == 0.99
    assert found[-1]["score"] > 0.8


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(("head", "columns"), [("v8", (4, 0)), ("v5", (4, 0, 5)), ("end_to_end", (4, 0, 5))])
def test_nan_is_never_a_result(value: float, head: str, columns: tuple[int, ...]) -> None:
    """In a score, a box or a class: a broken model must not look like an empty scene."""
    for column in columns:
        rows = np.full((20, {"v8": 7, "v5": 8, "end_to_end": 6}[head]), 0.9, np.float32)
        rows[3, column] = value
        with pytest.raises(PermanentError, match="NaN or infinite"):
            decode(rows.T[None] if head == "v8" else rows[None], head=head)


@settings(max_examples=40, deadline=None)
@drawn(st.integers(0, 2**32 - 1), st.sampled_from(["v8", "v5", "end_to_end"]), st.sampled_from([2, 3]))
def test_keypoints_of_every_head_agree_with_the_reference(seed: int, head: str, values: int) -> None:
    """Each detection has the points of its own row, undone as its box is and held inside the frame."""
    rng, where = np.random.default_rng(seed), place((200, 100), (64, 64))
    boxes = table(rng, 30, (64, 64), head)
    points = rng.uniform(-5, 70, (30, 2, values))
    if values == 3:
        points[..., 2] = rng.uniform(0, 1, (30, 2))
    rows = np.concatenate([boxes, points.reshape(30, -1)], axis=1).astype(np.float32)
    output = rows.T[None] if head == "v8" else rows[None]
    found = decode(output, where, head=head, keypoints=["nose", "tail"], keypoint_values=values)
    wanted = expected(boxes.astype(np.float32).astype(np.float64), head, where)
    assert_same(found, wanted, LABELS)
    for one, own in zip(found["detections"], wanted, strict=True):
        for name, got, point in zip(("nose", "tail"), one["keypoints"], points[own.row].tolist(), strict=True):
            assert got["name"] == name
            assert np.allclose((got["x"], got["y"]), undo(point[0], point[1], where), atol=0.06)
            assert got["score"] == pytest.approx(point[2] if values == 3 else 1.0, abs=1e-4)


def rows_of(head: str, boxes: Any, more: Any) -> np.ndarray[Any, Any]:
    """Return a head's output for boxes of x, y, width, height, place of the class and score; 40 rows are empty."""
    rows = []
    for (x, y, width, height, kind, score), own in zip(boxes, more, strict=True):
        scores = [score if k == kind else 0.0 for k in range(3)]
        if head == "end_to_end":
            rows.append([*around(x, y, width, height), score, kind, *own])
        else:
            rows.append([x, y, width, height, *([0.95] if head == "v5" else []), *scores, *own])
    values = np.zeros((len(rows) + 40, len(rows[0])), np.float32)
    values[: len(rows)] = rows
    return values.T[None] if head == "v8" else values[None]


@settings(max_examples=30, deadline=None)
@drawn(
    st.integers(0, 2**32 - 1),
    st.sampled_from(["v8", "v5", "end_to_end"]),
    st.sampled_from([((48, 36), (32, 32)), ((20, 60), (64, 32))]),
)
def test_masks_agree_with_sums_pixel_by_pixel(seed: int, head: str, sizes: Any) -> None:
    """Prototypes by coefficients, between cells linear, above 0, inside the box: nearly every pixel agrees."""
    source, model = sizes
    where, rng = place(source, model), np.random.default_rng(seed)
    height, width = model[1] // 4, model[0] // 4
    # Smooth fields: on noise a pixel's side is decided by what no grid can hold.
    y, x = np.mgrid[0:height, 0:width]
    protos = np.stack([np.sin(x / 3 + a) + np.cos(y / 4 + b) for a, b in rng.uniform(0, 6, (4, 2))])[None]
    coefficients = rng.normal(0, 1, (2, 4))
    x, y = model[0] / 2, model[1] / 2
    output = rows_of(head, [(x, y, 20, 22, 0, 0.9), (x + 2, y - 2, 18, 20, 1, 0.8)], coefficients)
    options = {"head": head, "prototypes": "p", "mask": "rle", "mask_side_max": 512}
    found = decode(output, where, extra=[protos.astype(np.float32)], **options)
    assert [one["label"] for one in found["detections"]] == ["a", "b"]
    for one, own in zip(found["detections"], coefficients, strict=True):
        got = paint(one["mask"], *source)
        x1, y1, x2, y2 = one["box"]
        wrong = inside = 0
        for row in range(math.ceil(y1), math.floor(y2)):
            for column in range(math.ceil(x1), math.floor(x2)):
                u = ((column + 0.5) * where.scale_x + where.offset_x) / 4 - 0.5
                v = ((row + 0.5) * where.scale_y + where.offset_y) / 4 - 0.5
                total = sum(own[k] * bilinear(protos[0, k], u, v) for k in range(4))
                wrong += bool(total > 0) != bool(got[row, column])
                inside += 1
        assert wrong <= max(2, 0.03 * inside)


def bilinear(field: Any, x: float, y: float) -> float:
    """Return a field between its cells; beyond its edge it goes on as it is there."""
    height, width = field.shape
    x, y = min(max(x, 0), width - 1), min(max(y, 0), height - 1)
    left, top = min(int(x), width - 2), min(int(y), height - 2)
    a, b = x - left, y - top
    upper = field[top, left] * (1 - a) + field[top, left + 1] * a
    lower = field[top + 1, left] * (1 - a) + field[top + 1, left + 1] * a
    return float(upper * (1 - b) + lower * b)


def test_a_polygon_goes_around_its_mask() -> None:
    """A disc: the outline's area and middle are those of the disc, in source pixels."""
    where = place((128, 128), (64, 64))
    y, x = np.mgrid[0:16, 0:16]
    disc = (25 - (x - 7.5) ** 2 - (y - 7.5) ** 2)[None, None].astype(np.float32)
    output = v8((32, 32, 60, 60, 0.9, 0, 0, 1.0), more=1)
    (found,) = decode(output, where, extra=[disc], prototypes="p")["detections"]
    (outline,) = found["mask"]["polygons"]
    points = np.array(outline).reshape(-1, 2)
    nearest, farthest = (float(f(np.hypot(*(points - 64).T))) for f in (np.min, np.max))
    assert 36 < nearest < farthest < 42  # A radius of 5 cells of 8 source pixels.
    assert len(points) < 40


def test_a_mask_of_noise_is_bounded() -> None:
    """However ragged, it is given on a coarser grid until it fits."""
    noise = np.random.default_rng(0).normal(0, 1, (1, 1, 512, 512)).astype(np.float32)
    where = place((2048, 2048), (2048, 2048))
    options = {"extra": [noise], "prototypes": "p", "mask_side_max": 512}
    output = v8((1024, 1024, 2048, 2048, 0.9, 0, 0, 1.0), more=1)
    (found,) = decode(output, where, mask="rle", **options)["detections"]
    assert len(found["mask"]["counts"]) <= 2000
    assert sum(found["mask"]["counts"]) == found["mask"]["size"][0] * found["mask"]["size"][1]
    (found,) = decode(output, where, mask="polygon", **options)["detections"]
    assert sum(map(len, found["mask"]["polygons"])) <= 2 * 200


def test_keypoints_are_undone_like_boxes() -> None:
    """Named, in source pixels, clipped; with and without scores."""
    where = place((200, 100), (64, 64))
    row = (32, 32, 20, 20, 0.9, 0, 0)
    found = decode(v8((*row, 32, 32, 0.75, 70, 16, 0.5), more=6), where, keypoints=["nose", "tail"])
    assert found["detections"][0]["keypoints"] == [
        {"name": "nose", "x": 100.0, "y": 50.0, "score": 0.75},
        {"name": "tail", "x": 200.0, "y": 0.0, "score": 0.5},
    ]
    found = decode(v8((*row, 32, 32), more=2), where, keypoints=["nose"], keypoint_values=2)
    assert found["detections"][0]["keypoints"] == [{"name": "nose", "x": 100.0, "y": 50.0, "score": 1.0}]


def test_end_to_end_heads_carry_masks_and_keypoints_too() -> None:
    """Their rows end with the same values, in the order of their scores."""
    rows = np.zeros((1, 300, 9), np.float32)
    rows[0, :2] = [[8, 8, 24, 24, 0.6, 2, 16, 16, 1], [0, 0, 8, 8, 0.9, 0, 4, 4, 1]]
    found = decode(rows, head="end_to_end", keypoints=["middle"])["detections"]
    assert [(one["label"], one["keypoints"][0]["x"]) for one in found] == [("a", 4.0), ("c", 16.0)]


def test_logits_are_no_scores() -> None:
    """A score of 5 is a head that was exported without its sigmoid: it is said, not cut down to 1."""
    assert decode(v8((32, 32, 8, 8, 1.0005)))["detections"][0]["score"] == 1.0
    with pytest.raises(PermanentError, match=r"scores of 5 to 5, not 0 to 1: logits need their activation"):
        decode(v8((32, 32, 8, 8, 5.0)))


def test_a_class_without_a_label_fails_the_frame() -> None:
    """An end-to-end head does not tell how many classes it has: labels that are too few show at the first hit."""
    rows = np.zeros((1, 300, 6), np.float32)
    rows[0, 0] = [0, 0, 8, 8, 0.9, 3]
    with pytest.raises(PermanentError, match=r"gives class 3; the labels are 0 to 2"):
        decode(rows, head="end_to_end")


@pytest.mark.parametrize(
    ("shape", "labels", "options", "said"),
    [
        ((1, 84, 8400), LABELS, {}, "3 labels has 7 values a box, got o float32[1,84,8400]"),
        ((1, 8400, 84), LABELS, {"head": "v5"}, "3 labels has 8 values a box"),
        ((1, 300, 6), LABELS, {"head": "end_to_end", "keypoints": ["a"]}, "has 9 values a box"),
        ((1, 8400), LABELS, {}, "needs one output with 3 dimensions"),
        ((1, 7, 8400), LABELS, {"prototypes": "none"}, "names output 'none'"),
        ((1, 7, 8400), LABELS, {"head": "v9"}, "head: 'v9'"),
        ((1, 7, 8400), None, {}, "needs a [labels] section"),
    ],
)
def test_what_does_not_fit_is_refused_at_load(shape: Any, labels: Any, options: Any, said: str) -> None:
    """With what was seen and what would fit."""
    with pytest.raises(ConfigError) as caught:
        YoloDecoder(given({"name": "yolo", "head": "v8", **options}, [spec("o", *shape)], labels))
    assert said in str(caught.value)


def test_an_open_output_is_checked_with_the_frame() -> None:
    """Shapes that only a run tells, and a grid that does not fit the size."""
    decoder = YoloDecoder(given({"name": "yolo", "head": "v8"}, [spec("o", None, None, None)], LABELS))
    with pytest.raises(PermanentError, match=r"\[1, 84, 20\], wanted 7 values a box"):
        decoder.decode([np.zeros((1, 84, 20), np.float32)], place((64, 64), (64, 64)))
    with pytest.raises(PermanentError, match="gives 20 boxes; strides"):
        decode(np.full((1, 20, 8), 0.9, np.float32), head="yolox")
