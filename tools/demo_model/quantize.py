"""Quantises the fp32 model to int8 with the preset of `edgebeat model quantize`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from agent.modeltools.presets import PRESETS
from agent.modeltools.qdq import quantize_qdq
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
    shorten_names(output)


def shorten_names(model: Path) -> None:
    """Numbers what lies between a network's inputs and outputs, and forgets the shapes that were noted there.

    TensorFlow's names are 90 characters long and stand in each operator: 5% of the file, and of the time in which
    ONNX Runtime makes a session of it 8%. What it needs to know of shapes it infers.
    """
    network = onnx.load(model)
    graph = network.graph
    assert all(not attribute.HasField("g") for node in graph.node for attribute in node.attribute), "has subgraphs"
    short = {port.name: port.name for port in (*graph.input, *graph.output)} | {"": ""}
    for node in graph.node:
        node.name = ""
        for names in (node.input, node.output):
            names[:] = [short.setdefault(name, f"{len(short):x}") for name in names]
    for constant in graph.initializer:
        constant.name = short[constant.name]
    del graph.value_info[:]
    onnx.save(network, model)
