"""Inputs of every element type through a real session: what the network was given comes back in its outputs."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info

from agent.clock import SystemClock
from agent.loading import load_model
from agent.settings import ModelSettings

PICTURE = np.full((20, 30, 3), 200, np.uint8)
TYPES = {
    "int8": TensorProto.INT8,
    "int32": TensorProto.INT32,
    "bool": TensorProto.BOOL,
    "uint8": TensorProto.UINT8,
    "int64": TensorProto.INT64,
    "float64": TensorProto.DOUBLE,
    "string": TensorProto.STRING,
}


def values(
    folder: Path,
    image: str,
    nodes: list[Any],
    count: int,
    *,
    more: dict[str, tuple[str, list[int]]] | None = None,
    described: str = "",
    scale: float = 1,
    captured_at_ns: int = 0,
) -> list[float]:
    """Save a network, load it as the agent does, run it on a grey picture and return what it gave.

    Args:
        folder: the model's.
        image: type of its input `images`, [1, 3, 4, 4].
        nodes: make `values`, float32 [count], of its inputs.
        count: see `nodes`.
        more: types and shapes of its other inputs.
        described: what model.toml says of them.
        scale: of the picture.
        captured_at_ns: the frame's.
    """
    inputs = [make_tensor_value_info("images", TYPES[image], [1, 3, 4, 4])]
    inputs += [make_tensor_value_info(name, TYPES[dtype], shape) for name, (dtype, shape) in (more or {}).items()]
    output = make_tensor_value_info("values", TensorProto.FLOAT, [count])
    model = make_model(
        make_graph(nodes, "given", inputs, [output]), opset_imports=[make_opsetid("", 19)], ir_version=9
    )
    onnx.checker.check_model(model)
    data = model.SerializeToString()
    (folder / "model.onnx").write_bytes(data)
    (folder / "model.toml").write_text(
        f"""schema = 1
name = "given"
version = "1.0.0"
task = "raw"
license = "Apache-2.0"
description = "made by a test"

[model]
path = "model.onnx"
sha256 = "{hashlib.sha256(data).hexdigest()}"

[input]
name = "images"
layout = "NCHW"
dtype = "{image}"
width = 4
height = 4
color = "RGB"
scale = {scale}

[decoder]
name = "raw"

{described}
"""
    )
    variant = load_model(ModelSettings(name="given", path=folder), 1, SystemClock()).variants[0]
    tensors, placement = variant.preprocess(PICTURE, captured_at_ns)
    outputs = variant.engine.run(tensors, variant.engine.new_abort())
    given: list[float] = variant.decoder.decode(outputs, placement)["values"][0]["values"]
    return given


BRIGHTNESS = [
    make_node("Cast", ["images"], ["wide"], to=TensorProto.FLOAT),
    make_node("Flatten", ["wide"], ["flat"], axis=0),
    make_node("ReduceMax", ["flat"], ["one"], keepdims=1),
    make_node("Constant", [], ["shape"], value_ints=[1]),
    make_node("Reshape", ["one", "shape"], ["brightest"]),
]
"""float32 [1]."""


@pytest.mark.parametrize(
    ("dtype", "scale", "wanted"),
    [("int8", 1, 127), ("int8", 0.5, 100), ("int32", 1, 200), ("int32", 2, 400), ("bool", 1, 1), ("bool", 0, 0)],
)
def test_a_picture_of_each_type(tmp_path: Path, dtype: str, scale: float, wanted: float) -> None:
    """Levels times the scale, cut off at what the type holds; a bool is what is not zero."""
    nodes = [*BRIGHTNESS, make_node("Identity", ["brightest"], ["values"])]
    assert values(tmp_path, dtype, nodes, 1, scale=scale) == [wanted]


def beside(name: str) -> list[Any]:
    """Return nodes that give the brightness and, behind it, an input as numbers."""
    cast = make_node("Cast", [name], ["number"], to=TensorProto.FLOAT)
    return [*BRIGHTNESS, cast, make_node("Concat", ["brightest", "number"], ["values"], axis=0)]


@pytest.mark.parametrize(
    ("dtype", "value", "wanted"), [("int8", -7, -7), ("int32", 70_000, 70_000), ("bool", "true", 1), ("int64", 5, 5)]
)
def test_a_constant_of_each_type(tmp_path: Path, dtype: str, value: object, wanted: float) -> None:
    """`[constants]`, beside the picture."""
    described = f"[constants]\nx = {value}"
    nodes = beside("x")
    assert values(tmp_path, "uint8", nodes, 2, more={"x": (dtype, [1])}, described=described) == [200, wanted]


@pytest.mark.parametrize(("word", "wanted"), [("grün", 1), ("rot", 0)])
def test_a_text_arrives_as_it_is(tmp_path: Path, word: str, wanted: float) -> None:
    """Compared in the network, beyond ASCII."""
    nodes = [
        make_node("Constant", [], ["known"], value_strings=["grün"]),
        make_node("Equal", ["x", "known"], ["same"]),
        *beside("same"),
    ]
    described = f'[constants]\nx = "{word}"'
    assert values(tmp_path, "uint8", nodes, 2, more={"x": ("string", [1])}, described=described) == [200, wanted]


@pytest.mark.parametrize(("size", "wanted"), [("source_hw", [20, 30]), ("source_wh", [30, 20]), ("input_hw", [4, 4])])
def test_a_size_is_the_frames(tmp_path: Path, size: str, wanted: list[float]) -> None:
    """`[sizes]`, in whole numbers as RT-DETR takes them."""
    described = f'[sizes]\nx = "{size}"'
    nodes = beside("x")
    assert values(tmp_path, "uint8", nodes, 3, more={"x": ("int64", [2])}, described=described) == [200, *wanted]


@pytest.mark.parametrize(("kind", "dtype", "wanted"), [("captured_ns", "int64", 3e6), ("captured_ms", "float64", 3)])
def test_a_time_is_that_of_the_capture(tmp_path: Path, kind: str, dtype: str, wanted: float) -> None:
    """`[times]`, on the agent's clock."""
    described = f'[times]\nx = "{kind}"'
    nodes = beside("x")
    seen = values(
        tmp_path, "uint8", nodes, 2, more={"x": (dtype, [1])}, described=described, captured_at_ns=3_000_000
    )
    assert seen == [200, wanted]
