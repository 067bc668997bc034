"""Dynamic quantisation, for networks that remember: nothing has to be calibrated, ranges are found in each run.

ONNX Runtime has integer kernels of this kind for MatMul and LSTM (`DynamicQuantizeLSTM`). GRU and Conv have none that
are worth it: their weights are stored as int8, a scale for each output channel, and turned into float in each run: a
quarter of the bytes, for some time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from agent.engine.session import runtime_version  # Keeps ONNX Runtime from sending telemetry: before its import.
from agent.errors import ConfigError
from agent.modeltools.network import all_nodes
from agent.modeltools.presets import Preset
from agent.modeltools.room import check_room

RECURRENT = frozenset({"GRU", "LSTM", "RNN"})

OPERATORS = ("MatMul", "LSTM")
"""ConvInteger exists and is left out: on an AVX2 core it makes silero-vad 1.06 times slower, and moves its state by
1.5 after one window of noise, where DynamicQuantizeLSTM alone moves it by 0.03."""

STORED = {"Conv": {1: 0}, "GRU": {1: 1, 2: 1}, "RNN": {1: 1, 2: 1}}
"""By operator: which inputs are weights, and the axis of their output channels."""

STORED_ELEMENTS_MIN = 1024
"""Smaller weights stay as they are: scales and a node would cost more than they save."""

OPSET_MIN = 13
"""From here on DequantizeLinear takes a scale for each channel."""


def recurrent_operators(proto: ModelProto) -> list[str]:
    """Return the kinds of recurrent operators in a network, bodies included, in alphabetical order."""
    return sorted({node.op_type for node in all_nodes(proto)} & RECURRENT)


def dynamic_layers(proto: ModelProto) -> list[NodeProto]:
    """Return the nodes that dynamic quantisation changes, bodies included; Gemm becomes MatMul on the way."""
    kinds = {*OPERATORS, *STORED, "Gemm"}
    return [node for node in all_nodes(proto) if node.op_type in kinds]


def quantize_dynamically(folded: Path, output: Path, preset: Preset, excluded: Collection[str] = ()) -> None:
    """Write the dynamic int8 form of a float network.

    Args:
        folded: float network, from `fold`.
        output: file to write.
        preset: weights of 7 bits for MatMul and LSTM where it says so; stored weights have 8, as they meet no kernel.
        excluded: names of nodes that stay in float.

    Raises:
        ConfigError: the quantiser refuses the network.
        OSError: the file cannot be written.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = output.with_name("prepared.onnx")
    try:
        quant_pre_process(str(folded), str(prepared), skip_optimization=True, skip_symbolic_shape=True)
        quantize_dynamic(
            str(prepared),
            str(output),
            op_types_to_quantize=list(OPERATORS),
            # The quantiser's name for what a Gemm becomes.
            nodes_to_exclude=[*excluded, *(f"{name}_MatMul" for name in excluded)],
            per_channel=True,
            reduce_range=preset.reduce_range,
            weight_type=QuantType.QInt8,
            extra_options={"EnableSubgraph": True},
        )
        stored = _store_weights(onnx.load(output), excluded)
    except OSError:
        raise
    except Exception as error:
        check_room(output.parent, folded.stat().st_size)
        text = " ".join(str(error).split())[:300]
        raise ConfigError(f"{folded}: ONNX Runtime {runtime_version()} cannot quantise it: {text}") from error
    finally:
        prepared.unlink(missing_ok=True)
    onnx.save(stored, output)


@dataclass(frozen=True, slots=True)
class _Weight:
    """A weight and the graph that owns it: names of sibling bodies may be the same."""

    graph: GraphProto
    tensor: TensorProto


def _store_weights(proto: ModelProto, excluded: Collection[str]) -> ModelProto:
    """Turn the weights of `STORED` into int8 with a scale for each output channel, symmetric, 127 steps a side."""
    opset = next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), OPSET_MIN)
    if opset < OPSET_MIN:
        proto = onnx.version_converter.convert_version(proto, OPSET_MIN)
    scopes = list(_scopes([proto.graph]))
    stored: dict[tuple[int, str], str] = {}
    for scope in scopes:
        for node in list(scope[-1].node):
            if node.name in excluded:
                continue
            for at, axis in STORED.get(node.op_type, {}).items():
                weight = _weight(scope, node.input[at])
                if weight is None:
                    continue
                key = (id(weight.graph), node.input[at])
                if key not in stored:
                    stored[key] = _store(weight, axis)
                node.input[at] = stored[key]
    used = {name for scope in scopes for node in scope[-1].node for name in node.input}
    for scope in scopes:
        for tensor in list(scope[-1].initializer):
            if (id(scope[-1]), tensor.name) in stored and tensor.name not in used:
                scope[-1].initializer.remove(tensor)
    return proto


def _scopes(scope: Sequence[GraphProto]) -> Iterator[Sequence[GraphProto]]:
    """Yield each graph behind those that it sees names of."""
    yield scope
    for node in list(scope[-1].node):
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _scopes([*scope, attribute.g])


def _weight(scope: Sequence[GraphProto], name: str) -> _Weight | None:
    """Return a float weight that is large enough; None for everything else."""
    for graph in reversed(scope):
        for tensor in graph.initializer:
            if tensor.name == name:
                is_meant = tensor.data_type == TensorProto.FLOAT and np.prod(tensor.dims) >= STORED_ELEMENTS_MIN
                return _Weight(graph, tensor) if is_meant else None
    return None


def _store(weight: _Weight, axis: int) -> str:
    """Replace a weight by its int8 form; return the name of what is dequantised from it."""
    name = weight.tensor.name
    values: Any = onnx.numpy_helper.to_array(weight.tensor)
    others = tuple(other for other in range(values.ndim) if other != axis)
    scales = np.maximum(np.abs(values).max(axis=others, keepdims=True), 1e-12) / 127
    steps = np.rint(values / scales).astype(np.int8)
    integers, scale, floats = f"{name}_int8", f"{name}_scale", f"{name}_float"
    weight.graph.initializer.extend(
        [
            onnx.numpy_helper.from_array(steps, integers),
            onnx.numpy_helper.from_array(scales.ravel().astype(np.float32), scale),
        ]
    )
    node = onnx.helper.make_node("DequantizeLinear", [integers, scale], [floats], name=floats, axis=axis)
    weight.graph.node.insert(0, node)
    return floats
