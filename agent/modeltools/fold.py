"""Takes out of a network what does not serve: outputs that nobody reads, dead branches, what is always the same.

Dead branches are taken out here, because ONNX Runtime keeps what nothing reads; its own basic optimisations do the
rest (constant folding, batch normalisation into convolutions). No other package is needed, and the result runs on any
CPU.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import GraphProto, ModelProto, TensorProto

from agent.engine.session import runtime_version  # Keeps ONNX Runtime from sending telemetry: before its import.
from agent.errors import ConfigError
from agent.models.manifest import Manifest
from agent.modeltools.network import all_nodes, subgraphs
from agent.modeltools.order import reads, sort_nodes
from agent.modeltools.room import check_room

NAMES_OUTPUTS = frozenset({"boxes", "output", "outputs", "scores"})
"""Options by which decoders name what they read first; without one of them they take what is there."""


@dataclass(frozen=True, slots=True)
class Folding:
    """What was saved before anything was quantised.

    Attributes:
        nodes_before: of the original, bodies of If, Loop and Scan included.
        nodes_after: of what is left.
        bytes_before: of the original with its files of weights.
        bytes_after: of what is left. More than before where a folded weight is needed in two places.
        outputs_removed: names of outputs that neither the decoder nor the state reads.
    """

    nodes_before: int
    nodes_after: int
    bytes_before: int
    bytes_after: int
    outputs_removed: tuple[str, ...]


def outputs_read(manifest: Manifest, outputs: Collection[str]) -> set[str]:
    """Return which outputs a model's decoder and state read.

    Every output that the decoder's options name; all of them where the options leave it to the decoder.
    """
    if not any(manifest.decoder.get(option) for option in NAMES_OUTPUTS):
        return set(outputs)
    named = {text for value in manifest.decoder.values() for text in _texts(value)} & set(outputs)
    return named | set(() if manifest.state is None else manifest.state.tensors.values())


def fold(file: Path, bytes_before: int, kept: Collection[str], folded: Path) -> Folding:
    """Write what is left of a network when only some of its outputs are read.

    Every node gets a name, by which it can be kept in float.

    Args:
        file: of the network.
        bytes_before: with its files of weights.
        kept: names of outputs.
        folded: file to write.

    Raises:
        ConfigError: ONNX Runtime cannot fold it.
        OSError: the file cannot be written.
    """
    proto = onnx.load(file)
    nodes_before = sum(1 for _ in all_nodes(proto))
    removed = [output for output in proto.graph.output if output.name not in kept]
    for output in removed:
        proto.graph.output.remove(output)
    sort_nodes(proto)
    _drop_dead(proto)
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folded)
    pruned = folded.with_name("pruned.onnx")
    onnx.save(proto, pruned)
    try:
        ort.InferenceSession(str(pruned), options, providers=["CPUExecutionProvider"])
        result = onnx.load(folded)
    except Exception as error:
        check_room(folded.parent, bytes_before)
        text = " ".join(str(error).split())[:300]
        raise ConfigError(f"{file}: ONNX Runtime {runtime_version()} cannot fold it: {text}") from error
    finally:
        pruned.unlink()
    _name_nodes(result)
    onnx.save(result, folded)
    return Folding(
        nodes_before=nodes_before,
        nodes_after=sum(1 for _ in all_nodes(result)),
        bytes_before=bytes_before,
        bytes_after=folded.stat().st_size,
        outputs_removed=tuple(output.name for output in removed),
    )


def share_constants(proto: ModelProto) -> int:
    """Let equal weights of the graph be one, in place, and return how many went: each costs time at every load.

    What the bodies of If, Loop and Scan read is left alone.
    """
    fixed = {value.name for value in (*proto.graph.input, *proto.graph.output)}
    for node in proto.graph.node:
        for body in all_nodes(ModelProto(graph=GraphProto(node=[node]))):
            for graph in subgraphs(body):
                fixed.update(name for inner in graph.node for name in inner.input)
                fixed.update(output.name for output in graph.output)
    first: dict[bytes, str] = {}
    same: dict[str, str] = {}
    for weight in proto.graph.initializer:
        if weight.name in fixed:
            continue
        content = TensorProto()
        content.CopyFrom(weight)
        content.name = ""
        digest = hashlib.sha256(content.SerializeToString(deterministic=True)).digest()
        if (kept := first.setdefault(digest, weight.name)) != weight.name:
            same[weight.name] = kept
    for node in proto.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = same.get(name, name)
    kept_weights = [weight for weight in proto.graph.initializer if weight.name not in same]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept_weights)
    return len(same)


def _drop_dead(proto: ModelProto) -> None:
    """Take out nodes of the graph and weights that no output needs; its nodes stand in an order that can be run."""
    needed = {output.name for output in proto.graph.output}
    for node in reversed(list(proto.graph.node)):
        if needed.isdisjoint(node.output):
            proto.graph.node.remove(node)
        else:
            needed |= reads(node)
    for weight in list(proto.graph.initializer):
        if weight.name not in needed:
            proto.graph.initializer.remove(weight)


def _name_nodes(proto: ModelProto) -> None:
    """Give each node a name of its own, bodies included; what has one keeps it."""
    taken: set[str] = set()
    for node in all_nodes(proto):
        wanted = node.name or f"{node.op_type}:{node.output[0]}"
        node.name, count = wanted, 1
        while node.name in taken:
            count += 1
            node.name = f"{wanted}:{count}"
        taken.add(node.name)


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [text for text in value if isinstance(text, str)] if isinstance(value, list | tuple) else []
