"""What keeps ONNX Runtime from running a network that could be read; nothing of it is run."""

from __future__ import annotations

import math
from collections.abc import Iterator

import onnx
from onnx import ModelProto, NodeProto

from agent.modeltools.network import STANDARD_DOMAINS, Network, Port, newest_opset, nodes_of

INPUT_ELEMENTS_MAX = 1 << 28
"""Of one input: 1 GiB in float32, 11 times the largest picture that an input can be (8192 x 8192 RGB is 0.8 GB)."""

RUNTIME_DOMAINS = frozenset({"com.microsoft", "com.microsoft.nchwc"})
"""Operators that ONNX Runtime's CPU build brings itself."""

RUNTIME_OPERATORS = frozenset(
    {
        "Affine",
        "Crop",
        "DynamicSlice",
        "ImageScaler",
        "LayerNormalization",
        "ParametricSoftplus",
        "Scale",
        "ScaledTanh",
        "SimplifiedLayerNormalization",
        "ThresholdedRelu",
    }
)
"""Those that it has in the standard's own domain at every opset, as tried with ONNX Runtime 1.32."""


def problems_of(network: Network) -> list[str]:
    """Return what keeps ONNX Runtime from running a network that could be read, one text each."""
    return [
        *_operator_problems(network),
        *(text for port in network.inputs for text in _input_problems(network, port)),
    ]


def _operator_problems(network: Network) -> Iterator[str]:
    file, proto = network.file, network.proto
    own = {(function.domain, function.name) for function in proto.functions}
    unknown: dict[tuple[str, int], set[str]] = {}
    wrong: dict[str, None] = {}
    for body in (proto, *proto.functions):
        opsets = {STANDARD_DOMAINS.get(entry.domain, entry.domain): entry.version for entry in body.opset_import}
        for node in nodes_of(body.graph if isinstance(body, ModelProto) else body):
            if (node.domain, node.op_type) in own or node.domain in RUNTIME_DOMAINS:
                continue
            domain = STANDARD_DOMAINS.get(node.domain, node.domain)
            # ONNX Runtime takes a domain that is not imported at its newest version.
            opset = opsets.get(domain) or (newest_opset(domain) if domain in STANDARD_DOMAINS else 0)
            if domain in STANDARD_DOMAINS and onnx.defs.has(node.op_type, opset, domain):
                wrong.update(dict.fromkeys(_count_problems(node, opset, domain)))
            elif domain or node.op_type not in RUNTIME_OPERATORS:
                unknown.setdefault((domain, opset), set()).add(node.op_type)
    for (domain, opset), operators in sorted(unknown.items()):
        names = ", ".join(sorted(operators)[:5])
        if domain in STANDARD_DOMAINS:
            yield f"{file}: operators that ONNX {onnx.__version__} at opset {opset} does not have: {names}"
        else:
            yield (
                f"{file}: custom domain {domain!r} ({names}): ONNX Runtime has no such operators: export the "
                "model without them, or name their library in engine.custom_ops"
            )
    for text in list(wrong)[:5]:
        yield f"{file}: {text}"
    for entry in proto.opset_import:
        if entry.domain in STANDARD_DOMAINS and entry.version > (newest := newest_opset(entry.domain)):
            yield (
                f"{file}: opset {entry.version} of {entry.domain or 'ai.onnx'} is newer than ONNX {onnx.__version__} "
                f"knows: export it with opset {newest} or an older one"
            )
    if names := ", ".join(_recursive(proto)[:5]):
        yield f"{file}: functions that call themselves: {names}: ONNX has none such, and ONNX Runtime refuses them"


def _count_problems(node: NodeProto, opset: int, domain: str) -> Iterator[str]:
    schema = onnx.defs.get_schema(node.op_type, opset, domain)
    for count, least, most, what in (
        (len(node.input), schema.min_input, schema.max_input, "inputs"),
        (len(node.output), schema.min_output, schema.max_output, "outputs"),
    ):
        if not least <= count <= most:
            wanted = least if least == most else f"{least} or more" if count < least else f"{most} or fewer"
            yield f"a node {node.op_type} with {count} {what} instead of {wanted}"


def _recursive(proto: ModelProto) -> list[str]:
    """Return the names of local functions whose calls never end, those that only lead there included."""
    calls = {
        (function.domain, function.name): {(node.domain, node.op_type) for node in nodes_of(function)}
        for function in proto.functions
    }
    while ended := [name for name, called in calls.items() if called.isdisjoint(calls)]:
        for name in ended:
            del calls[name]
    return [f"{domain}:{name}" for domain, name in calls]


def _input_problems(network: Network, port: Port) -> Iterator[str]:
    place = f"{network.file}: input {port}"
    if port.shape is None:
        yield f"{place}: is unbounded: give it its dimensions when you export it, those of any size a name"
        return
    known = [size for size in port.shape if isinstance(size, int)]
    if 0 in known:
        yield f"{place}: a dimension of 0 holds nothing"
    elif math.prod(known) > INPUT_ELEMENTS_MAX:
        yield f"{place}: has more than {INPUT_ELEMENTS_MAX} elements"
