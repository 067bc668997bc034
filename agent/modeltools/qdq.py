"""Static quantisation to int8 with ONNX Runtime's quantiser, by presets for kinds of CPU."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto

from agent.engine.session import runtime_version  # Keeps ONNX Runtime from sending telemetry: before its import.
from agent.errors import ConfigError
from agent.frame import Tensor
from agent.modeltools.fold import share_constants
from agent.modeltools.presets import Preset
from agent.modeltools.room import check_room

Feed = dict[str, Tensor]

OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Clip", "Relu", "MaxPool")
"""With Clip among them the quantiser drops every ReLU6 and lets the range of the convolution's output saturate
instead: 0.68 of fp32's latency rather than 0.93 on an AVX2 core, at the same F1. Sigmoid and Exp stay in float."""


def quantize_qdq(
    model: Path,
    output: Path,
    feeds: Iterable[Feed],
    preset: Preset,
    *,
    operators: tuple[str, ...] = OPERATORS,
    excluded: Sequence[str] = (),
    is_folded: bool = False,
) -> None:
    """Write the int8 form of a float network: QDQ, per channel, ranges by MinMax over the feeds.

    Args:
        model: float network.
        output: file to write.
        feeds: inputs that fix the ranges of activations.
        preset: see `PRESETS`.
        operators: kinds that are quantised.
        excluded: names of nodes that stay in float.
        is_folded: constants and normalisations are folded already, so that ONNX Runtime need not do it.

    Raises:
        ConfigError: the quantiser refuses the network.
        OSError: the file cannot be written.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory(dir=output.parent) as folder:
        prepared = Path(folder) / "prepared.onnx"
        try:
            # ONNX's own shape inference is enough, and does not need sympy.
            quant_pre_process(str(model), str(prepared), skip_optimization=is_folded, skip_symbolic_shape=True)
            quantize_static(
                str(prepared),
                str(output),
                _Reader(feeds),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(operators),
                nodes_to_exclude=list(excluded),
                per_channel=True,
                reduce_range=preset.reduce_range,
                activation_type=QuantType.QInt8 if preset.activations_signed else QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
            )
        except OSError:
            raise
        except Exception as error:
            check_room(Path(folder), model.stat().st_size)
            text = " ".join(str(error).split())[:300]
            raise ConfigError(f"{model}: ONNX Runtime {runtime_version()} cannot quantise it: {text}") from error
    proto = onnx.load(output)
    if excluded:
        _keep_float(proto, set(excluded))
    # The quantiser gives each node its own scales and zero points: 258 of 748 constants of COCO-SSD.
    share_constants(proto)
    onnx.save(proto, output)


def _keep_float(proto: ModelProto, names: set[str]) -> None:
    """Put a Max that changes nothing before nodes that stay in float, so that they do stay in float.

    ONNX Runtime's WeightBiasQuantization (pull requests 22969 and 25673) turns float weights between quantised
    activations into int8 at load, with one scale for all channels: COCO-SSD with one layer in float then had a cosine
    of 0.72 with its float form. It looks for DequantizeLinear before the node; Max with the least float32 is not
    optimised away, as a product with 1 is.
    """
    made_by = {name: node.op_type for node in proto.graph.node for name in node.output}
    for at, node in reversed(list(enumerate(proto.graph.node))):
        if node.name in names and made_by.get(node.input[0]) == "DequantizeLinear":
            same = f"{node.name}:float"
            passing = onnx.helper.make_node("Max", [node.input[0], _LEAST], [same], name=same)
            node.input[0] = same
            proto.graph.node.insert(at, passing)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(np.finfo(np.float32).min), _LEAST))


_LEAST = "edgebeat:least_float32"


class _Reader:
    """Hands the feeds to the quantiser, which calls it a CalibrationDataReader and asks for this method alone."""

    def __init__(self, feeds: Iterable[Feed]) -> None:
        self._feeds: Iterator[Feed] = iter(feeds)

    def get_next(self) -> Feed | None:
        """Return the next feed, None after the last."""
        return next(self._feeds, None)
