"""What nobody reads is taken out of a network, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto
from onnx.helper import make_graph, make_node, make_tensor_value_info

from agent.engine.session import OrtEngine
from agent.modeltools.fold import fold
from tests.unit.modeltools.networks import network, saved

KEPT, DEAD = (("y", TensorProto.FLOAT, [1, 3, 32, 32]), ("dead", TensorProto.FLOAT, [1, 3, 32, 32]))


def folded(model: ModelProto, folder: Path) -> ModelProto:
    """Return what is left when only `y` is read, after a look whether it gives what it gave."""
    file = saved(model, folder / "m.onnx")
    fold(file, file.stat().st_size, {"y"}, folder / "folded.onnx")
    picture = {"images": np.full((1, 3, 32, 32), -2, np.float32)}
    before, after = (OrtEngine(one, sha256=None) for one in (file, folder / "folded.onnx"))
    assert np.array_equal(before.run(picture, before.new_abort())[0], after.run(picture, after.new_abort())[0])
    return onnx.load(folder / "folded.onnx")


def test_nodes_may_stand_in_any_order(tmp_path: Path) -> None:
    """ONNX Runtime sorts them itself, so that networks like this are about."""
    model = network(
        [
            make_node("Abs", ["s"], ["y"]),
            make_node("Neg", ["t"], ["dead"]),
            make_node("Sin", ["r"], ["s"]),
            make_node("Cos", ["images"], ["t"]),
            make_node("Exp", ["images"], ["r"]),
        ],
        [KEPT, DEAD],
    )
    assert [node.op_type for node in folded(model, tmp_path).graph.node] == ["Exp", "Sin", "Abs"]


def test_what_only_a_body_reads_is_needed(tmp_path: Path) -> None:
    """Each branch reads a tensor from outside, and both stand behind the node that has the branches."""
    made = make_tensor_value_info("made", TensorProto.FLOAT, None)
    then = make_graph([make_node("Neg", ["outside"], ["made"])], "then", [], [made])
    other = make_graph([make_node("Neg", ["given"], ["made"])], "else", [], [made])
    model = network(
        [
            make_node("If", ["is_dark"], ["y"], then_branch=then, else_branch=other),
            make_node("Sin", ["images"], ["outside"]),
            make_node("Cos", ["images"], ["given"]),
            make_node("Less", ["sum", "zero"], ["is_dark"]),
            make_node("ReduceSum", ["images"], ["sum"], keepdims=0),
            make_node("Exp", ["images"], ["dead"]),
        ],
        [KEPT, DEAD],
        weights={"zero": np.array(0, np.float32)},
    )
    kinds = {node.op_type for node in folded(model, tmp_path).graph.node}
    assert kinds == {"If", "Sin", "Cos", "Less", "ReduceSum"}
