"""The float model that is to be quantised: found, described, tried in a child process, and loaded."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from agent.engine.session import OrtEngine
from agent.errors import ConfigError
from agent.loading import LOAD_LIMIT_S, within
from agent.models.assumed import labels_of
from agent.models.manifest import MANIFEST_NAME, Manifest, load_labels, load_manifest
from agent.modeltools.dynamic import recurrent_operators
from agent.modeltools.inspect import inspect
from agent.modeltools.measure import METRICS, ONE_CLASS
from agent.modeltools.network import STANDARD_DOMAINS, Network, all_nodes, read_network
from agent.modeltools.problems import RUNTIME_DOMAINS
from agent.modeltools.trials import try_networks

QUANTIZED = frozenset({"DequantizeLinear", "DynamicQuantizeLinear", "DynamicQuantizeLSTM", "QuantizeLinear"})


@dataclass(frozen=True, slots=True, eq=False)
class Original:
    """The fp32 model.

    Attributes:
        file: its network.
        folder: with its labels and its golden sample.
        manifest: what model.toml says, or would say.
        bytes_total: of the network and its files of weights.
        recurrent: kinds of recurrent operators that it has.
        notes: what a person should know.
    """

    file: Path
    folder: Path
    manifest: Manifest
    bytes_total: int
    recurrent: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def metric(self) -> str:
        """Return by which measure int8 is judged."""
        manifest = self.manifest
        if manifest.task == "classification" and manifest.labels is not None:
            is_single = len(load_labels(self.folder, manifest.labels)) == 1
            return ONE_CLASS if is_single else METRICS[manifest.task]
        if manifest.task == "segmentation" and manifest.decoder.get("mask", "rle") != "rle":
            return "cosine"
        return METRICS.get(manifest.task, "cosine")

    def load(self) -> OrtEngine:
        """Load the network, after a child process has survived that.

        Raises:
            ConfigError: it cannot be used.
        """
        stated = self.manifest.model
        own = self.manifest.model_copy(update={"variants": ()})
        _, refused = try_networks(self.file.parent, own)
        if refused:
            raise ConfigError(list(refused[stated.path]))
        load = partial(OrtEngine, self.file, threads=1, sha256=stated.sha256, external=stated.external_data)
        return within(LOAD_LIMIT_S, f"{self.file}: loading", load)


def read_original(path: Path, work: Path) -> Original:
    """Return the fp32 model; a file without model.toml is taken as `model inspect` would describe it.

    Args:
        path: of a model folder or an .onnx file.
        work: a folder for the labels that were assumed.

    Raises:
        ConfigError: it cannot be read, or is quantised already.
    """
    beside = path if path.is_dir() else path.parent
    if path.is_dir() or (beside / MANIFEST_NAME).exists():
        folder, manifest = load_manifest(path)
        file, notes = folder / manifest.model.path, []
        if manifest.variants:
            notes.append(f"{len(manifest.variants)} variant(s) of the original are not taken over")
    else:
        found = inspect(path)
        _check_domains(found.network)
        if found.problems or found.manifest is None:
            raise ConfigError(list(found.problems) or [f"{path}: {text}" for text in found.guess.obstacles])
        file, folder, manifest = path, work, found.manifest
        (work / "labels.txt").write_text("".join(f"{label}\n" for label in labels_of(found.guess)), encoding="utf-8")
        notes = [f"without model.toml, this was assumed: {text}" for text in found.guess.why]
    network = read_network(file)
    _check_domains(network)
    if any(node.op_type in QUANTIZED for node in all_nodes(network.proto)):
        raise ConfigError(f"{file}: is quantised already: give the float network")
    size = network.file_bytes + sum(network.external.values())
    return Original(file, folder, manifest, size, tuple(recurrent_operators(network.proto)), tuple(notes))


def _check_domains(network: Network) -> None:
    """Refuse custom operators: neither the quantiser nor the sessions that it makes could load their library."""
    own = {function.domain for function in network.proto.functions}
    known = own | RUNTIME_DOMAINS | STANDARD_DOMAINS.keys()
    if custom := sorted({node.domain for node in all_nodes(network.proto)} - known):
        raise ConfigError(
            f"{network.file}: custom domain {', '.join(map(repr, custom))}: quantize loads no libraries of "
            "operators: export the model without them, or keep it in float"
        )
