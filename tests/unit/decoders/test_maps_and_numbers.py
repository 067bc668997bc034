"""Segmentation, keypoints, text, embeddings, measurements, anomalies and text outputs, against plain Python."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from agent.decoders.classification import ClassificationDecoder
from agent.decoders.ctc import CtcDecoder
from agent.decoders.masks import run_lengths
from agent.decoders.numbers import AnomalyDecoder, EmbeddingDecoder, RegressionDecoder
from agent.decoders.pose import PoseDecoder
from agent.decoders.raw import RawDecoder
from agent.decoders.segmentation import SegmentationDecoder
from agent.errors import ConfigError, PermanentError
from tests.unit.decoders.reference import given, paint, place, spec, undo

seeds = st.integers(0, 2**32 - 1)
SQUARE = place((64, 64), (64, 64))


@settings(max_examples=50)
@drawn(st.integers(1, 9), st.integers(1, 9), seeds)
def test_run_lengths_are_cocos(rows: int, columns: int, seed: int) -> None:
    """Column by column, beginning with outside; they add up to the whole."""
    inside = np.random.default_rng(seed).integers(0, 2, (rows, columns)).astype(np.uint8)
    flat = [int(inside[y, x]) for x in range(columns) for y in range(rows)]
    rebuilt: list[int] = []
    for index, count in enumerate(run_lengths(inside)):
        rebuilt += [index % 2] * count
    assert rebuilt == flat


@settings(max_examples=20, deadline=None)
@drawn(seeds, st.sampled_from(["NCHW", "NHWC", "NHW"]), st.sampled_from([((48, 36), (32, 32)), ((40, 40), (40, 20))]))
def test_several_classes_agree_with_a_pixel_by_pixel_reference(seed: int, layout: str, sizes: Any) -> None:
    """Each pixel of the frame has the class of the cell that it falls into; the letterbox is undone."""
    source, model = sizes
    where = place(source, model)
    rows, columns = model[1] // 4, model[0] // 4
    scores = np.random.default_rng(seed).normal(0, 1, (3, rows, columns)).astype(np.float32)
    output = {"NCHW": scores[None], "NHWC": scores.transpose(1, 2, 0)[None], "NHW": scores.argmax(axis=0)[None]}[
        layout
    ]
    options = {"name": "segmentation", "layout": layout, "background": 0, "share_min": 0}
    decoder = SegmentationDecoder(given(options, [spec("o", *output.shape)], ["none", "road", "sky"]))
    segments = decoder.decode([output], where)["segments"]
    wanted = np.zeros((source[1], source[0]), int)
    for y in range(source[1]):
        for x in range(source[0]):
            u = ((x + 0.5) * where.scale_x + where.offset_x) / 4
            v = ((y + 0.5) * where.scale_y + where.offset_y) / 4
            cell = scores[:, min(rows - 1, int(v)), min(columns - 1, int(u))]
            wanted[y, x] = int(np.argmax(cell))
    assert {one["label"] for one in segments} == {
        ("none", "road", "sky")[k] for k in set(wanted.ravel().tolist()) - {0}
    }
    for one in segments:
        mine = wanted == one["class_id"]
        assert one["share"] == pytest.approx(mine.mean(), abs=1e-4)
        assert (paint(one["mask"], *source) == mine).all()


def test_one_class_is_cut_at_its_threshold() -> None:
    """A wedge of probabilities: the edge of the mask is where it crosses the threshold, between cells too."""
    wedge = np.broadcast_to((np.arange(16, dtype=np.float32) + 0.5) / 16, (16, 16))[None, :, :, None]
    options = {"name": "segmentation", "layout": "NHWC", "score_threshold": 0.75}
    decoder = SegmentationDecoder(given(options, [spec("o", 1, 16, 16, 1)], ["person"]))
    (found,) = decoder.decode([wedge], SQUARE)["segments"]
    inside = paint(found["mask"], 64, 64)
    assert found["share"] == 0.25
    assert inside[:, 48:].all()
    assert not inside[:, :48].any()
    logits = SegmentationDecoder(given({**options, "activation": "sigmoid"}, [spec("o", 1, 16, 16, 1)], ["person"]))
    assert logits.decode([np.full((1, 16, 16, 1), -3, np.float32)], SQUARE) == {"segments": []}


def test_segmentation_refuses_what_does_not_fit() -> None:
    """Axes, labels of another length, NaN and classes without a label."""
    output = [spec("o", 1, 3, 8, 8)]
    with pytest.raises(ConfigError, match="2 labels for a model of 3 classes"):
        SegmentationDecoder(given({"name": "segmentation", "layout": "NCHW"}, output, ["a", "b"]))
    with pytest.raises(ConfigError, match=r"layout NHW got o float32\[1,3,8,8\]"):
        SegmentationDecoder(given({"name": "segmentation", "layout": "NHW"}, output, ["a", "b"]))
    decoder = SegmentationDecoder(given({"name": "segmentation", "layout": "NCHW"}, output, ["a", "b", "c"]))
    with pytest.raises(PermanentError, match="NaN"):
        decoder.decode([np.full((1, 3, 8, 8), np.nan, np.float32)], SQUARE)
    classes = SegmentationDecoder(
        given({"name": "segmentation", "layout": "NHW"}, [spec("o", 1, 8, 8, dtype=np.int64)], ["a", "b"])
    )
    with pytest.raises(PermanentError, match="gives class 7; there are 2 labels"):
        classes.decode([np.full((1, 8, 8), 7)], SQUARE)


def pose(outputs: list[Any], where: Any = SQUARE, names: Any = ("nose", "tail"), **options: Any) -> Any:
    """Decode keypoints."""
    specs = [spec(f"o{index}", *one.shape) for index, one in enumerate(outputs)]
    chosen = {"name": "pose", "keypoints": list(names), "output": "o0", **options}
    return PoseDecoder(given(chosen, specs, None)).decode(outputs, where)["poses"]


@settings(max_examples=40, deadline=None)
@drawn(seeds)
def test_heat_maps_agree_with_the_reference(seed: int) -> None:
    """The greatest cell, a quarter towards its greater neighbour, also at the edges."""
    where = place((90, 120), (48, 64))
    maps = np.random.default_rng(seed).uniform(0, 1, (2, 16, 12)).astype(np.float32)
    (found,) = pose([maps[None]], where, kind="heatmap")
    for field, got in zip(maps.tolist(), found["keypoints"], strict=True):
        best, y, x = max((field[y][x], y, x) for y in range(16) for x in range(12))
        right, left = field[y][min(11, x + 1)], field[y][max(0, x - 1)]
        below, above = field[min(15, y + 1)][x], field[max(0, y - 1)][x]
        moved = [
            x + 0.5 + 0.25 * ((right > left) - (right < left)),
            y + 0.5 + 0.25 * ((below > above) - (below < above)),
        ]
        assert np.allclose((got["x"], got["y"]), undo(moved[0] * 4, moved[1] * 4, where), atol=0.06)
        assert got["score"] == pytest.approx(best, abs=1e-4)
    assert found["score"] == pytest.approx(maps.max(axis=(1, 2)).mean(), abs=1e-3)


def test_simcc_takes_one_axis_each() -> None:
    """The score is that of the weaker axis."""
    across, down = np.zeros((1, 2, 128), np.float32), np.zeros((1, 2, 128), np.float32)
    across[0, 0, 20], down[0, 0, 60], across[0, 1, 100], down[0, 1, 2] = 0.9, 0.5, 0.3, 0.7
    (found,) = pose([across, down], kind="simcc", output_y="o1")
    assert [(p["x"], p["y"], p["score"]) for p in found["keypoints"]] == [(10.2, 30.2, 0.5), (50.2, 1.2, 0.3)]


@settings(max_examples=40, deadline=None)
@drawn(seeds, st.sampled_from([((90, 120), (48, 64)), ((200, 50), (64, 64))]), st.booleans())
def test_simcc_agrees_with_the_reference(seed: int, sizes: Any, is_logits: bool) -> None:
    """The greatest column and the greatest row of each keypoint, with more of them than the input has pixels."""
    where, rng = place(*sizes), np.random.default_rng(seed)
    across, down = (rng.uniform(-4 if is_logits else 0, 4 if is_logits else 1, (2, side * 2)) for side in sizes[1])
    (found,) = pose(
        [across[None].astype(np.float32), down[None].astype(np.float32)],
        where,
        kind="simcc",
        output_y="o1",
        activation="sigmoid" if is_logits else "none",
    )
    for columns, rows, got in zip(across.tolist(), down.tolist(), found["keypoints"], strict=True):
        x, y = columns.index(max(columns)), rows.index(max(rows))
        assert np.allclose((got["x"], got["y"]), undo((x + 0.5) / 2, (y + 0.5) / 2, where), atol=0.06)
        weaker = min(max(columns), max(rows))
        assert got["score"] == pytest.approx(1 / (1 + math.exp(-weaker)) if is_logits else weaker, abs=1e-4)


@settings(max_examples=40, deadline=None)
@drawn(seeds, st.sampled_from(["xy", "yx"]), st.sampled_from(["pixels", "share"]), st.sampled_from([2, 3]))
def test_coordinates_agree_with_the_reference(seed: int, order: str, unit: str, values: int) -> None:
    """Every order and unit, with and without scores, points outside of the picture too."""
    where, rng = place((90, 120), (48, 64)), np.random.default_rng(seed)
    names = ("a", "b", "c", "d")
    table = rng.uniform(-0.2, 1.2, (4, values)).astype(np.float32)
    if values == 3:
        table[:, 2] = rng.uniform(0, 1, 4)
    rows = table.tolist()
    if unit == "pixels":
        table[:, :2] *= (64, 48) if order == "yx" else (48, 64)
    options = {"kind": "coordinates", "order": order, "unit": unit, "values": values}
    (found,) = pose([table[None]], where, names, **options)
    for name, row, got in zip(names, rows, found["keypoints"], strict=True):
        x, y = (row[1], row[0]) if order == "yx" else (row[0], row[1])
        assert got["name"] == name
        assert np.allclose((got["x"], got["y"]), undo(x * 48, y * 64, where), atol=0.06)
        assert got["score"] == pytest.approx(row[2] if values == 3 else 1.0, abs=1e-4)


def test_coordinates_of_movenet() -> None:
    """[1, 1, K, 3] of y, x and score in shares of the input."""
    output = np.array([[[[0.5, 0.25, 0.9], [1.5, -1, 0.1]]]], np.float32)
    (found,) = pose([output], kind="coordinates", order="yx", unit="share")
    assert found["keypoints"] == [
        {"name": "nose", "x": 16.0, "y": 32.0, "score": 0.9},
        {"name": "tail", "x": 0.0, "y": 64.0, "score": 0.1},
    ]
    assert found["score"] == 0.5
    assert pose([output], kind="coordinates", score_threshold=0.6) == []


def test_keypoints_refuse_what_does_not_fit() -> None:
    """Other numbers of keypoints, a missing axis, NaN."""
    for kind, shape, said in [
        ("heatmap", (1, 17, 8, 8), "heatmap with 2 keypoints"),
        ("coordinates", (1, 34), "are 6 numbers"),
        ("simcc", (1, 2, 64), "one output an axis"),
    ]:
        with pytest.raises(ConfigError, match=said):
            pose([np.zeros(shape, np.float32)], kind=kind)
    with pytest.raises(PermanentError, match="NaN"):
        pose([np.full((1, 2, 3), np.nan, np.float32)], kind="coordinates")


@settings(max_examples=50)
@drawn(seeds, st.sampled_from(["first", "last"]), st.sampled_from(["NTC", "TNC"]), st.booleans())
def test_the_best_path_agrees_with_the_reference(seed: int, blank: str, layout: str, is_logits: bool) -> None:
    """Repeats become one, unless a blank stands between them; blanks vanish."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (12, 4))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    characters = ["", "x", "y", " "] if blank == "first" else ["x", "y", " ", ""]
    text, before, scores = "", "?", []
    for row in probabilities.tolist():
        best = row.index(max(row))
        if characters[best] and characters[best] != before:
            text += characters[best]
            scores.append(max(row))
        before = characters[best]
    values = (logits if is_logits else probabilities).astype(np.float32)
    output = values[None] if layout == "NTC" else values[:, None]
    options = {"name": "ctc", "layout": layout, "blank": blank, "activation": "softmax" if is_logits else "none"}
    payload = CtcDecoder(given(options, [spec("o", *output.shape)], ["x", "y", " "])).decode([output], SQUARE)
    if not text:
        assert payload == {"texts": []}
    else:
        assert payload["texts"][0]["text"] == text
        assert payload["texts"][0]["score"] == pytest.approx(sum(scores) / len(scores), abs=2e-4)


def test_text_refuses_characters_of_another_number() -> None:
    """The blank has no line of its own."""
    with pytest.raises(ConfigError, match="2 labels and the blank are 3 characters, the model has 2"):
        CtcDecoder(given({"name": "ctc"}, [spec("o", 1, 9, 2)], ["x", "y"]))


def test_an_embedding_has_length_one() -> None:
    """Unless it is wanted as it is; zeros have no direction and stay zeros."""
    vector = np.array([[3.0, 4.0]], np.float32)
    assert EmbeddingDecoder(given({"name": "embedding"}, [spec("e", 1, 2)], None)).decode([vector], SQUARE) == {
        "embeddings": [{"name": "e", "shape": [2], "values": [0.6, 0.8]}]
    }
    plain = EmbeddingDecoder(given({"name": "embedding", "normalize": False}, [spec("e", 1, 2)], None))
    assert plain.decode([vector], SQUARE)["embeddings"][0]["values"] == [3.0, 4.0]
    zeros = EmbeddingDecoder(given({"name": "embedding"}, [spec("e", 1, 2)], None)).decode([vector * 0], SQUARE)
    assert zeros["embeddings"][0]["values"] == [0.0, 0.0]
    with pytest.raises(ConfigError, match="4096 numbers at most"):
        EmbeddingDecoder(given({"name": "embedding"}, [spec("e", 1, 5000)], None))


def test_measurements_have_names_and_units() -> None:
    """Factor and offset undo what the training did to its targets."""
    options = {"name": "regression", "names": ["t", "h"], "units": ["C", "%"], "factor": 10, "offset": -5}
    decoder = RegressionDecoder(given(options, [spec("o", 1, 2)], None))
    assert decoder.decode([np.array([[2.5, 6]], np.float32)], SQUARE)["measurements"] == [
        {"name": "t", "value": 20.0, "unit": "C"},
        {"name": "h", "value": 55.0, "unit": "%"},
    ]
    with pytest.raises(ConfigError, match="2 names for the numbers of o"):
        RegressionDecoder(given(options, [spec("o", 1, 3)], None))
    with pytest.raises(PermanentError, match="NaN"):
        decoder.decode([np.array([[np.nan, 6]], np.float32)], SQUARE)


@pytest.mark.parametrize(("reduce", "score", "is_anomaly"), [("max", 0.9, True), ("mean", 0.3, False)])
def test_an_anomaly_is_a_score_from_its_threshold_on(reduce: str, score: float, is_anomaly: bool) -> None:
    """Of one number or of a map."""
    options = {"name": "anomaly", "threshold": 0.9, "reduce": reduce}
    output = np.array([[0.0, 0.0, 0.9, 0.3]])
    payload = AnomalyDecoder(given(options, [spec("o", 1, 4)], None)).decode([output], SQUARE)
    assert payload == {"anomaly": {"score": score, "threshold": 0.9, "is_anomaly": is_anomaly}}
    with pytest.raises(ConfigError, match="threshold: is missing"):
        AnomalyDecoder(given({"name": "anomaly"}, [spec("o", 1)], None))


def test_an_output_must_be_named_where_there_are_several() -> None:
    """With what there is."""
    with pytest.raises(ConfigError, match=r"output: is missing: the model has a float32\[1\], b float32\[1\]"):
        RegressionDecoder(given({"name": "regression"}, [spec("a", 1), spec("b", 1)], None))


def test_raw_gives_text_bools_and_whole_numbers() -> None:
    """Every element type that ONNX Runtime gives."""
    outputs = [np.array([["cat", "dög"]], object), np.array([True, False]), np.array([2**40])]
    specs = [spec("t", 1, 2, dtype=object), spec("b", 2, dtype=bool), spec("i", 1, dtype=np.int64)]
    values = RawDecoder(given({"name": "raw"}, specs, None)).decode(outputs, SQUARE)["values"]
    assert values == [
        {"name": "t", "shape": [1, 2], "texts": ["cat", "dög"]},
        {"name": "b", "shape": [2], "values": [1.0, 0.0]},
        {"name": "i", "shape": [1], "values": [float(2**40)]},
    ]


@pytest.mark.parametrize(
    ("scores", "expected"),
    [([0.2, 0.5, 0.3], 0.5), ([2.0, 0.0, 0.0], math.exp(2) / (math.exp(2) + 2)), ([-1.0, 1.0, 1.0], 0.4683)],
)
def test_probabilities_are_told_from_logits(scores: list[float], expected: float) -> None:
    """`auto`: what lies in 0..1 and adds up to 1 is taken as it is."""
    options = {"name": "classification", "scores": "s", "activation": "auto"}
    decoder = ClassificationDecoder(given(options, [spec("s", 1, 3, 1, 1)], ["a", "b", "c"]))
    best = decoder.decode([np.array(scores, np.float32).reshape(1, 3, 1, 1)], SQUARE)["classes"][0]
    assert best["score"] == pytest.approx(expected, abs=1e-4)


def test_classes_that_do_not_exclude_each_other() -> None:
    """`sigmoid`: each has its own probability."""
    options = {"name": "classification", "scores": "s", "activation": "sigmoid", "score_threshold": 0.5}
    decoder = ClassificationDecoder(given(options, [spec("s", 1, 3)], ["a", "b", "c"]))
    found = decoder.decode([np.array([[0.0, 3.0, -9.0]], np.float32)], SQUARE)["classes"]
    assert [(one["label"], one["score"]) for one in found] == [("b", 0.9526), ("a", 0.5)]
