"""Counts the work of one run: operators, and multiply-accumulates (MACs) of the layers that dominate.

| operator | MACs |
|---|---|
| Conv, QLinearConv, ConvInteger | outputs x kernel area x input channels / groups |
| ConvTranspose | inputs x kernel area x output channels / groups |
| Gemm, MatMul, QLinearMatMul, MatMulInteger | outputs x length of the summed axis |
| GRU, LSTM, RNN | steps x batch x numbers in W and R |

Nothing else is counted: activations, pooling, normalisation, attention operators, and whatever stands in the bodies
of If, Loop, Scan and local functions. Shapes are inferred in a child process within limits: `work_child`.
"""

from __future__ import annotations

import base64
import math
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from google.protobuf import message as protobuf
from onnx import ModelProto, NodeProto

from agent.child import stream_child
from agent.modeltools.network import Network, Port, all_nodes

WEIGHT_AT = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3}
STEPS = ("GRU", "LSTM", "RNN")
FACTOR_AT = {"Gemm": 0, "MatMul": 0, "MatMulInteger": 0, "QLinearMatMul": 0}

INFERENCE_LIMIT_S = 30.0
"""For a child that ends itself after 8 s of CPU time: other work may have the CPU meanwhile."""

LAYER_MACS_MAX = 1 << 63
"""Of one layer. More than a century's work of any device is no layer, and as many digits as dimensions no figure."""

NOT_COUNTED = (
    "only Conv, ConvTranspose, Gemm, MatMul, their integer forms, GRU, LSTM and RNN are counted; activations, "
    "pooling, normalisation, attention operators and the bodies of If, Loop, Scan and functions are not"
)


@dataclass(frozen=True, slots=True)
class Work:
    """What one run does.

    Attributes:
        operators: how many of each, most frequent first; bodies and functions included.
        macs: multiply-accumulates, see the module.
        unknown: layers of a counted kind whose shapes could not be inferred.
        shapes: of outputs after inference, where they became known.
    """

    operators: dict[str, int]
    macs: int
    unknown: int
    outputs: tuple[Port, ...]


def count_work(network: Network, sizes: Mapping[str, tuple[int, ...]]) -> Work:
    """Count operators and MACs.

    Args:
        network: as read.
        sizes: shapes to assume for inputs by name, where the network leaves them open.
    """
    names = [f"{node.domain}:{node.op_type}" if node.domain else node.op_type for node in all_nodes(network.proto)]
    operators = dict(Counter(names).most_common())
    reply = _in_child(network.proto, sizes)
    given = {name: tuple(shape) for name, shape in reply.get("outputs", {}).items() if shape is not None}
    outputs = tuple(Port(port.name, port.dtype, given.get(port.name, port.shape)) for port in network.outputs)
    if not reply:
        return Work(operators, 0, sum(node.op_type in COUNTED for node in network.proto.graph.node), outputs)
    return Work(operators, reply["macs"], reply["unknown"], outputs)


def count_layers(proto: ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, int]:
    """Return the MACs of a graph's layers, and how many layers of a counted kind have shapes that are not known."""
    macs = unknown = 0
    for node in proto.graph.node:
        if node.op_type in COUNTED:
            own = _macs(node, shapes)
            is_known = own is not None and own <= LAYER_MACS_MAX
            macs, unknown = macs + (own or 0) * is_known, unknown + (not is_known)
    return macs, unknown


def _in_child(proto: ModelProto, sizes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Return the last that the child knew before it ended, however that was; nothing where it knew nothing."""
    job = {"model": base64.b64encode(proto.SerializeToString()).decode("ascii"), "sizes": sizes}
    try:
        reply, _ = stream_child("agent.modeltools.work_child", job, INFERENCE_LIMIT_S, lambda _: None)
    except subprocess.TimeoutExpired:
        return {}
    return reply


COUNTED = frozenset({*WEIGHT_AT, *FACTOR_AT, *STEPS, "ConvTranspose"})


def _macs(node: NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    if node.op_type in STEPS:
        given, weights, recurrent = (shapes.get(name) for name in (*node.input, "", "", "")[:3])
        if not given or not weights or not recurrent:
            return None
        return math.prod(given[:2]) * (math.prod(weights) + math.prod(recurrent))
    if node.op_type == "ConvTranspose":
        given, kernel = (shapes.get(name) for name in (*node.input, "", "")[:2])
        # A kernel is [inputs, outputs / groups, *area].
        return math.prod(given) * math.prod(kernel[1:]) if given and kernel else None
    output = shapes.get(node.output[0]) if node.output else None
    is_conv = node.op_type in WEIGHT_AT
    at = (WEIGHT_AT if is_conv else FACTOR_AT)[node.op_type]
    other = shapes.get(node.input[at]) if len(node.input) > at else None
    if output is None or not other:
        return None
    if is_conv:
        # A kernel is [outputs, inputs / groups, *area], so groups are in it already.
        return math.prod(output) * math.prod(other[1:])
    is_transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return math.prod(output) * other[0 if is_transposed else -1]


def infer(
    proto: ModelProto, sizes: Mapping[str, Sequence[int]], *, is_deep: bool
) -> dict[str, tuple[int, ...]] | None:
    """Return every shape that is known in numbers after shape inference; to be called in a child process only.

    Args:
        proto: the model.
        sizes: as `count_work`.
        is_deep: also follow the numbers that shapes are computed from, which can be gigabytes; None where that fails.
    """
    asked = ModelProto()
    asked.CopyFrom(proto)
    for value in asked.graph.input:
        if value.name in sizes:
            for dim, size in zip(value.type.tensor_type.shape.dim, sizes[value.name], strict=False):
                dim.dim_value = size
    if sizes:
        for value in asked.graph.output:  # Stated with the names that have just become numbers.
            value.type.tensor_type.ClearField("shape")
    try:
        inferred = onnx.shape_inference.infer_shapes(asked, data_prop=is_deep)
    except _REFUSALS:
        # Its C++ refuses in many ways what a checker lets pass; the count then says what it does not know.
        if is_deep:
            return None
        inferred = asked
    graph = inferred.graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(
            dim.HasField("dim_value") and dim.dim_value >= 0 for dim in dims
        ):
            shapes[value.name] = tuple(int(dim.dim_value) for dim in dims)
    return shapes


_REFUSALS = (
    onnx.shape_inference.InferenceError,
    onnx.checker.ValidationError,
    protobuf.Error,
    RuntimeError,
    ValueError,
    TypeError,
    MemoryError,
)
