"""Converts COCO-SSD from a TensorFlow.js graph model to ONNX, with numpy and onnx only.

The graph is SSDLite-MobileNetV2. Batch normalisation and biases are folded into the
convolutions, so that what is left is Conv, Clip and Add: the operators that ONNX
Runtime can quantise. The loops for batching and resizing in front of the network and
the non-maximum suppression behind it are left out; decoding the boxes is kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tools.demo_model.pictures import INPUT_SIDE_PX
from tools.demo_model.tfjs import TfjsGraph, load_tfjs

OPSET = 18
IR_VERSION = 8

Float32 = NDArray[np.float32]
Shape = tuple[int, int, int]
"""Channels, height and width of an activation; the batch is always 1."""

NETWORK_INPUT = "Preprocessor/sub"
"""The node whose value is the scaled picture."""

BOX_BRANCHES = "concat"
CLASS_BRANCHES = "concat_1"
"""The nodes that join the six feature maps' predictions."""

CLASS_COUNT = 91
"""Class 0 is the background, class n the COCO category n."""

ANCHOR_COUNT = 1917
BOX_VARIANCES = (10.0, 5.0)
"""TF Object Detection's box coder divides offsets by 10 and log sizes by 5."""

REWRITTEN_ADD = "AddOpsRewrite_Leaf"
"""TensorFlow's optimiser splits `conv + shift + skip` into two nodes; the inner one is named so."""


@dataclass(frozen=True, slots=True)
class ConvChain:
    """A convolution followed by channel-wise constants: `scale * conv(x) + shift`."""

    conv: str
    """Name of the convolution's node."""

    scale: Float32
    """float32 [] or [C]."""

    shift: Float32
    """float32 [] or [C]."""

    def times(self, factor: Float32) -> ConvChain:
        """Multiplies the chain's result by a constant."""
        return ConvChain(self.conv, self.scale * factor, self.shift * factor)

    def plus(self, term: Float32) -> ConvChain:
        """Adds a constant to the chain's result."""
        return ConvChain(self.conv, self.scale, self.shift + term)


@dataclass(slots=True)
class GraphWriter:
    """Collects ONNX nodes and initializers; every node gives one tensor of its own name."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: dict[str, onnx.TensorProto] = field(default_factory=dict)

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Stores `value` once under `name` and returns the name."""
        self.initializers.setdefault(name, numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def node(self, operator: str, inputs: list[str], name: str, **attributes: Any) -> str:
        """Appends a node and returns the name of its only output."""
        self.nodes.append(helper.make_node(operator, inputs, [name], name, **attributes))
        return name


class NetworkConverter:
    """Walks from the predictions back to the picture and writes the network in NCHW."""

    def __init__(self, graph: TfjsGraph, writer: GraphWriter, picture: str) -> None:
        """Starts at `picture`, the name of the scaled float32 [1, 3, 300, 300] tensor."""
        self._graph = graph
        self._writer = writer
        self._tensors: dict[str, str] = {NETWORK_INPUT: picture}
        self._shapes: dict[str, Shape] = {picture: (3, INPUT_SIDE_PX, INPUT_SIDE_PX)}

    def branches(self, joint: str, last: int) -> str:
        """Writes the feature maps' predictions joined as [1, 1917, last]."""
        flat = []
        for reshape in self._graph.nodes[joint]["input"][:-1]:
            source = self._tensor(self._graph.nodes[reshape]["input"][0])
            rows = self._writer.node("Transpose", [source], f"{source}.nhwc", perm=[0, 2, 3, 1])
            shape = self._writer.constant(f"shape_{last}", np.array([1, -1, last], np.int64))
            flat.append(self._writer.node("Reshape", [rows, shape], f"{source}.flat"))
        return self._writer.node("Concat", flat, joint, axis=1)

    def _tensor(self, name: str) -> str:
        """Returns the ONNX tensor for a TensorFlow node, writing it when first asked for."""
        if name not in self._tensors:
            chain = self._chain(name)
            operator = self._graph.nodes[name]["op"]
            if chain is not None:
                self._tensors[name] = self._write_conv(chain, name)
            elif operator == "Relu6":
                self._tensors[name] = self._write_relu6(name)
            elif operator in {"Add", "AddN"}:
                self._tensors[name] = self._write_residual(name)
            else:
                raise NotImplementedError(f"{operator} at {name}")
        return self._tensors[name]

    def _chain(self, name: str) -> ConvChain | None:
        """Follows constants down to a convolution; None where something else comes first."""
        if name in self._graph.weights:
            return None
        node = self._graph.nodes[name]
        operator, inputs = node["op"], node.get("input", [])
        if operator in {"Conv2D", "DepthwiseConv2dNative"}:
            return ConvChain(name, np.ones((), np.float32), np.zeros((), np.float32))
        if operator == "FusedBatchNorm":
            below = self._chain(inputs[0])
            gamma, beta, mean, variance = (self._graph.weights[key] for key in inputs[1:5])
            factor = np.asarray(gamma / np.sqrt(variance + node["attr"]["epsilon"]["f"]), np.float32)
            return below and below.plus(-mean).times(factor).plus(beta)
        if operator in {"Add", "BiasAdd", "Mul"} and inputs[1] in self._graph.weights:
            below = self._chain(inputs[0])
            constant = self._graph.weights[inputs[1]]
            return below and (below.times(constant) if operator == "Mul" else below.plus(constant))
        return None

    def _write_conv(self, chain: ConvChain, name: str) -> str:
        """Writes `chain` as one Conv with folded weights and bias, padded as TensorFlow's SAME."""
        node = self._graph.nodes[chain.conv]
        if bytes(node["attr"]["padding"]["s"]) != b"SAME":
            raise NotImplementedError(f"{chain.conv}: only SAME padding is converted")
        source = self._tensor(node["input"][0])
        _, height, width = self._shapes[source]
        kernel = self._graph.weights[node["input"][1]]
        is_depthwise = node["op"] == "DepthwiseConv2dNative"
        kernel = kernel.transpose(2, 3, 0, 1) if is_depthwise else kernel.transpose(3, 2, 0, 1)
        channels, _, *kernel_shape = kernel.shape
        strides = [int(step) for step in node["attr"]["strides"]["list"]["i"]][1:3]
        rows, columns = -(-height // strides[0]), -(-width // strides[1])
        spare_rows = max((rows - 1) * strides[0] + kernel_shape[0] - height, 0)
        spare_columns = max((columns - 1) * strides[1] + kernel_shape[1] - width, 0)
        # SAME puts the odd row and column of padding at the bottom and on the right.
        before = [spare_rows // 2, spare_columns // 2]
        after = [spare_rows - before[0], spare_columns - before[1]]
        scale = np.broadcast_to(chain.scale, (channels,)).reshape(-1, 1, 1, 1)
        output = onnx_name(name)
        weight = self._writer.constant(f"{output}.weight", (kernel * scale).astype(np.float32))
        bias = np.broadcast_to(chain.shift, (channels,)).astype(np.float32)
        self._writer.node(
            "Conv",
            [source, weight, self._writer.constant(f"{output}.bias", bias)],
            output,
            kernel_shape=kernel_shape,
            strides=strides,
            pads=before + after,
            group=channels if is_depthwise else 1,
        )
        self._shapes[output] = (channels, rows, columns)
        return output

    def _write_relu6(self, name: str) -> str:
        source = self._tensor(self._graph.nodes[name]["input"][0])
        low = self._writer.constant("relu6_low", np.zeros((), np.float32))
        high = self._writer.constant("relu6_high", np.full((), 6, np.float32))
        output = self._writer.node("Clip", [source, low, high], onnx_name(name))
        self._shapes[output] = self._shapes[source]
        return output

    def _write_residual(self, name: str) -> str:
        """Writes `conv + shift + skip`; the shift goes into the convolution's bias."""
        terms = self._terms(name)
        shift = sum((self._graph.weights[term] for term in terms if term in self._graph.weights), np.float32(0))
        branch, skip = (term for term in terms if term not in self._graph.weights)
        chain = self._chain(branch)
        if chain is None:
            raise NotImplementedError(f"{name}: {branch} is no convolution")
        left = self._write_conv(chain.plus(np.asarray(shift, np.float32)), f"{name}/branch")
        right = self._tensor(skip)
        output = self._writer.node("Add", [left, right], onnx_name(name))
        self._shapes[output] = self._shapes[left]
        return output

    def _terms(self, name: str) -> list[str]:
        """Lists what an addition adds up, seen through the optimiser's inner node."""
        terms: list[str] = []
        for term in self._graph.nodes[name]["input"]:
            terms += self._terms(term) if REWRITTEN_ADD in term else [term]
        return terms


def onnx_name(name: str) -> str:
    """Turns a TensorFlow node name into a tensor name that is safe as a file name."""
    return name.replace("/", ".")


def write_scaling(writer: GraphWriter) -> str:
    """Writes uint8 [1, H, W, 3] 0..255 to float32 [1, 3, H, W] -1..1.

    The transpose comes first: moving bytes is 14 times cheaper than moving floats
    (1.8 ms against 26 ms for a 640x640 picture).
    """
    planes = writer.node("Transpose", ["images"], "planes", perm=[0, 3, 1, 2])
    floats = writer.node("Cast", [planes], "floats", to=TensorProto.FLOAT)
    scale = writer.constant("two_over_255", np.full((), 2 / 255, np.float32))
    scaled = writer.node("Mul", [floats, scale], "scaled")
    return writer.node("Sub", [scaled, writer.constant("one", np.ones((), np.float32))], "picture")


def write_scores(writer: GraphWriter, logits: str) -> None:
    """Writes `scores` float32 [1, 1917, 90] from logits [1, 1917, 91]: all but the background."""
    probabilities = writer.node("Sigmoid", [logits], "probabilities")
    start, end, axis = (
        writer.constant(name, np.array([value], np.int64))
        for name, value in (("first_object", 1), ("class_count", CLASS_COUNT), ("class_axis", 2))
    )
    writer.node("Slice", [probabilities, start, end, axis], "scores")


def write_boxes(writer: GraphWriter, codes: str, anchors: Float32) -> None:
    """Writes `boxes` float32 [1, 1917, 4] (ymin, xmin, ymax, xmax in 0..1).

    The formula is TF Object Detection's `FasterRcnnBoxCoder`: centre = code / 10 * anchor
    size + anchor centre; size = exp(code / 5) * anchor size.

    Args:
        writer: Takes the nodes.
        codes: Tensor [1, 1917, 4]: offset of the centre (y, x), log of the size (h, w).
        anchors: float32 [1917, 4], corners as in `boxes`.
    """
    size = anchors[:, 2:] - anchors[:, :2]
    centre = anchors[:, :2] + size / 2
    halves = writer.constant("code_split", np.array([2, 2], np.int64))
    writer.nodes.append(helper.make_node("Split", [codes, halves], ["offsets", "log_sizes"], "code_halves", axis=2))

    step = writer.constant("anchor_step", (size / BOX_VARIANCES[0])[np.newaxis].astype(np.float32))
    origin = writer.constant("anchor_centre", centre[np.newaxis].astype(np.float32))
    moved = writer.node("Mul", ["offsets", step], "centre_offset")
    box_centre = writer.node("Add", [moved, origin], "box_centre")

    fifth = writer.constant("log_size_scale", np.full((), 1 / BOX_VARIANCES[1], np.float32))
    half = writer.constant("anchor_half", (size / 2)[np.newaxis].astype(np.float32))
    growth = writer.node("Exp", [writer.node("Mul", ["log_sizes", fifth], "log_growth")], "growth")
    box_half = writer.node("Mul", [growth, half], "box_half")

    low = writer.node("Sub", [box_centre, box_half], "box_low")
    high = writer.node("Add", [box_centre, box_half], "box_high")
    writer.node("Concat", [low, high], "boxes", axis=2)


def find_anchors(graph: TfjsGraph) -> Float32:
    """Finds the only constant shaped like the anchors, float32 [1917, 4] in corners."""
    found = [value for value in graph.weights.values() if value.shape[-2:] == (ANCHOR_COUNT, 4)]
    if len(found) != 1:
        raise ValueError(f"expected one constant with {ANCHOR_COUNT} anchors, found {len(found)}")
    return found[0].reshape(ANCHOR_COUNT, 4).astype(np.float32)


def convert(folder: Path, output: Path) -> None:
    """Converts the graph model in `folder` to an fp32 ONNX model at `output`.

    Input `images`: uint8 [1, 300, 300, 3] RGB. Outputs `boxes`: float32 [1, 1917, 4]
    (ymin, xmin, ymax, xmax in 0..1) and `scores`: float32 [1, 1917, 90], whose index is
    the COCO category id minus 1.
    """
    graph = load_tfjs(folder)
    writer = GraphWriter()
    network = NetworkConverter(graph, writer, write_scaling(writer))
    write_scores(writer, network.branches(CLASS_BRANCHES, CLASS_COUNT))
    write_boxes(writer, network.branches(BOX_BRANCHES, 4), find_anchors(graph))
    side = INPUT_SIDE_PX
    picture = helper.make_tensor_value_info("images", TensorProto.UINT8, [1, side, side, 3])
    boxes = helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [1, ANCHOR_COUNT, 4])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, ANCHOR_COUNT, CLASS_COUNT - 1])
    model = helper.make_model(
        helper.make_graph(writer.nodes, "coco-ssd", [picture], [boxes, scores], list(writer.initializers.values())),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="edgebeat-build-demo-model",
    )
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, output)
