"""Where a statically quantised network loses its accuracy: the error of each layer, in dB.

SQNR = 20 log10(|x| / |x - y|), x in float and y quantised, norms over all numbers of all samples: the formula of
onnxruntime.quantization.qdq_loss_debug (`compute_signal_to_quantization_noice_ratio`). Higher is better; 6 dB are one
bit.

Two figures a layer. `total_db` compares the network's activations behind the layer, errors of all layers before it
included: what qdq_loss_debug calls `xmodel_err`. `own_db` gives the layer the float network's own inputs, and
quantises them, its weights and its output: what this layer alone costs, which says which one should stay in float.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto

from agent.engine.session import SessionSetup, session_options  # Before ONNX Runtime: it keeps telemetry off.
from agent.errors import ConfigError
from agent.frame import Tensor
from agent.modeltools.agreement import is_numeric
from agent.modeltools.qdq import OPERATORS

SAMPLES_MAX = 8
"""Every activation of a network is computed without optimisation: enough to see which layer is worst."""

SQNR_MAX_DB = 120.0
"""Of a layer without any error: float32 itself has no more."""

_RENAMED = "_QuantizeLinear_Input"
"""What the quantiser appends to the name of an output of the network, whose name it gives to the dequantised one."""


@dataclass(frozen=True, slots=True)
class LayerError:
    """What quantisation does to one layer.

    Attributes:
        name: of the node, by which it can be kept in float.
        operator: its kind.
        own_db: SQNR behind it when only this layer is quantised.
        total_db: SQNR behind it in the whole quantised network. For dynamic quantisation both are of the network's
            outputs, the one that is worse.
    """

    name: str
    operator: str
    own_db: float
    total_db: float


@dataclass(frozen=True, slots=True)
class _Layer:
    """A layer and the names of its output: in the float network, alone, and in the whole quantised one."""

    node: NodeProto
    plain: str
    own: str
    total: str


@dataclass(slots=True)
class Powers:
    """Sums of squares over samples."""

    signal: float = 0.0
    noise: dict[str, float] = field(default_factory=lambda: {"own": 0.0, "total": 0.0})

    def add(self, wanted: Tensor, own: Tensor, total: Tensor) -> None:
        """Add one sample."""
        self.signal += _power(wanted)
        self.noise["own"] += _noise(wanted, own)
        self.noise["total"] += _noise(wanted, total)

    def sqnr_db(self, kind: str) -> float:
        """Return the ratio, held to what can be told in float32."""
        noise = max(self.noise[kind], 1e-30)
        return round(min(SQNR_MAX_DB, max(-SQNR_MAX_DB, 10 * math.log10(max(self.signal, 1e-30) / noise))), 2)


def measure_layers(
    folded: Path, quantized: Path, feeds: Sequence[Mapping[str, Tensor]], advance: Callable[[], None]
) -> tuple[LayerError, ...]:
    """Return the error of each quantised layer, the worst first.

    Args:
        folded: float network, from `fold`.
        quantized: what `quantize_qdq` made of it.
        feeds: inputs to compare with.
        advance: called after each of them.

    Raises:
        ConfigError: a network made for the comparison cannot be run.
        OSError: it cannot be written.
    """
    plain, graph = onnx.load(folded), _Graph(onnx.load(quantized))
    computed = {name for node in plain.graph.node for name in node.output}
    layers = graph.layers(computed)
    if not layers:
        return ()
    alone, given = graph.alone(layers)
    runs = {
        "plain": _open(folded.with_name("plain.onnx"), plain, {*(one.plain for one in layers), *(given & computed)}),
        "own": _open(folded.with_name("own.onnx"), alone, {one.own for one in layers}),
        "total": _open(folded.with_name("total.onnx"), graph.proto, {one.total for one in layers}),
    }
    powers = [Powers() for _ in layers]
    for feed in feeds:
        wanted = runs["plain"](feed)
        own = runs["own"]({name: wanted[name] if name in wanted else feed[name] for name in given})
        total = runs["total"](feed)
        for layer, power in zip(layers, powers, strict=True):
            power.add(wanted[layer.plain], own[layer.own], total[layer.total])
        advance()
    found = (
        LayerError(layer.node.name, layer.node.op_type, power.sqnr_db("own"), power.sqnr_db("total"))
        for layer, power in zip(layers, powers, strict=True)
    )
    return tuple(sorted(found, key=lambda error: (error.own_db, error.name)))


class _Graph:
    """The quantised network, with ways to find what stands before and behind a tensor."""

    def __init__(self, proto: ModelProto) -> None:
        self.proto = proto
        self._makers = {name: node for node in proto.graph.node for name in node.output}
        self._pairs: dict[str, tuple[NodeProto, NodeProto]] = {}
        for node in proto.graph.node:
            if node.op_type == "DequantizeLinear" and node.input[0] in self._makers:
                pair = self._makers[node.input[0]], node
                self._pairs.setdefault(pair[0].input[0], pair)

    def layers(self, known: set[str]) -> list[_Layer]:
        """Return the layers that compute with quantised numbers and whose output the float network has too."""
        layers = []
        for node in self.proto.graph.node:
            makers = [self._makers[name].op_type for name in node.input if name in self._makers]
            plain = node.output[0].removesuffix(_RENAMED)
            if node.op_type in OPERATORS and plain in known and "DequantizeLinear" in makers:
                pair = self._pairs.get(node.output[0])
                total = node.output[0] if pair is None else pair[1].output[0]
                layers.append(_Layer(node, plain, f"{plain}/own", total))
        return layers

    def alone(self, layers: Sequence[_Layer]) -> tuple[ModelProto, set[str]]:
        """Return a network in which each layer stands by itself, and the float tensors that it is given.

        Each output goes through the pair behind it: a ReLU that the quantiser dropped is in that pair's range.
        """
        nodes: dict[str, NodeProto] = {}
        given: set[str] = set()
        for layer in layers:
            inputs = [self._input_of(name, nodes, given) for name in layer.node.input]
            pair = self._pairs.get(layer.node.output[0])
            made = layer.own if pair is None else f"{layer.own}/float"
            nodes[made] = _copy(layer.node, inputs, made)
            if pair is not None:
                _add_pair(nodes, pair, made, layer.own)
        proto = ModelProto()
        proto.CopyFrom(self.proto)
        for field_name in ("node", "input", "output", "value_info"):
            proto.graph.ClearField(field_name)
        proto.graph.node.extend(nodes.values())
        proto.graph.input.extend(_float_port(name) for name in sorted(given))
        return proto, given

    def _input_of(self, name: str, nodes: dict[str, NodeProto], given: set[str]) -> str:
        """Add what makes one input of a layer: a weight, or a float tensor from outside that is quantised here."""
        maker = self._makers.get(name)
        if maker is None and name not in {port.name for port in self.proto.graph.input}:
            return name  # A constant, or nothing.
        if maker is not None and maker.op_type == "DequantizeLinear":
            if maker.input[0] not in self._makers:
                nodes[name] = maker
                return name
            source = self._makers[maker.input[0]].input[0].removesuffix(_RENAMED)
            given.add(source)
            quantized = f"{source}/given"
            if quantized not in nodes:
                _add_pair(nodes, (self._makers[maker.input[0]], maker), source, quantized)
            return quantized
        given.add(name.removesuffix(_RENAMED))
        return name.removesuffix(_RENAMED)


def _add_pair(nodes: dict[str, NodeProto], pair: tuple[NodeProto, NodeProto], source: str, target: str) -> None:
    """Add a copy of QuantizeLinear and DequantizeLinear from one tensor to another."""
    integers = f"{target}/int8"
    nodes[integers] = _copy(pair[0], [source, *pair[0].input[1:]], integers)
    nodes[target] = _copy(pair[1], [integers, *pair[1].input[1:]], target)


def _copy(node: NodeProto, inputs: Sequence[str], output: str) -> NodeProto:
    copied = NodeProto()
    copied.CopyFrom(node)
    copied.name = output
    copied.input[:] = inputs
    copied.output[:] = [output]
    return copied


def _float_port(name: str) -> Any:
    return onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, None)


def _open(file: Path, proto: ModelProto, outputs: set[str]) -> Callable[[Mapping[str, Tensor]], dict[str, Tensor]]:
    """Write a network that gives these outputs; return what runs it in float arithmetic."""
    import onnxruntime as ort

    proto.graph.ClearField("output")
    proto.graph.output.extend(_float_port(name) for name in sorted(outputs))
    onnx.save(proto, file)
    options = session_options(SessionSetup(), 1)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise ConfigError(f"{file.name}: the errors of layers cannot be measured: {text}") from error
    finally:
        file.unlink()

    def run(feed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(zip(sorted(outputs), session.run(sorted(outputs), dict(feed)), strict=True))

    return run


def _power(values: Tensor) -> float:
    """Return the sum of squares; texts and truth values count 1 each."""
    if not is_numeric(values):
        return float(values.size)
    flat = np.asarray(values, np.float64).ravel()
    return float(flat @ flat)


def _noise(wanted: Tensor, got: Tensor) -> float:
    """Return the power of the difference; all of the signal where the shapes differ."""
    if wanted.shape != got.shape:
        return _power(wanted)
    if not is_numeric(wanted):
        return float(np.count_nonzero(wanted != got))
    # In float64: integers without a sign would wrap around.
    return _power(wanted.astype(np.float64) - got.astype(np.float64))
