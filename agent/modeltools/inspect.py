"""What an .onnx file is: its ports, its work, what it needs, and what model.toml would say of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.engine.digest import sha256_of
from agent.errors import ConfigError
from agent.models.assumed import draft_manifest, labels_of, names_beside
from agent.models.clues import Guess, parse_metadata
from agent.models.guess import guess
from agent.models.manifest import MANIFEST_NAME, Manifest
from agent.modeltools.draft import manifest_text, write_first
from agent.modeltools.network import STANDARD_DOMAINS, Network, Port, all_nodes, read_network
from agent.modeltools.order import sort_nodes
from agent.modeltools.problems import RUNTIME_DOMAINS, problems_of
from agent.modeltools.work import NOT_COUNTED, Work, count_work

OPERATORS_SHOWN = 12
UNCHANGING = ("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast")
METADATA_CHARS_MAX = 200
"""Of one value in the report: names of classes can be megabytes."""


@dataclass(frozen=True, slots=True, eq=False)
class Inspection:
    """Everything that is known of a network without running it."""

    network: Network
    work: Work
    properties: dict[str, str]
    metadata: dict[str, Any]
    guess: Guess
    manifest: Manifest | None
    problems: tuple[str, ...]

    def write(self) -> list[Path]:
        """Write a first model.toml beside the network; return the files.

        Raises:
            ConfigError: there is one already, or the network is one that no manifest can describe.
        """
        if self.manifest is None:
            raise ConfigError(
                [f"{self.network.file}: no model.toml can be written: {t}" for t in self.guess.obstacles]
            )
        comments = [f"Written by edgebeat model inspect for {self.network.file.name}. Check what it assumed:"]
        comments += [f"- {text}" for text in (*self.guess.why, *self.guess.obstacles)]
        comments.append("Then add a [golden] sample and the licence; docs/models.md tells how.")
        return write_first(self.network.file.parent, self.manifest, labels_of(self.guess), comments)

    def as_json(self) -> dict[str, Any]:
        """Return it for programs."""
        network = self.network
        return {
            "file": str(network.file),
            "sha256": network.sha256,
            "bytes": network.file_bytes,
            "external_data": network.external,
            "ir_version": network.proto.ir_version,
            "producer": network.proto.producer_name,
            "domains": self._domains(),
            "inputs": [_port(port) for port in network.inputs],
            "outputs": [_port(port) for port in self.work.outputs],
            "operators": self.work.operators,
            "macs": self.work.macs,
            "macs_unknown_layers": self.work.unknown,
            "macs_note": NOT_COUNTED,
            "metadata": {key: value[:METADATA_CHARS_MAX] for key, value in self.properties.items()},
            "ultralytics": self.metadata,
            "task": self.guess.kind,
            "why": self.guess.why,
            "obstacles": self.guess.obstacles,
            "hints": self.hints,
            "assumed": None if self.manifest is None else self.manifest.model_dump(mode="json", by_alias=True),
            "has_manifest": self._has_manifest(),
            "problems": list(self.problems),
        }

    def text(self) -> str:
        """Return it for people."""
        network, work = self.network, self.work
        lines = [
            f"{network.file}: {network.file_bytes} bytes, sha256 {network.sha256}",
            f"  opset      {', '.join(self._opsets())}; IR {network.proto.ir_version}",
            *(f"  input      {port}{_openness(port)}" for port in network.inputs),
            *(f"  output     {port}{_openness(port)}" for port in work.outputs),
        ]
        lines += [f"  external   {name}, {size} bytes" for name, size in network.external.items()]
        shown = list(work.operators.items())[:OPERATORS_SHOWN]
        more = len(work.operators) - len(shown)
        lines.append(
            f"  operators  {sum(work.operators.values())}: "
            + ", ".join(f"{count} {name}" for name, count in shown)
            + (f" and {more} other kinds" if more else "")
        )
        lines.append(f"  MACs       {work.macs / 1e6:.3g} million a run")
        lines.append(f"             {NOT_COUNTED}")
        if work.unknown:
            lines.append(f"             {work.unknown} layers left out: their shapes are not known")
        lines += [f"  metadata   {key} = {_brief(value)}" for key, value in self.properties.items()]
        lines.append(f"  task       {self.guess.kind}")
        lines += [f"             - {reason}" for reason in self.guess.why]
        lines += [f"  obstacle   {reason}" for reason in self.guess.obstacles]
        lines += [f"  by hand    {hint}" for hint in self.hints]
        return "\n".join([*lines, *self._assumption()])

    @property
    def hints(self) -> list[str]:
        """What to write into model.toml where nothing can be guessed: signals and states."""
        if self.manifest is not None or self._has_manifest():
            return []
        pairs = _state_pairs(self.network.inputs, self.work.outputs)
        hints = [
            f"{given} looks like a state that output {made} continues: [state] tensors = "
            + "{ "
            + f"{json.dumps(given.name)} = {json.dumps(made.name)}"
            + " }"
            for given, made in pairs
        ]
        signals = [
            port
            for port in self.network.inputs
            if port.dtype == "float32" and len(port.shape or ()) in (2, 3) and port not in [one for one, _ in pairs]
        ]
        if self.guess.input is None:
            hints += [f"{port} may be a window of a signal: [signal], with its rate and length" for port in signals]
        return hints

    def _assumption(self) -> list[str]:
        if self._has_manifest():
            return [f"  edgebeat run takes {MANIFEST_NAME} beside it; nothing is assumed"]
        if self.manifest is None:
            return [f"  edgebeat run cannot take it without a {MANIFEST_NAME} of your own (docs/models.md)"]
        lines = manifest_text(self.manifest).splitlines()
        verdict = (
            f"edgebeat run cannot take it, see above; --write writes this {MANIFEST_NAME}, to be corrected by you:"
            if self.guess.obstacles
            else f"edgebeat run takes it as this {MANIFEST_NAME} says, which --write writes, to be checked by you:"
        )
        return [
            f"  {verdict}",
            *(f"    {line}" if line else "" for line in lines),
        ]

    def _has_manifest(self) -> bool:
        return (self.network.file.parent / MANIFEST_NAME).exists()

    def _opsets(self) -> list[str]:
        return [
            f"{domain['domain']} {domain['version']}{'' if domain['known'] else ' (CUSTOM)'}"
            for domain in self._domains()
        ]

    def _domains(self) -> list[dict[str, Any]]:
        own = {function.domain for function in self.network.proto.functions}
        known = STANDARD_DOMAINS.keys() | RUNTIME_DOMAINS | own
        imported = {entry.domain: entry.version for entry in self.network.proto.opset_import}
        used = dict.fromkeys(node.domain for node in all_nodes(self.network.proto))
        return [
            {"domain": name or "ai.onnx", "version": imported.get(name), "known": name in known}
            for name in dict.fromkeys([*imported, *used])
        ]


def inspect(file: Path) -> Inspection:
    """Read and describe a network.

    Raises:
        ConfigError: it cannot be read; what is wrong with one that can be read is in `problems`.
    """
    network = read_network(file)
    sort_nodes(network.proto)
    properties = {entry.key: entry.value for entry in network.proto.metadata_props}
    metadata = parse_metadata(properties)
    makers = _makers(network)
    problems = problems_of(network)
    names = names_beside(file)
    guessed = guess(network.inputs, network.outputs, metadata, makers, names)
    work = count_work(network, {} if problems else _assumed_sizes(network, guessed))
    if guessed.input is not None and work.outputs != network.outputs:
        # Once the input has a size, outputs that were open may have become known.
        guessed = guess(network.inputs, work.outputs, metadata, makers, names)
    manifest = None
    if guessed.input is not None and not guessed.needs_hand and not problems:
        external = {name: sha256_of(file.parent / name) for name in network.external}
        manifest = draft_manifest(file, network.sha256, guessed, properties, external)
    return Inspection(network, work, properties, metadata, guessed, manifest, tuple(problems))


def _makers(network: Network) -> dict[str, str]:
    """Return the operator that makes each tensor, seen through those that leave its numbers as they are."""
    makers: dict[str, str] = {}
    for node in network.proto.graph.node:  # They stand in an order that can be run.
        source = node.input[0] if node.input else ""
        for name in node.output:
            makers[name] = makers.get(source, node.op_type) if node.op_type in UNCHANGING else node.op_type
    return makers


def _assumed_sizes(network: Network, guessed: Guess) -> dict[str, tuple[int, ...]]:
    """Return numbers for an input's open dimensions, as the agent would give them."""
    if guessed.input is None:
        return {}
    port = next(known for known in network.inputs if known.name == guessed.input["name"])
    plane = (guessed.input["height"], guessed.input["width"])
    channels = 1 if guessed.input["color"] == "GRAY" else 3
    shape = (1, channels, *plane) if guessed.input["layout"] == "NCHW" else (1, *plane, channels)
    assert port.shape is not None
    is_open = any(not isinstance(size, int) for size in port.shape)
    return {port.name: shape} if is_open else {}


def _state_pairs(inputs: Sequence[Port], outputs: Sequence[Port]) -> list[tuple[Port, Port]]:
    """Return inputs that an output of the same type and rank, of the same sizes where both have one, may continue."""
    pairs: list[tuple[Port, Port]] = []
    for given in inputs:
        for made in outputs:
            sizes, others = given.shape or (), made.shape or ()
            is_alike = given.dtype == made.dtype and len(sizes) == len(others) >= 2
            stated = [
                (a, b) for a, b in zip(sizes, others, strict=False) if isinstance(a, int) and isinstance(b, int)
            ]
            is_named_alike = made.name.lower().startswith(given.name.lower())
            if is_alike and all(a == b for a, b in stated) and (is_named_alike or len(stated) == len(sizes)):
                pairs.append((given, made))
                break
    return pairs


def _port(port: Port) -> dict[str, Any]:
    return {"name": port.name, "dtype": port.dtype, "shape": None if port.shape is None else list(port.shape)}


def _openness(port: Port) -> str:
    names = ["?" if size is None else size for size in port.shape or () if not isinstance(size, int)]
    return f"  (dynamic: {', '.join(names)})" if names else ""


def _brief(value: str) -> str:
    line = " ".join(value.split())
    return line if len(line) <= 80 else line[:77] + "..."
