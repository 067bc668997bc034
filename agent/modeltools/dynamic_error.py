"""Where a dynamically quantised network loses its accuracy: what each layer alone does to the outputs, in dB.

A recurrent network has few layers, and few tensors of its float form survive: each layer is quantised by itself, and
the outputs are compared. The formula is that of `layer_error`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import onnx

from agent.engine.session import OrtEngine
from agent.frame import Tensor
from agent.modeltools.dynamic import dynamic_layers, quantize_dynamically
from agent.modeltools.layer_error import LayerError, Powers
from agent.modeltools.presets import Preset

Outputs = list[list[Tensor]]
"""Of each sample, in the network's order."""


def measure_dynamic_layers(
    folded: Path, quantized: Path, preset: Preset, feeds: Sequence[Mapping[str, Tensor]], advance: Callable[[], None]
) -> tuple[LayerError, ...]:
    """Return the error of each layer, the worst first.

    Args:
        folded: float network, from `fold`.
        quantized: what `quantize_dynamically` made of it.
        preset: it was made with.
        feeds: inputs to compare with, states of the float network among them.
        advance: called after each layer.

    Raises:
        ConfigError: a network made for the comparison cannot be made.
        OSError: it cannot be written.
    """
    layers = dynamic_layers(onnx.load(folded))
    wanted, total = _outputs(folded, feeds), _outputs(quantized, feeds)
    file = folded.with_name("one.onnx")
    errors = []
    for layer in layers:
        others = [other.name for other in layers if other.name != layer.name]
        quantize_dynamically(folded, file, preset, others)
        own = _outputs(file, feeds)
        file.unlink()
        errors.append(_error(layer.name, layer.op_type, wanted, own, total))
        advance()
    return tuple(sorted(errors, key=lambda error: (error.own_db, error.name)))


def _error(name: str, operator: str, wanted: Outputs, own: Outputs, total: Outputs) -> LayerError:
    powers = [Powers() for _ in wanted[0]]
    for sample in zip(wanted, own, total, strict=True):
        for power, tensors in zip(powers, zip(*sample, strict=True), strict=True):
            power.add(*tensors)
    worst = {kind: min(power.sqnr_db(kind) for power in powers) for kind in ("own", "total")}
    return LayerError(name, operator, worst["own"], worst["total"])


def _outputs(file: Path, feeds: Sequence[Mapping[str, Tensor]]) -> Outputs:
    engine = OrtEngine(file, threads=1, sha256=None)
    return [engine.run(feed, engine.new_abort()) for feed in feeds]
