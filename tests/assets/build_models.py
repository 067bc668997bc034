"""Writes the small model folders that tests and benchmarks use, byte for byte the same on every machine.

    python tests/assets/build_models.py [--output tests/assets/models]

Needs onnx (the extra `tools`). Every folder holds `model.onnx` and `model.toml`, and labels where it classifies:

- `slow`: 34 convolutions in a row, 150-200 ms on one thread of a 2.4 GHz EPYC; many operators, so an abort is
  honoured within one of them (5 ms).
- `slow100`: the same with 36, about 100 ms on the two threads of that machine: the overload benchmark.
- `tiny`: below 1 ms; names the colour of the picture: blue, green, red or other. Has a golden sample.
- `letterbox`: float32 NCHW with mean, std and letterbox; publishes the mean of each 8x8 block of its input.
- `nan`: scores are 0/0 when no pixel is brighter than 16, and the mean colour's shares otherwise. It has a golden
  sample because a warm-up without one uses a black picture, for which the model is refused.
- `slow25`: with 9 convolutions on half the size, about 25 ms on one thread; many cameras on one model.
- `ladder`: as `slow` with a symbolic size and a lighter variant, `small`, of a quarter of the pixels.
- `giant`: one operator of about 1 s, the last one, so `RunOptions.terminate` neither stops it nor raises.
- `stuck`: one operator that takes no time on a black picture, with which it is warmed up, and 20 s on a
  bright one: an inference that hangs.
- `dynamic`: batch, height and width are symbolic.
- `two_inputs`: takes a second input, which no manifest can describe.
- `float16_in`: takes float16, which no manifest can express.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, ValueInfoProto
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info
from onnx.numpy_helper import from_array

OPSET = 17
IR_VERSION = 8
"""Both fixed and old enough for every supported ONNX Runtime, so that a newer onnx package writes the same."""

CHANNELS = 32
SLOW_SIDE = 160
GIANT_SIDE = 750
"""4 x 750^3 multiplications of int64, for which ONNX Runtime has no fast kernel: about 1 s, in 4 x 4.5 MB."""

STUCK_SIDE = 2000
"""Of the matrices when a pixel is brighter than 15: (2000 / 750)^3 is 19 times the work of `giant`."""

COLORS = ("blue", "green", "red", "other")
PAIRS = ("up", "down", "left", "right")

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Fixture:
    """One model folder.

    Attributes:
        inputs: the network's inputs as (name, element type, shape).
        output: the network's output, likewise.
        manifest: `[input]`, and `[decoder]` under its own key.
        picture: golden sample, uint8 [H, W, 3] RGB, with `expected`, its payload.
    """

    name: str
    task: str
    nodes: Sequence[NodeProto]
    weights: dict[str, Array]
    inputs: Sequence[tuple[str, int, Sequence[int | str]]]
    output: tuple[str, int, Sequence[int | str]]
    input_section: dict[str, Any]
    decoder_section: dict[str, Any]
    labels: Sequence[str] = ()
    picture: Array | None = None
    expected: dict[str, Any] = field(default_factory=dict)
    variants: Sequence[dict[str, Any]] = ()


def fixtures() -> Iterator[Fixture]:
    """Yield every folder that is written."""
    yield slow("slow", convolutions=34)
    yield slow("slow100", convolutions=36)
    yield slow("slow25", convolutions=9, side=80)
    yield slow("ladder", convolutions=34, variants=[{"name": "small", "width": 80, "height": 80}])
    yield _tiny()
    yield _letterbox()
    yield _nan()
    yield _giant()
    yield _stuck()
    yield _dynamic()
    yield _two_inputs()
    yield _float16_in()


def slow(name: str, *, convolutions: int, side: int = SLOW_SIDE, variants: Sequence[dict[str, Any]] = ()) -> Fixture:
    """A chain of convolutions that share one weight: 5 ms each on one thread, 37 kB for all of them."""
    nodes = [
        make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        make_node("Mul", ["pixels", "scale"], ["scaled"]),
        make_node("Conv", ["scaled", "first"], ["c0"], pads=[1] * 4),
        make_node("Relu", ["c0"], ["x0"]),
    ]
    for i in range(convolutions):
        nodes.append(make_node("Conv", [f"x{i}", "shared"], [f"c{i + 1}"], pads=[1] * 4))
        nodes.append(make_node("Relu", [f"c{i + 1}"], [f"x{i + 1}"]))
    nodes.append(make_node("GlobalAveragePool", [f"x{convolutions}"], ["pooled"]))
    nodes.append(make_node("Flatten", ["pooled"], ["flat"]))
    nodes.append(make_node("Gemm", ["flat", "head"], ["scores"]))
    return Fixture(
        name=name,
        task="classification",
        nodes=nodes,
        weights={
            "scale": np.array(1 / 255, np.float32),
            "first": _weights(CHANNELS, 3, 3, 3),
            "shared": _weights(CHANNELS, CHANNELS, 3, 3),
            "head": _weights(CHANNELS, len(PAIRS)),
        },
        inputs=[("images", TensorProto.UINT8, [1, 3, *(("height", "width") if variants else (side, side))])],
        output=("scores", TensorProto.FLOAT, [1, len(PAIRS)]),
        input_section=_input("NCHW", "uint8", side, side),
        decoder_section=_classification("softmax"),
        labels=PAIRS,
        variants=variants,
    )


def _tiny() -> Fixture:
    """Mean colour -> scores: pure blue, green and red win by themselves, anything mixed is "other"."""
    # Columns are COLORS, rows the mean red, green and blue in 0..1; "other" has a constant score of half.
    head = np.array([[-8, -8, 8, 0], [-8, 8, -8, 0], [8, -8, -8, 0]], np.float32)
    bias = np.array([0, 0, 0, 4], np.float32)
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[:, :, 2] = 250
    picture[:16, :8] = (200, 60, 20)
    logits = (picture.mean(axis=(0, 1)) / 255) @ head + bias
    scores = np.exp(logits - logits.max())
    scores /= scores.sum()
    return Fixture(
        name="tiny",
        task="classification",
        nodes=[
            make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
            make_node("ReduceMean", ["pixels"], ["mean"], axes=[1, 2], keepdims=0),
            make_node("Mul", ["mean", "scale"], ["color"]),
            make_node("Gemm", ["color", "head", "bias"], ["scores"]),
        ],
        weights={"scale": np.array(1 / 255, np.float32), "head": head, "bias": bias},
        inputs=[("images", TensorProto.UINT8, [1, 32, 32, 3])],
        output=("scores", TensorProto.FLOAT, [1, len(COLORS)]),
        input_section=_input("NHWC", "uint8", 32, 32),
        decoder_section=_classification("softmax"),
        labels=COLORS,
        picture=picture,
        expected=_classes(scores, COLORS),
    )


def _letterbox() -> Fixture:
    """The mean of each 8x8 block of the input, as [1, 3, 8, 8]: what preprocessing made of the frame."""
    return Fixture(
        name="letterbox",
        task="raw",
        nodes=[make_node("AveragePool", ["images"], ["blocks"], kernel_shape=[8, 8], strides=[8, 8])],
        weights={},
        inputs=[("images", TensorProto.FLOAT, [1, 3, 64, 64])],
        output=("blocks", TensorProto.FLOAT, [1, 3, 8, 8]),
        input_section=_input(
            "NCHW",
            "float32",
            64,
            64,
            resize="letterbox",
            pad=114,
            mean=[0.485, 0.456, 0.406],
            std=[0.229, 0.224, 0.225],
        ),
        decoder_section={"name": "raw", "outputs": ["blocks"]},
    )


def _nan() -> Fixture:
    """Shares of the colours in what is brighter than 16: 0/0 for a dark picture, in spite of a codec's noise."""
    picture = np.full((32, 32, 3), (166, 66, 41), np.uint8)
    bright = picture[0, 0].astype(np.float64) - 16
    return Fixture(
        name="nan",
        task="classification",
        nodes=[
            make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
            make_node("Sub", ["pixels", "dark"], ["above"]),
            make_node("Relu", ["above"], ["bright"]),
            make_node("ReduceMean", ["bright"], ["mean"], axes=[1, 2], keepdims=0),
            make_node("ReduceSum", ["mean", "channels"], ["total"], keepdims=1),
            make_node("Div", ["mean", "total"], ["scores"]),
        ],
        weights={"dark": np.array(16, np.float32), "channels": np.array([1], np.int64)},
        inputs=[("images", TensorProto.UINT8, [1, 32, 32, 3])],
        output=("scores", TensorProto.FLOAT, [1, 3]),
        input_section=_input("NHWC", "uint8", 32, 32),
        decoder_section=_classification("none"),
        labels=("red", "green", "blue"),
        picture=picture,
        expected=_classes(bright / bright.sum(), ("red", "green", "blue")),
    )


def _giant() -> Fixture:
    """The trace of a product of three big matrices in one Einsum; an operator after it would see the abort.

    The matrices are made from the picture at run time: constants would be multiplied once, while loading.
    """
    side = GIANT_SIDE
    return Fixture(
        name="giant",
        task="classification",
        nodes=[
            make_node("Cast", ["images"], ["pixels"], to=TensorProto.INT64),
            make_node("ReduceMax", ["pixels"], ["brightest"], keepdims=0),
            make_node("Expand", ["brightest", "matrix"], ["a"]),
            make_node("Expand", ["brightest", "matrices"], ["b"]),
            make_node("Einsum", ["b", "a", "a"], ["scores"], equation="bcij,jk,ki->bc"),
        ],
        weights={
            "matrix": np.array([side, side], np.int64),
            "matrices": np.array([1, len(PAIRS), side, side], np.int64),
        },
        inputs=[("images", TensorProto.UINT8, [1, 32, 32, 3])],
        output=("scores", TensorProto.INT64, [1, len(PAIRS)]),
        input_section=_input("NHWC", "uint8", 32, 32),
        decoder_section=_classification("softmax"),
        labels=PAIRS,
    )


def _stuck() -> Fixture:
    """As `giant`, with matrices of side 8 for a black picture."""
    return Fixture(
        name="stuck",
        task="classification",
        nodes=[
            make_node("Cast", ["images"], ["pixels"], to=TensorProto.INT64),
            make_node("ReduceMax", ["pixels"], ["brightest"], keepdims=0),
            make_node("Div", ["brightest", "dark"], ["sixteenths"]),
            make_node("Min", ["sixteenths", "yes"], ["is_bright"]),
            make_node("Mul", ["is_bright", "bright_side"], ["growth"]),
            make_node("Add", ["growth", "least"], ["side"]),
            make_node("Concat", ["side", "side"], ["matrix"], axis=0),
            make_node("Concat", ["one", "pairs", "side", "side"], ["matrices"], axis=0),
            make_node("Expand", ["brightest", "matrix"], ["a"]),
            make_node("Expand", ["brightest", "matrices"], ["b"]),
            make_node("Einsum", ["b", "a", "a"], ["scores"], equation="bcij,jk,ki->bc"),
        ],
        weights={
            "dark": np.array(16, np.int64),
            "yes": np.array(1, np.int64),
            "bright_side": np.array(STUCK_SIDE, np.int64),
            "least": np.array([8], np.int64),
            "one": np.array([1], np.int64),
            "pairs": np.array([len(PAIRS)], np.int64),
        },
        inputs=[("images", TensorProto.UINT8, [1, 32, 32, 3])],
        output=("scores", TensorProto.INT64, [1, len(PAIRS)]),
        input_section=_input("NHWC", "uint8", 32, 32),
        decoder_section=_classification("softmax"),
        labels=PAIRS,
    )


def _dynamic() -> Fixture:
    return Fixture(
        name="dynamic",
        task="classification",
        nodes=[
            make_node("GlobalAveragePool", ["images"], ["pooled"]),
            make_node("Flatten", ["pooled"], ["flat"]),
            make_node("Gemm", ["flat", "head"], ["scores"]),
        ],
        weights={"head": _weights(3, len(PAIRS))},
        inputs=[("images", TensorProto.FLOAT, ["batch", 3, "height", "width"])],
        output=("scores", TensorProto.FLOAT, ["batch", len(PAIRS)]),
        input_section=_input("NCHW", "float32", 64, 48),
        decoder_section=_classification("softmax"),
        labels=PAIRS,
    )


def _two_inputs() -> Fixture:
    return Fixture(
        name="two_inputs",
        task="raw",
        nodes=[
            make_node("GlobalAveragePool", ["images"], ["pooled"]),
            make_node("Flatten", ["pooled"], ["flat"]),
            make_node("Sub", ["flat", "threshold"], ["scores"]),
        ],
        weights={},
        inputs=[("images", TensorProto.FLOAT, [1, 3, 32, 32]), ("threshold", TensorProto.FLOAT, [1])],
        output=("scores", TensorProto.FLOAT, [1, 3]),
        input_section=_input("NCHW", "float32", 32, 32),
        decoder_section={"name": "raw"},
    )


def _float16_in() -> Fixture:
    return Fixture(
        name="float16_in",
        task="raw",
        nodes=[
            make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
            make_node("GlobalAveragePool", ["pixels"], ["pooled"]),
            make_node("Flatten", ["pooled"], ["scores"]),
        ],
        weights={},
        inputs=[("images", TensorProto.FLOAT16, [1, 3, 32, 32])],
        output=("scores", TensorProto.FLOAT, [1, 3]),
        input_section=_input("NCHW", "float16", 32, 32),
        decoder_section={"name": "raw"},
    )


def _input(layout: str, dtype: str, width: int, height: int, **more: Any) -> dict[str, Any]:
    size = {"width": width, "height": height}
    return {"name": "images", "layout": layout, "dtype": dtype, **size, "color": "RGB", **more}


def _classification(activation: str) -> dict[str, Any]:
    return {"name": "classification", "scores": "scores", "activation": activation}


def _classes(scores: Array, labels: Sequence[str]) -> dict[str, Any]:
    order = np.argsort(-scores, kind="stable")
    return {"classes": [{"label": labels[i], "class_id": int(i), "score": round(float(scores[i]), 4)} for i in order]}


def _weights(*shape: int) -> Array:
    """Return weights that look random, are exact in binary, and keep activations from growing or dying out.

    Knuth's multiplicative hash instead of a generator: no library's next version can change it.
    """
    count = int(np.prod(shape))
    scattered = ((np.arange(count, dtype=np.uint64) * np.uint64(2_654_435_761)) >> np.uint64(7)) % np.uint64(17)
    return ((scattered.astype(np.float32) - 8) / 64).reshape(shape)


def write(fixture: Fixture, root: Path) -> Path:
    """Write one folder and return it."""
    folder = root / fixture.name
    folder.mkdir(parents=True, exist_ok=True)
    network = _network(fixture)
    (folder / "model.onnx").write_bytes(network)
    if fixture.labels:
        (folder / "labels.txt").write_text("".join(f"{label}\n" for label in fixture.labels), encoding="utf-8")
    if fixture.picture is not None:
        (folder / "golden.png").write_bytes(_png(fixture.picture))
        (folder / "golden.json").write_text(json.dumps(fixture.expected, indent=2) + "\n", encoding="utf-8")
    (folder / "model.toml").write_text(_manifest(fixture, hashlib.sha256(network).hexdigest()), encoding="utf-8")
    return folder


def _network(fixture: Fixture) -> bytes:
    inputs: list[ValueInfoProto] = [make_tensor_value_info(*spec) for spec in fixture.inputs]
    weights = [from_array(values, name) for name, values in fixture.weights.items()]
    graph = make_graph(fixture.nodes, fixture.name, inputs, [make_tensor_value_info(*fixture.output)], weights)
    model = make_model(graph, opset_imports=[make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def _manifest(fixture: Fixture, sha256: str) -> str:
    head = {
        "schema": 1,
        "name": fixture.name,
        "version": "1.0.0",
        "task": fixture.task,
        "license": "Apache-2.0",
        "description": "A test fixture, written by tests/assets/build_models.py",
    }
    sections: dict[str, dict[str, Any]] = {
        "model": {"path": "model.onnx", "sha256": sha256},
        "input": fixture.input_section,
        "decoder": fixture.decoder_section,
    }
    if fixture.labels:
        sections["labels"] = {"path": "labels.txt"}
    if fixture.picture is not None:
        # Scores differ in the last digit between CPUs; the labels and their order must not.
        sections["golden"] = {"image": "golden.png", "expected": "golden.json"}
        sections["golden.tolerance"] = {"score": 0.001}
    blocks = ["".join(f"{key} = {json.dumps(value)}\n" for key, value in head.items())]
    for name, section in sections.items():
        blocks.append(f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in section.items()))
    blocks += [
        "[[variants]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in variant.items())
        for variant in fixture.variants
    ]
    return "\n".join(blocks)


def _png(picture: Array) -> bytes:
    """Encode uint8 [H, W, 3] RGB without compression: deflate's output differs between zlib versions."""
    height, width = picture.shape[:2]
    # Every row is preceded by its filter type, 0 for none (PNG specification, 9.2).
    rows = b"".join(b"\0" + row.tobytes() for row in picture)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 0)) + chunk(b"IEND", b"")
    )


def main() -> None:
    """Write every folder."""
    parser = argparse.ArgumentParser(description="Write the model folders for tests.")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "models")
    root: Path = parser.parse_args().output
    for fixture in fixtures():
        write(fixture, root)


if __name__ == "__main__":
    main()
