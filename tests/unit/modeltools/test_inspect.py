"""`edgebeat model inspect`: what it says of good networks, and one clear error for each bad one."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto
from onnx.external_data_helper import set_external_data
from onnx.helper import make_function, make_node, make_opsetid

from agent.__main__ import run_command
from agent.errors import ConfigError
from agent.models.clues import parse_metadata
from agent.models.guess import guess
from agent.models.manifest import load_manifest
from agent.modeltools.inspect import inspect
from agent.modeltools.network import Port, read_network
from agent.modeltools.problems import problems_of
from tests.paths import COCO_SSD, WATCH_GRU
from tests.unit.modeltools.networks import PICTURE, classifier, network, saved

SCORES = ("y", TensorProto.FLOAT, [1, 3, 32, 32])


def report(capsys: pytest.CaptureFixture[str], file: Path, *arguments: str, code: int = 0) -> dict[str, Any]:
    """Run the command and return its JSON."""
    assert run_command(["model", "inspect", str(file), "--json", *arguments]) == code
    values: dict[str, Any] = json.loads(capsys.readouterr().out)
    return values


def refusal(capsys: pytest.CaptureFixture[str], file: Path) -> str:
    """Run the command on a bad file; return its one error."""
    assert run_command(["model", "inspect", str(file)]) == 78
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("edgebeat: ")
    return line


def test_the_default_model_is_described(capsys: pytest.CaptureFixture[str]) -> None:
    """Int8, uint8 input, boxes and scores; its own manifest is what counts."""
    found = report(capsys, COCO_SSD / "model.onnx")
    assert (found["bytes"], found["task"], found["has_manifest"]) == (4889975, "detection", True)
    assert found["inputs"] == [{"name": "images", "dtype": "uint8", "shape": [1, 300, 300, 3]}]
    assert found["operators"]["Conv"] == 88
    assert 745e6 < found["macs"] < 755e6
    assert found["macs_unknown_layers"] == 0
    assert run_command(["model", "inspect", str(COCO_SSD / "model.onnx")]) == 0
    assert "nothing is assumed" in capsys.readouterr().out


def test_multiplications_follow_the_formula(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Conv: 8 x 32 x 32 outputs x 3 x 3 x 3; Gemm: 3 outputs x 8."""
    found = report(capsys, saved(classifier(), tmp_path / "m.onnx"))
    assert found["macs"] == 8 * 32 * 32 * 27 + 3 * 8
    assert "attention operators" in found["macs_note"]


def test_a_recurrent_network_is_counted_and_told_what_to_write_by_hand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The shipped GRU of 48 units over 25 steps: it takes no picture, but a state and a window of a signal."""
    found = report(capsys, Path(shutil.copy(WATCH_GRU / "model.onnx", tmp_path / "m.onnx")))
    assert found["operators"]["GRU"] == 1
    assert found["macs_unknown_layers"] == 0
    assert found["macs"] >= 144 * (224 + 48)
    assert found["assumed"] is None
    state, signal = found["hints"]
    assert state.endswith('[state] tensors = { "h" = "h_out" }')
    assert signal.startswith("x float32[1,25,6] may be a window of a signal")
    assert run_command(["model", "inspect", str(tmp_path / "m.onnx")]) == 0
    assert "by hand    h float32[1,1,48] looks like a state that output h_out" in capsys.readouterr().out


def test_transposed_convolutions_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each of 3 x 32 x 32 inputs meets 5 output channels of 2 x 2."""
    node = make_node("ConvTranspose", ["images", "w"], ["y"], strides=[2, 2])
    weights = {"w": np.ones((3, 5, 2, 2), np.float32)}
    file = saved(network([node], [("y", TensorProto.FLOAT, [1, 5, 64, 64])], weights=weights), tmp_path / "m.onnx")
    assert report(capsys, file)["macs"] == 3 * 32 * 32 * 5 * 2 * 2


def test_an_open_size_is_assumed_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Symbolic sides have names; the count is made for the size that is assumed."""
    found = report(capsys, saved(classifier(side="side"), tmp_path / "m.onnx"))
    assert found["inputs"][0]["shape"] == [1, 3, "side", "side"]
    assert any("height 224 is assumed" in reason for reason in found["why"])
    assert found["macs"] == 8 * 224 * 224 * 27 + 3 * 8


def test_ultralytics_metadata_is_believed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Task, names, stride and size come from the export itself."""
    metadata = {
        "task": "classify",
        "names": "{0: 'cat', 1: 'dog', 2: 'no \\n one'}",
        "stride": "1",
        "imgsz": "[64, 96]",
    }
    found = report(capsys, saved(classifier(side="s", metadata=metadata), tmp_path / "m.onnx"), "--write")
    assert found["ultralytics"] == {
        "task": "classify",
        "stride": 1,
        "imgsz": [64, 96],
        "names": ["cat", "dog", "no one"],
    }
    assert (tmp_path / "labels.txt").read_text() == "cat\ndog\nno one\n"
    assert (found["assumed"]["input"]["height"], found["assumed"]["input"]["width"]) == (64, 96)


@pytest.mark.parametrize("text", ["__import__('os')", "[" * 5000, "{0: 'a', 2: 'b'}", "{1: 'a'}", "3", ""])
def test_hostile_metadata_is_no_metadata(text: str) -> None:
    """Literals only, and only complete lists of names."""
    assert parse_metadata({"names": text, "imgsz": text, "task": text}) == {}


def test_outputs_that_fit_no_decoder_are_said_with_what_would_fit() -> None:
    """Too many numbers for raw, and no head has such a shape."""
    found = guess([Port("images", "float32", (1, 3, 640, 640))], [Port("o", "float32", (1, 84, 84, 4))], {}, {})
    assert (found.kind, found.task) == ("raw", "raw")
    assert any("no known head has outputs like o float32[1,84,84,4]" in reason for reason in found.why)
    assert any("more than 10000: known are: boxes [1,N,4]" in reason for reason in found.obstacles)


def test_a_first_manifest_loads_and_is_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is written passes `model verify`; a second time nothing is touched."""
    file = saved(classifier(), tmp_path / "m.onnx")
    found = report(capsys, file, "--write")
    assert {Path(name).name for name in found["written"]} == {"model.toml", "labels.txt"}
    assert run_command(["model", "verify", str(tmp_path), "--threads", "1"]) == 0
    _, manifest = load_manifest(tmp_path)
    assert manifest.decoder == {"name": "classification", "scores": "probabilities", "activation": "none"}
    (tmp_path / "model.toml").write_text("mine")
    capsys.readouterr()
    assert run_command(["model", "inspect", str(file), "--write"]) == 78
    assert "never overwritten" in capsys.readouterr().err
    assert (tmp_path / "model.toml").read_text() == "mine"


def test_a_full_disk_leaves_no_half_manifest(tmp_path: Path) -> None:
    """A limit on the size of files stands for it; the labels fit, model.toml does not, neither stays."""
    file = saved(classifier(), tmp_path / "m.onnx")
    code = (
        "import resource, sys; from agent.__main__ import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        f"main(['model', 'inspect', {str(file)!r}, '--write'])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 78
    assert ended.stderr.splitlines() == [f"edgebeat: {tmp_path / 'model.toml'}: cannot be written: File too large"]
    assert list(tmp_path.iterdir()) == [file]


def test_custom_domains_are_flagged_and_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The report still tells what the network is; functions of its own and the runtime's operators are fine."""
    node = make_node("Magic", ["images"], ["y"], domain="com.example")
    file = saved(network([node], [SCORES], domains={"com.example": 1}), tmp_path / "m.onnx")
    assert "custom domain 'com.example' (Magic)" in refusal(capsys, file)
    found = report(capsys, file, code=78)
    assert {"domain": "com.example", "version": 1, "known": False} in found["domains"]
    relu = make_node("Relu", ["x"], ["z"])
    model = network([node], [SCORES], domains={"com.example": 1})
    model.functions.append(make_function("com.example", "Magic", ["x"], ["z"], [relu], [make_opsetid("", 17)]))
    assert report(capsys, saved(model, file))["problems"] == []


def test_operators_that_do_not_exist_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the standard's own domain."""
    file = saved(network([make_node("Wizard", ["images"], ["y"])], [SCORES]), tmp_path / "m.onnx")
    assert "does not have: Wizard" in refusal(capsys, file)


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ([1, 3, 0, 32], "a dimension of 0 holds nothing"),
        (None, "is unbounded"),
        ([1, 3, 1 << 20, 1 << 20], "more than 268435456 elements"),
    ],
)
def test_inputs_without_a_usable_size_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], shape: list[int] | None, said: str
) -> None:
    """Zero-sized, unbounded and gigantic ones."""
    model = network(
        [make_node("Relu", ["images"], ["y"])],
        [("y", TensorProto.FLOAT, None)],
        inputs=[("images", TensorProto.FLOAT, shape)],
    )
    assert said in refusal(capsys, saved(model, tmp_path / "m.onnx"))


def pooled(shape: list[int | str | None] | None) -> onnx.ModelProto:
    """Return a classifier of three classes for an input of this shape."""
    return network(
        [make_node("GlobalAveragePool", ["images"], ["p"]), make_node("Flatten", ["p"], ["y"])],
        [("y", TensorProto.FLOAT, None)],
        inputs=[("images", TensorProto.FLOAT, shape)],
    )


def test_sides_without_names_are_assumed_as_those_with_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is written for them is the size that a start without model.toml takes."""
    found = report(capsys, saved(pooled([1, 3, None, None]), tmp_path / "m.onnx"))
    assert found["inputs"][0]["shape"] == [1, 3, None, None]
    assert "height 224 is assumed: the network leaves it open" in found["why"]
    assert (found["assumed"]["input"]["height"], found["assumed"]["input"]["width"]) == (224, 224)
    assert run_command(["model", "inspect", str(tmp_path / "m.onnx")]) == 0
    assert "(dynamic: ?, ?)" in capsys.readouterr().out
    assert run_command(["model", "inspect", str(tmp_path / "m.onnx"), "--write"]) == 0
    assert run_command(["model", "verify", str(tmp_path), "--threads", "1"]) == 0


@pytest.mark.parametrize(
    "shape",
    [
        [1, 3, 32, 32],
        [1, 3, None, None],
        [1, 3, None, 32],
        [None, 3, 32, 32],
        ["n", 3, "h", "w"],
        [-1, 3, -1, -1],
        [2, 3, 32, 32],
        [1, None, None, None],
        [1, 3, 0, 32],
        [1, 3, 9000, 32],
        [1, 3],
        None,
    ],
)
def test_inspect_takes_what_a_start_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], shape: list[int | str | None] | None
) -> None:
    """One rule for both: verify loads a bare network as `edgebeat run` does."""
    file = saved(pooled(shape), tmp_path / "m.onnx")
    is_taken = run_command(["model", "verify", str(file), "--threads", "1"]) == 0
    capsys.readouterr()
    run_command(["model", "inspect", str(file)])
    assert ("edgebeat run takes it as this model.toml says" in capsys.readouterr().out) is is_taken


def test_minus_one_is_an_open_dimension(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Paddle's exports say it so."""
    model = network(
        [make_node("Relu", ["images"], ["y"])],
        [("y", TensorProto.FLOAT, None)],
        inputs=[("images", TensorProto.FLOAT, [-1, 3, 8, 8])],
    )
    assert report(capsys, saved(model, tmp_path / "m.onnx"))["inputs"][0]["shape"] == ["-1", 3, 8, 8]


def nested(depth: int) -> bytes:
    """Return a model whose graph holds a node that holds a graph, and so on, made from the inside outwards."""
    # ModelProto.graph = 7, GraphProto.node = 1, NodeProto.attribute = 5, AttributeProto.g = 6; all length-delimited.
    heads: list[bytes] = []
    size = 0

    def wrap(field: int) -> None:
        nonlocal size
        length, head = size, bytearray([field << 3 | 2])
        while length > 127:
            head.append(length & 127 | 128)
            length >>= 7
        head.append(length)
        heads.append(bytes(head))
        size += len(head)

    for _ in range(depth):
        for field in (6, 5, 1):
            wrap(field)
    wrap(7)
    return b"".join(reversed(heads))


def truncated() -> bytes:
    """Return half of a network."""
    content: bytes = classifier().SerializeToString()
    return content[: len(content) // 2]


def hungry() -> bytes:
    """Return a network of 100 bytes with a constant of 4 GB."""
    model = network([make_node("Add", ["images", "w"], ["y"])], [SCORES])
    model.graph.initializer.add(name="w", data_type=TensorProto.FLOAT, dims=[1 << 30])
    content: bytes = model.SerializeToString()
    return content


def of_many_dimensions(where: str) -> bytes:
    """Return a network with an input or a constant of more dimensions than any has."""
    sizes = [1 << 62] * 65
    model = network(
        [make_node("Add", ["images", "w"], ["y"])],
        [SCORES],
        inputs=[("images", TensorProto.FLOAT, sizes if where == "input" else [1])],
        weights={"w": np.ones(1, np.float32)},
    )
    if where == "constant":
        model.graph.initializer[0].dims[:] = sizes
    content: bytes = model.SerializeToString()
    return content


def not_text() -> bytes:
    """Return a network with an operator whose name is not UTF-8."""
    content: bytes = classifier().SerializeToString()
    return content.replace(b"Relu", b"Rel\xff")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda: b"", "is not a complete ONNX file"),
        (lambda: b"hello, this is no model", "is not an ONNX file"),
        (lambda: b"\x89PNG\r\n\x1a\n" + bytes(100), "is not an ONNX file"),
        (truncated, "truncated"),
        (lambda: nested(100_000), "nested too deeply"),
        (hungry, "has no content"),
        (lambda: of_many_dimensions("input"), "tensor 'images' has 65 dimensions"),
        (lambda: of_many_dimensions("constant"), "tensor 'w' has 65 dimensions"),
        (not_text, "a op_type in it is not UTF-8 text"),
    ],
)
def test_files_that_are_no_networks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: Callable[[], bytes], said: str
) -> None:
    """One error each, without a traceback."""
    file = tmp_path / "m.onnx"
    file.write_bytes(content())
    assert said in refusal(capsys, file)


def test_a_damaged_file_is_an_error_or_a_report_and_nothing_else(tmp_path: Path) -> None:
    """400 networks with one to three bytes changed, lost or added, each reproducible by its number.

    All are read, and one in ten is described: that takes a process each.
    """
    file = tmp_path / "m.onnx"
    content = classifier(side="s", metadata={"names": "{0: 'a', 1: 'b', 2: 'c'}"}).SerializeToString()
    for seed in range(400):
        rng = np.random.default_rng(seed)
        damaged = bytearray(content)
        for _ in range(int(rng.integers(1, 4))):
            at = int(rng.integers(len(damaged)))
            damaged[at : at + int(rng.integers(2))] = rng.bytes(int(rng.integers(2)))
        file.write_bytes(damaged)
        try:
            assert problems_of(read_network(file)) is not None
            if seed % 10:
                continue
            found = inspect(file)
            assert json.dumps(found.as_json())
            assert found.text()
        except ConfigError as error:
            assert str(error).startswith(str(file)), f"seed {seed}"  # noqa: PT017  Most of them end here.


def bomb() -> onnx.ModelProto:
    """Return a network of 300 bytes: propagating the numbers of its shapes would take gigabytes."""
    return network(
        [
            make_node("GlobalAveragePool", ["images"], ["p"]),
            make_node("Flatten", ["p"], ["f"]),
            make_node("MatMul", ["f", "w"], ["m"]),
            make_node("ConstantOfShape", ["n"], ["big"]),
            make_node("Gather", ["big", "i"], ["one"]),
            make_node("Add", ["m", "one"], ["y"]),
        ],
        [("y", TensorProto.FLOAT, [1, "open"])],
        weights={"w": np.ones((3, 2), np.float32), "n": np.array([1 << 26]), "i": np.array([0])},
    )


def test_a_network_that_inference_makes_huge_is_described_in_little_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its layers are counted all the same, and what asked for the memory is not this process."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert report(capsys, saved(bomb(), tmp_path / "m.onnx"))["macs"] == 3 * 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # KiB


def test_a_child_that_never_answers_leaves_layers_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too slow or crashed: the rest of the report stands."""
    monkeypatch.setattr("agent.modeltools.work.INFERENCE_LIMIT_S", 0.01)
    found = inspect(saved(classifier(), tmp_path / "m.onnx")).as_json()
    assert (found["macs"], found["macs_unknown_layers"]) == (0, 2)
    assert found["outputs"] == [{"name": "probabilities", "dtype": "float32", "shape": [1, 3]}]


def test_shapes_that_are_computed_from_shapes_are_followed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The reshaped picture's size is known only to those who follow the numbers that make it."""
    model = network(
        [
            make_node("Shape", ["images"], ["s"], start=0, end=2),
            make_node("Concat", ["s", "rest"], ["t"], axis=0),
            make_node("Reshape", ["images", "t"], ["r"]),
            make_node("MatMul", ["r", "w"], ["y"]),
        ],
        [("y", TensorProto.FLOAT, [1, 3, "wide"])],
        weights={"rest": np.array([1024]), "w": np.ones((1024, 5), np.float32)},
    )
    found = report(capsys, saved(model, tmp_path / "m.onnx"))
    assert (found["macs"], found["macs_unknown_layers"]) == (3 * 1024 * 5, 0)
    assert found["outputs"][0]["shape"] == [1, 3, 5]


def test_nodes_may_stand_in_any_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Described as the same network in order."""
    model = classifier()
    wanted = report(capsys, saved(model, tmp_path / "m.onnx"))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))
    found = report(capsys, saved(model, tmp_path / "m.onnx"))
    assert {**found, "sha256": "", "assumed": ""} == {**wanted, "sha256": "", "assumed": ""}


def recursive() -> onnx.ModelProto:
    """Return a network whose function calls itself."""
    model = network([make_node("Again", ["images"], ["y"], domain="own")], [SCORES], domains={"own": 1})
    call = make_node("Again", ["x"], ["z"], domain="own")
    opsets = [make_opsetid("", 17), make_opsetid("own", 1)]
    model.functions.append(make_function("own", "Again", ["x"], ["z"], [call], opsets))
    return model


def with_opset(domain: str, version: int) -> onnx.ModelProto:
    """Return a network with the operators of one domain at another version."""
    encoder = make_node("LabelEncoder", ["a"], ["y"], domain="ai.onnx.ml", keys_int64s=[0], values_strings=["a"])
    model = network(
        [make_node("ArgMax", ["images"], ["a"], axis=1), encoder],
        [("y", TensorProto.STRING, None)],
        domains={"ai.onnx.ml": 3},
    )
    next(entry for entry in model.opset_import if entry.domain == domain).version = version
    return model


def of_one_node(operator: str, inputs: list[str], outputs: list[str]) -> onnx.ModelProto:
    """Return a network of one node."""
    return network([make_node(operator, inputs, outputs)], [SCORES])


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (recursive(), "functions that call themselves: own:Again"),
        (with_opset("", -1), "opset -1 of ai.onnx is none"),
        (with_opset("ai.onnx.ml", 1 << 40), "opset 1099511627776 of ai.onnx.ml is none"),
        (with_opset("", 99), "opset 99 of ai.onnx is newer than"),
        (of_one_node("GRU", ["images"], ["y"]), "GRU with 1 inputs"),
        (of_one_node("ConvTranspose", ["images"], ["y"]), "ConvTranspose with 1 inputs"),
        (of_one_node("Conv", ["images", "images"], []), "Conv with 0 outputs"),
        (of_one_node("Gelu", ["images"], ["y"]), "opset 17 does not have: Gelu"),
    ],
)
def test_what_the_runtime_refuses_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], model: onnx.ModelProto, said: str
) -> None:
    """One error each, whatever the shape inference of onnx would make of it."""
    assert said in refusal(capsys, saved(model, tmp_path / "m.onnx"))


def test_operators_of_the_runtimes_own_in_the_standards_domain_are_fine(tmp_path: Path) -> None:
    """ONNX Runtime had LayerNormalization before ONNX did, and its optimiser writes it at any opset."""
    node = make_node("LayerNormalization", ["images", "w"], ["y"])
    model = network([node], [SCORES], weights={"w": np.ones(32, np.float32)})
    model.opset_import[0].version = 15
    assert inspect(saved(model, tmp_path / "m.onnx")).problems == ()
    onnxruntime.InferenceSession(str(tmp_path / "m.onnx"))


def with_external(folder: Path, location: str, length: int | None = 16, offset: int | None = 0) -> Path:
    """Write a network whose only weight, of 16 bytes, is in another file."""
    weights = {"w": np.ones((1, 1, 1, 4), np.float32)}
    model = network([make_node("Mul", ["images", "w"], ["y"])], [SCORES], weights=weights)
    set_external_data(model.graph.initializer[0], location, offset, length)
    model.graph.initializer[0].ClearField("raw_data")
    file = folder / "m.onnx"
    file.write_bytes(model.SerializeToString())
    return file


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("/etc/passwd", "must be a file in the model's own folder"),
        ("../secret", "must be a file in the model's own folder"),
        ("a/../../secret", "must be a file in the model's own folder"),
        ("link", "is a symbolic link"),
        ("linked/weights", "is a symbolic link"),
        ("absent", "is not there"),
        ("short", "it is truncated"),
        (
            "sub/weights",
            "must lie beside the network: onnx.save(onnx.load('m.onnx'), 'm.onnx', save_as_external_data",
        ),
        ("./whole", "must lie beside the network"),
    ],
)
def test_external_data_stays_in_the_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], location: str, said: str
) -> None:
    """ONNX Runtime would read whatever stands there."""
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(16))
    (folder / "short").write_bytes(bytes(15))
    (folder / "whole").write_bytes(bytes(16))
    (folder / "sub").mkdir()
    (folder / "sub" / "weights").write_bytes(bytes(16))
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "linked").symlink_to(tmp_path)
    assert said in refusal(capsys, with_external(folder, location))


def test_the_cure_for_weights_in_a_folder_of_their_own_cures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is Python, to be run where the network is."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "weights").write_bytes(bytes(16))
    file = with_external(tmp_path, "sub/weights")
    _, _, cure = refusal(capsys, file).partition("beside the network: ")
    monkeypatch.chdir(tmp_path)
    exec(cure.partition(" in Python")[0], {"onnx": onnx})  # Our own words.
    assert report(capsys, file)["problems"] == []


@pytest.mark.parametrize(
    ("offset", "length", "said"),
    [
        (-4, 16, "begins at byte -4"),
        (0, 8, "has 8 bytes where the shape [1, 1, 1, 4] asks for 16"),
        (0, -16, "has -16 bytes"),
        (8, None, "ends at byte 24, the file has 16"),
    ],
)
def test_external_data_is_all_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], offset: int, length: int | None, said: str
) -> None:
    """ONNX Runtime refuses each of them."""
    (tmp_path / "weights.bin").write_bytes(bytes(16))
    file = with_external(tmp_path, "weights.bin", length, offset)
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.Fail):
        onnxruntime.InferenceSession(file)
    assert said in refusal(capsys, file)


def test_good_external_data_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By file, with its size."""
    (tmp_path / "weights.bin").write_bytes(bytes(16))
    assert report(capsys, with_external(tmp_path, "weights.bin"))["external_data"] == {"weights.bin": 16}


def test_two_inputs_are_an_obstacle_to_a_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The network is fine, so it is described; there is nothing to write."""
    model = network([make_node("Add", ["images", "b"], ["y"])], [SCORES], inputs=[PICTURE, ("b", *PICTURE[1:])])
    file = saved(model, tmp_path / "m.onnx")
    assert report(capsys, file)["assumed"] is None
    assert run_command(["model", "inspect", str(file), "--write"]) == 78
    assert not (tmp_path / "model.toml").exists()


def test_a_device_without_the_tools_is_told_what_to_install(tmp_path: Path) -> None:
    """None in sys.modules is how Python says that a package is absent."""
    code = (
        "import sys; sys.modules['onnx'] = None\n"
        "from agent.__main__ import run_command\n"
        "sys.exit(run_command(['model', 'inspect', 'm.onnx']))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 78
    assert ended.stderr.splitlines() == [
        "edgebeat: edgebeat model inspect needs onnx, which a device does not: pip install 'edgebeat[tools]'"
    ]


def test_onnx_agrees_that_the_networks_here_are_valid() -> None:
    """Else the tests above would prove little."""
    onnx.checker.check_model(classifier(), full_check=True)
