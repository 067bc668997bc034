"""Equal weights of a network become one."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from agent.modeltools.fold import share_constants


def weight(name: str, *values: float, dtype: type = np.float32) -> TensorProto:
    """Return an initializer."""
    return numpy_helper.from_array(np.array(values, dtype), name)


def network(nodes: list[onnx.NodeProto], weights: list[TensorProto], output: str = "y") -> ModelProto:
    """Return a network of one float input of two values."""
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", output)]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def test_equal_weights_are_one_and_different_ones_stay() -> None:
    """By content: type, shape and values; whoever read the others reads the first."""
    proto = network(
        [
            helper.make_node("Add", ["x", "one"], ["a"]),
            helper.make_node("Add", ["a", "same"], ["b"]),
            helper.make_node("Mul", ["b", "other"], ["c"]),
            helper.make_node("Cast", ["whole"], ["d"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["c", "d"], ["y"]),
        ],
        [weight("one", 1, 2), weight("same", 1, 2), weight("other", 1, 3), weight("whole", 1, 2, dtype=np.int32)],
    )
    assert share_constants(proto) == 1
    assert [tensor.name for tensor in proto.graph.initializer] == ["one", "other", "whole"]
    assert [list(node.input) for node in proto.graph.node][:2] == [["x", "one"], ["a", "one"]]
    onnx.checker.check_model(proto, full_check=True)


def test_what_bodies_read_and_what_is_an_output_is_left_alone() -> None:
    """A branch names tensors from outside, to read them and to give them; a user reads an output by its name."""
    given = helper.make_tensor_value_info("given", TensorProto.FLOAT, [2])
    made = helper.make_tensor_value_info("made", TensorProto.FLOAT, [2])
    then = helper.make_graph([], "then", [], [given])
    other = helper.make_graph([helper.make_node("Add", ["x", "read"], ["made"])], "else", [], [made])
    proto = network(
        [
            helper.make_node("If", ["yes"], ["chosen"], then_branch=then, else_branch=other),
            helper.make_node("Add", ["chosen", "first"], ["y"]),
            helper.make_node("Add", ["x", "second"], ["unread"]),
        ],
        [
            weight("first", 1, 2),
            weight("second", 1, 2),
            weight("given", 1, 2),
            weight("read", 1, 2),
            weight("said", 1, 2),
            weight("yes", True, dtype=np.bool_),
        ],
    )
    proto.graph.output.append(helper.make_tensor_value_info("said", TensorProto.FLOAT, [2]))
    assert share_constants(proto) == 1
    assert [tensor.name for tensor in proto.graph.initializer] == ["first", "given", "read", "said", "yes"]
    assert list(proto.graph.node[2].input) == ["x", "first"]
