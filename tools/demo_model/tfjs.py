"""Reads TensorFlow.js graph models."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class TfjsGraph:
    """A TensorFlow.js graph model in memory."""

    nodes: dict[str, dict[str, Any]]
    """Nodes of the topology by name."""

    weights: dict[str, NDArray[Any]]
    """Constants by name, in TensorFlow's layouts (HWIO kernels)."""


def load_tfjs(folder: Path) -> TfjsGraph:
    """Reads `model.json` and the weight shards beside it.

    Raises:
        ValueError: The shards are shorter than the manifest says.
    """
    model = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    weights: dict[str, NDArray[Any]] = {}
    for group in model["weightsManifest"]:
        content = b"".join((folder / shard).read_bytes() for shard in group["paths"])
        offset = 0
        for entry in group["weights"]:
            dtype = np.dtype(entry["dtype"])
            count = int(np.prod(entry["shape"], dtype=np.int64))
            weights[entry["name"]] = np.frombuffer(content, dtype, count, offset).reshape(entry["shape"])
            offset += count * dtype.itemsize
    return TfjsGraph({node["name"]: node for node in model["modelTopology"]["node"]}, weights)
