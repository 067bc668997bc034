"""Weights outside the network's file, as the loader meets them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto
from onnx.helper import make_graph, make_node, make_tensor_value_info

from agent.engine.external import check_external_data
from agent.engine.session import OrtEngine
from agent.errors import ConfigError
from tests.paths import COCO_SSD
from tests.unit.modeltools.networks import classifier, network, saved

WEIGHTS = "weights.bin"


def outside(folder: Path) -> tuple[Path, str]:
    """Write a network whose kernels are outside; return it and their digest."""
    model = classifier(kernels=64)
    file = folder / "model.onnx"
    onnx.save(model, file, save_as_external_data=True, location=WEIGHTS, size_threshold=0)
    return file, hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()


def relocate(file: Path, location: str) -> None:
    """Let every tensor of a network name another place."""
    model = onnx.load(file, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    file.write_bytes(model.SerializeToString())


def test_listed_and_whole_it_is_loaded(tmp_path: Path) -> None:
    """Its digest stands in the manifest, in either case of letters."""
    file, digest = outside(tmp_path)
    engine = OrtEngine(file, threads=1, sha256=None, external={WEIGHTS: digest.upper()})
    picture = np.ones((1, 3, 32, 32), np.float32)
    assert engine.run({"images": picture}, engine.new_abort())[0].shape == (1, 3)


def truncate(folder: Path) -> None:
    weights = folder / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-8])


def flip(folder: Path) -> None:
    weights = folder / WEIGHTS
    content = bytearray(weights.read_bytes())
    content[100] ^= 1
    weights.write_bytes(content)


def link(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "elsewhere.bin")
    (folder / WEIGHTS).symlink_to(folder / "elsewhere.bin")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: relocate(folder / "model.onnx", "/etc/passwd"), "'/etc/passwd': must be a file in the model"),
        (
            lambda folder: relocate(folder / "model.onnx", "../weights.bin"),
            "must be a file in the model's own folder",
        ),
        (
            lambda folder: relocate(folder / "model.onnx", "sub/weights.bin"),
            "must be a file in the model's own folder",
        ),
        (lambda folder: relocate(folder / "model.onnx", ""), "must be a file in the model's own folder"),
        (link, "is a symbolic link"),
        (lambda folder: (folder / WEIGHTS).unlink(), "is not there"),
        (truncate, "it is truncated"),
        (flip, "the file is damaged or was replaced"),
    ],
)
def test_whatever_else_it_is_it_is_refused(tmp_path: Path, change: Callable[[Path], object], said: str) -> None:
    """ONNX Runtime follows what stands there."""
    file, digest = outside(tmp_path)
    change(tmp_path)
    with pytest.raises(ConfigError, match=said):
        OrtEngine(file, threads=1, sha256=None, external={WEIGHTS: digest})


def test_a_file_without_a_digest_is_refused_with_the_line_to_add(tmp_path: Path) -> None:
    """The weights of a network that nobody vouches for are not mapped."""
    file, digest = outside(tmp_path)
    with pytest.raises(ConfigError, match=rf'external_data = \{{ "weights.bin" = "{digest}" \}}'):
        check_external_data(file, {})


def test_tensors_are_found_wherever_they_may_be(tmp_path: Path) -> None:
    """In a Constant of the body of an If, in this case."""
    tensor = TensorProto(name="c", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/shadow")
    body = make_graph(
        [make_node("Constant", [], ["b"], value=tensor)],
        "b",
        [],
        [make_tensor_value_info("b", TensorProto.FLOAT, [1])],
    )
    nodes = [make_node("If", ["c"], ["y"], then_branch=body, else_branch=body)]
    file = saved(network(nodes, [("y", TensorProto.FLOAT, [1])], weights={"c": True}), tmp_path / "m.onnx")
    with pytest.raises(ConfigError, match="'/etc/shadow': must be a file"):
        check_external_data(file, {})


@given(st.binary(max_size=200))
def test_any_bytes_are_an_error_of_ours_or_nothing(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """A parser of files from elsewhere never ends in a trace."""
    file = tmp_path_factory.getbasetemp() / "any.onnx"
    file.write_bytes(content + b"location")
    said = refusal(file)
    assert said is None or said.startswith(f"{file}: ")


def refusal(file: Path) -> str | None:
    """Return why a file is refused; None when it is not."""
    try:
        check_external_data(file, {})
    except ConfigError as error:
        return str(error)
    return None


def test_a_network_without_such_files_passes() -> None:
    """The default model keeps everything inside."""
    check_external_data(COCO_SSD / "model.onnx", {})


def test_what_another_runtime_compiled_is_refused(tmp_path: Path) -> None:
    """It may name a file, in the body of a loop as well; a text that happens to say so is none."""
    node = make_node("EPContext", ["images"], ["y"], domain="com.microsoft", ep_cache_context="../secret.bin")
    body = make_graph([node], "body", [], [make_tensor_value_info("y", TensorProto.FLOAT, None)])
    for nodes in ([node], [make_node("If", ["go"], ["y"], then_branch=body, else_branch=body)]):
        file = saved(
            network(nodes, [("y", TensorProto.FLOAT, None)], domains={"com.microsoft": 1}), tmp_path / "m.onnx"
        )
        with pytest.raises(ConfigError, match=r"m.onnx: holds a part that another runtime compiled \(EPContext\)"):
            check_external_data(file, {})
    harmless = classifier()
    harmless.doc_string = "No EPContext in here."
    check_external_data(saved(harmless, tmp_path / "m.onnx"), {})
