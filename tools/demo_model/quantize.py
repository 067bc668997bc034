"""Quantises the fp32 model to int8 with ONNX Runtime's static quantiser."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from tools.demo_model.pictures import CALIBRATION, load, mirrored, model_input

QUANTIZED_OPERATORS = ("Conv", "Add", "Clip")
"""With Clip among them the quantiser drops every ReLU6 and lets the range of the
convolution's output saturate instead: 0.68 of fp32's latency rather than 0.93 on an
AVX2 core, at the same F1. The head (Sigmoid, Exp, boxes) stays in fp32."""


class PictureReader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
    """Hands the calibration inputs to the quantiser one by one."""

    def __init__(self, inputs: Iterable[NDArray[np.uint8]]) -> None:
        """Takes inputs of uint8 [1, 300, 300, 3] RGB."""
        self._inputs = iter(inputs)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        """Returns the next feed, None after the last."""
        picture = next(self._inputs, None)
        return None if picture is None else {"images": picture}


def calibration_inputs(clip_frames: list[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
    """Collects the inputs that fix the activations' ranges, each uint8 [1, 300, 300, 3].

    They are the free colour pictures of scikit-image, each also mirrored, and the given
    frames of the demo clip.
    """
    pictures = [load(picture) for picture in CALIBRATION]
    every = [*pictures, *(mirrored(picture) for picture in pictures), *clip_frames]
    return [model_input(picture) for picture in every]


def quantize(model: Path, output: Path, inputs: list[NDArray[np.uint8]]) -> None:
    """Writes the int8 model: QDQ, per channel, uint8 activations, int8 weights of 7 bits.

    `reduce_range` keeps the weights to 7 bits. Without it, the 16-bit sums of AVX2's
    `vpmaddubsw` saturate on CPUs that lack VNNI, and this model detects nothing at all
    (tests/assets/cocossd_int8_pc_u8s8.onnx).
    """
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        # The converter has folded what there is to fold and every shape is fixed, so
        # that only ONNX's own shape inference is left to do (and sympy is not needed).
        quant_pre_process(str(model), str(prepared), skip_optimization=True, skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(output),
            PictureReader(inputs),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTIZED_OPERATORS),
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
