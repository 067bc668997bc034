"""The order of a network's nodes: ONNX asks for one that can be run, ONNX Runtime sorts them itself at load."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter

from onnx import GraphProto, ModelProto, NodeProto

from agent.modeltools.network import all_nodes, nodes_of, subgraphs


def sort_nodes(proto: ModelProto) -> None:
    """Put the nodes of the graph, and of its bodies, into an order that can be run, where they are not."""
    for graph in (proto.graph, *(body for node in all_nodes(proto) for body in subgraphs(node))):
        _sort_graph(graph)


def _sort_graph(graph: GraphProto) -> None:
    nodes = list(graph.node)
    makers = {name: index for index, node in enumerate(nodes) for name in node.output}
    before = {
        index: {makers[name] for name in reads(node) if name in makers and name} for index, node in enumerate(nodes)
    }
    if all(other < index for index, others in before.items() for other in others):
        return
    try:
        order = list(TopologicalSorter(before).static_order())
    except CycleError:  # ONNX Runtime refuses it, and tells where.
        return
    del graph.node[:]
    graph.node.extend(nodes[index] for index in order)


def reads(node: NodeProto) -> set[str]:
    """Return the tensors that a node reads, and that its bodies read or give out: those may come from outside."""
    if next(subgraphs(node), None) is None:
        return set(node.input)
    bodies = list(nodes_of(GraphProto(node=[node])))
    outputs = {output.name for body in bodies for graph in subgraphs(body) for output in graph.output}
    return outputs.union(*(body.input for body in bodies))
