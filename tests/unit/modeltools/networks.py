"""Small networks made when a test needs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info
from onnx.numpy_helper import from_array

Port = tuple[str, int, Sequence[int | str | None] | None]

PICTURE: Port = ("images", TensorProto.FLOAT, [1, 3, 32, 32])


def network(
    nodes: Sequence[NodeProto],
    outputs: Sequence[Port],
    *,
    inputs: Sequence[Port] = (PICTURE,),
    weights: Mapping[str, Any] | None = None,
    domains: Mapping[str, int] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> ModelProto:
    """Return a model of opset 17."""
    graph = make_graph(
        list(nodes),
        "g",
        [make_tensor_value_info(*port) for port in inputs],
        [make_tensor_value_info(*port) for port in outputs],
        [from_array(np.asarray(value), name) for name, value in (weights or {}).items()],
    )
    opsets = [make_opsetid(domain, version) for domain, version in {"": 17, **(domains or {})}.items()]
    model = make_model(graph, opset_imports=opsets, ir_version=8)
    for key, value in (metadata or {}).items():
        model.metadata_props.add(key=key, value=value)
    return model


def classifier(*, classes: int = 3, side: int | str = 32, kernels: int = 8, metadata: Any = None) -> ModelProto:
    """Conv 3x3, Relu, mean, Gemm, Softmax: the first three classes say which channel is the brightest."""
    kernels_of, head = np.zeros((kernels, 3, 3, 3), np.float32), np.zeros((kernels, classes), np.float32)
    for index in range(kernels):
        kernels_of[index, index % 3] = (1 + index) / 9 / kernels
        head[index, index % 3] = 4 / (1 + index)
    return network(
        [
            make_node("Conv", ["images", "w"], ["c"], pads=[1] * 4),
            make_node("Relu", ["c"], ["r"]),
            make_node("GlobalAveragePool", ["r"], ["p"]),
            make_node("Flatten", ["p"], ["f"]),
            make_node("Gemm", ["f", "head"], ["logits"]),
            make_node("Softmax", ["logits"], ["probabilities"]),
        ],
        [("probabilities", TensorProto.FLOAT, [1, classes])],
        inputs=[("images", TensorProto.FLOAT, [1, 3, side, side])],
        weights={
            "w": kernels_of,
            "head": head,
        },
        metadata=metadata,
    )


def round_again() -> GraphProto:
    """The body of a Loop that changes nothing and never ends it."""
    return make_graph(
        [make_node("Identity", ["go"], ["on"]), make_node("Identity", ["v"], ["w"])],
        "body",
        [
            make_tensor_value_info("i", TensorProto.INT64, []),
            make_tensor_value_info("go", TensorProto.BOOL, []),
            make_tensor_value_info("v", TensorProto.FLOAT, []),
        ],
        [make_tensor_value_info("on", TensorProto.BOOL, []), make_tensor_value_info("w", TensorProto.FLOAT, [])],
    )


def goes_round() -> ModelProto:
    """A Loop that goes round as often as the input `trip` says."""
    nodes = [
        make_node("ReduceMean", ["images"], ["m"], keepdims=0),
        make_node("Loop", ["trip", "", "m"], ["y"], body=round_again()),
    ]
    return network(nodes, [("y", TensorProto.FLOAT, None)], inputs=[PICTURE, ("trip", TensorProto.INT64, [])])


def saved(model: ModelProto, file: Path) -> Path:
    """Write a model and return its file."""
    onnx.save(model, file)
    return file
