"""Quantises the fp32 model to int8 with the preset of `edgebeat model quantize`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agent.modeltools.qdq import PRESETS, quantize_qdq
from tools.demo_model.pictures import CALIBRATION, load, mirrored, model_input

QUANTIZED_OPERATORS = ("Conv", "Add", "Clip")
"""All that the network has of what can be quantised."""


def calibration_inputs(clip_frames: list[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
    """Collects the inputs that fix the activations' ranges, each uint8 [1, 300, 300, 3].

    They are the free colour pictures of scikit-image, each also mirrored, and the given
    frames of the demo clip.
    """
    pictures = [load(picture) for picture in CALIBRATION]
    every = [*pictures, *(mirrored(picture) for picture in pictures), *clip_frames]
    return [model_input(picture) for picture in every]


def quantize(model: Path, output: Path, inputs: list[NDArray[np.uint8]]) -> None:
    """Writes the int8 model, with weights of 7 bits: it must be right on every x86-64.

    Weights of 8 bits saturate without VNNI: tests/assets/cocossd_int8_pc_u8s8.onnx. The
    converter has folded what there is to fold.
    """
    feeds = ({"images": picture} for picture in inputs)
    quantize_qdq(model, output, feeds, PRESETS["avx2"], operators=QUANTIZED_OPERATORS, is_folded=True)
