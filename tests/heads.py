"""Networks that find one bright thing and say so with a head that people have, so that the whole path can be checked.

What is brighter than half in any channel is the thing. Its middle, its side (as if it were a square) and its mean
colour become a row of the head; the other rows are empty. Nothing is trained, everything is exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info
from onnx.numpy_helper import from_array

SIDE = 64
CELLS = 8 * 8 + 4 * 4 + 2 * 2
"""Of the grids of 8, 16 and 32 pixels."""

NAMES = "{0: 'red', 1: 'green', 2: 'blue'}"

Shape = Sequence[int | str]


def ultralytics(task: str, **more: str) -> dict[str, str]:
    """Return the metadata of an export."""
    return {"task": task, "names": NAMES, "stride": "32", "imgsz": f"[{SIDE}, {SIDE}]", "batch": "1", **more}


def save(file: Path, head: str, *, metadata: Mapping[str, str] | None = None, is_open: bool = False) -> Path:
    """Write a network and return its file.

    Args:
        file: to be written.
        head: `v8`, `v8_turned`, `v5`, `end_to_end`, `yolox`, `segment`, `pose`, `tfod`, `semantic` or `embedding`.
        metadata: the exporter's.
        is_open: whether batch, height and width are symbolic.
    """
    weights: dict[str, Any] = {
        "half": np.float32(0.5),
        "columns": np.arange(SIDE, dtype=np.float32).reshape(1, 1, 1, SIDE) + np.float32(0.5),
        "rows": np.arange(SIDE, dtype=np.float32).reshape(1, 1, SIDE, 1) + np.float32(0.5),
        "least": np.float32(1e-6),
        "two": np.float32(2),
        "eight": np.float32(8),
        "one": np.ones((1, 1), np.float32),
        "plane": np.array([2, 3], np.int64),
        "flat": np.array([1, -1], np.int64),
    }
    nodes = [
        make_node("ReduceMax", ["images"], ["brightest"], axes=[1], keepdims=1),
        make_node("Greater", ["brightest", "half"], ["is_bright"]),
        make_node("Cast", ["is_bright"], ["mask"], to=TensorProto.FLOAT),
        make_node("ReduceSum", ["mask", "plane"], ["area4"], keepdims=1),
        make_node("Max", ["area4", "least"], ["area"]),
        *_mean("columns", "x"),
        *_mean("rows", "y"),
        make_node("Sqrt", ["area"], ["side4"]),
        make_node("Reshape", ["side4", "flat"], ["side"]),
        make_node("Mul", ["images", "mask"], ["bright"]),
        make_node("ReduceSum", ["bright", "plane"], ["color_sum"], keepdims=1),
        make_node("Div", ["color_sum", "area"], ["color4"]),
        make_node("Reshape", ["color4", "flat"], ["color"]),
    ]
    own, outputs = _HEADS[head](weights)
    inputs: Shape = ["batch", 3, "height", "width"] if is_open else [1, 3, SIDE, SIDE]
    graph = make_graph(
        [*nodes, *own],
        head,
        [make_tensor_value_info("images", TensorProto.FLOAT, inputs)],
        [make_tensor_value_info(name, TensorProto.FLOAT, None if is_open else shape) for name, shape in outputs],
        [from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    model = make_model(graph, opset_imports=[make_opsetid("", 17)], ir_version=8)
    for key, value in (metadata or {}).items():
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, file)
    return file


def _mean(field: str, name: str) -> list[NodeProto]:
    """The mask's middle along an axis, [1, 1]."""
    return [
        make_node("Mul", ["mask", field], [f"{name}_weighted"]),
        make_node("ReduceSum", [f"{name}_weighted", "plane"], [f"{name}_sum"], keepdims=1),
        make_node("Div", [f"{name}_sum", "area"], [f"{name}4"]),
        make_node("Reshape", [f"{name}4", "flat"], [name]),
    ]


def _rows(
    weights: dict[str, Any], values: Sequence[str], width: int, count: int, *, is_turned: bool
) -> list[NodeProto]:
    """Join values to the first row of `output0`, with empty rows behind it."""
    weights["to_rows"] = np.array([1, width, 1] if is_turned else [1, 1, width], np.int64)
    at = 5 if is_turned else 4
    weights["behind"] = np.array([count - 1 if place == at else 0 for place in range(6)], np.int64)
    return [
        make_node("Concat", list(values), ["row"], axis=1),
        make_node("Reshape", ["row", "to_rows"], ["row3"]),
        make_node("Pad", ["row3", "behind"], ["output0"]),
    ]


BOX = ("x", "y", "side", "side")


def _v8(weights: dict[str, Any]) -> Any:
    return _rows(weights, [*BOX, "color"], 7, CELLS, is_turned=True), [("output0", [1, 7, CELLS])]


def _v8_turned(weights: dict[str, Any]) -> Any:
    return _rows(weights, [*BOX, "color"], 7, CELLS, is_turned=False), [("output0", [1, CELLS, 7])]


def _v5(weights: dict[str, Any]) -> Any:
    rows = _rows(weights, [*BOX, "one", "color"], 8, 3 * CELLS, is_turned=False)
    return rows, [("output0", [1, 3 * CELLS, 8])]


def _end_to_end(weights: dict[str, Any]) -> Any:
    nodes = [
        make_node("Div", ["side", "two"], ["reach"]),
        *(make_node("Sub", [axis, "reach"], [f"{axis}1"]) for axis in "xy"),
        *(make_node("Add", [axis, "reach"], [f"{axis}2"]) for axis in "xy"),
        make_node("ReduceMax", ["color"], ["score"], axes=[1], keepdims=1),
        make_node("ArgMax", ["color"], ["which"], axis=1, keepdims=1),
        make_node("Cast", ["which"], ["class"], to=TensorProto.FLOAT),
    ]
    rows = _rows(weights, ["x1", "y1", "x2", "y2", "score", "class"], 6, 300, is_turned=False)
    return [*nodes, *rows], [("output0", [1, 300, 6])]


def _yolox(weights: dict[str, Any]) -> Any:
    """In the first cell, whose corner is at 0: the middle in cells, and the logarithm of the side."""
    nodes = [
        make_node("Div", ["x", "eight"], ["x_cells"]),
        make_node("Div", ["y", "eight"], ["y_cells"]),
        make_node("Div", ["side", "eight"], ["side_cells"]),
        make_node("Log", ["side_cells"], ["log_side"]),
    ]
    values = ["x_cells", "y_cells", "log_side", "log_side", "one", "color"]
    return [*nodes, *_rows(weights, values, 8, CELLS, is_turned=False)], [("output0", [1, CELLS, 8])]


def _segment(weights: dict[str, Any]) -> Any:
    nodes = [
        make_node("AveragePool", ["mask"], ["pooled"], kernel_shape=[4, 4], strides=[4, 4]),
        make_node("Sub", ["pooled", "half"], ["output1"]),
    ]
    rows = _rows(weights, [*BOX, "color", "one"], 8, CELLS, is_turned=True)
    return [*nodes, *rows], [("output0", [1, 8, CELLS]), ("output1", [1, 1, 16, 16])]


def _pose(weights: dict[str, Any]) -> Any:
    return _rows(weights, [*BOX, "color", "x", "y", "one"], 10, CELLS, is_turned=True), [("output0", [1, 10, CELLS])]


def _tfod(weights: dict[str, Any]) -> Any:
    """As TensorFlow exports it: shares of the input, y first, one score and one class a box, from 1."""
    weights |= {"input_side": np.float32(SIDE), "row4": np.array([1, 1, 4], np.int64), "first": np.float32(1)}
    nodes = [
        make_node("Div", ["side", "two"], ["reach"]),
        *(make_node("Sub", [axis, "reach"], [f"{axis}1"]) for axis in "xy"),
        *(make_node("Add", [axis, "reach"], [f"{axis}2"]) for axis in "xy"),
        make_node("Concat", ["y1", "x1", "y2", "x2"], ["corners"], axis=1),
        make_node("Div", ["corners", "input_side"], ["shares"]),
        make_node("Reshape", ["shares", "row4"], ["detection_boxes"]),
        make_node("ReduceMax", ["color"], ["detection_scores"], axes=[1], keepdims=1),
        make_node("ArgMax", ["color"], ["which"], axis=1, keepdims=1),
        make_node("Cast", ["which"], ["from_zero"], to=TensorProto.FLOAT),
        make_node("Add", ["from_zero", "first"], ["detection_classes"]),
    ]
    shapes = [("detection_boxes", [1, 1, 4]), ("detection_scores", [1, 1]), ("detection_classes", [1, 1])]
    return nodes, shapes


def _semantic(weights: dict[str, Any]) -> Any:
    return [make_node("Identity", ["mask"], ["mask_out"])], [("mask_out", [1, 1, SIDE, SIDE])]


def _embedding(weights: dict[str, Any]) -> Any:
    return [make_node("Identity", ["color"], ["embedding"])], [("embedding", [1, 3])]


_HEADS = {
    "v8": _v8,
    "v8_turned": _v8_turned,
    "v5": _v5,
    "end_to_end": _end_to_end,
    "yolox": _yolox,
    "segment": _segment,
    "pose": _pose,
    "tfod": _tfod,
    "semantic": _semantic,
    "embedding": _embedding,
}
