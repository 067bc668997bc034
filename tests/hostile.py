"""Releases that no device should serve: model folders that are huge, endless or fatal, made when a test asks."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto
from onnx.helper import make_graph, make_node, make_tensor_value_info

from tests.paths import MODELS
from tests.unit.modeltools.networks import Port, network

IMAGES: Port = ("images", TensorProto.UINT8, [1, 32, 32, 3])
SCORES: Port = ("scores", TensorProto.FLOAT, [1, 4])
DEEP = 100_000
"""Branches of a tree one below the other: ONNX Runtime builds trees by recursion, and 8 MiB of stack end at half."""


def endless() -> ModelProto:
    """A Loop whose condition is always true."""
    return _looping([], {"go_on": True})


def endless_when_bright() -> ModelProto:
    """As `endless` for a picture with a pixel above 15; on a black one, as that of a trial, it ends at once."""
    nodes = [
        make_node("ReduceMax", ["pixels"], ["brightest"], keepdims=0),
        make_node("Greater", ["brightest", "dark"], ["go_on"]),
    ]
    return _looping(nodes, {"dark": np.array(15, np.float32)})


def _looping(condition: list[NodeProto], weights: dict[str, object]) -> ModelProto:
    body = make_graph(
        [make_node("Identity", ["go"], ["on"]), make_node("Identity", ["v"], ["w"])],
        "body",
        [
            make_tensor_value_info("i", TensorProto.INT64, []),
            make_tensor_value_info("go", TensorProto.BOOL, []),
            make_tensor_value_info("v", TensorProto.FLOAT, [1, 4]),
        ],
        [make_tensor_value_info("on", TensorProto.BOOL, []), make_tensor_value_info("w", TensorProto.FLOAT, [1, 4])],
    )
    nodes = [*_first_four(), *condition, make_node("Loop", ["", "go_on", "four"], ["scores"], body=body)]
    return network(nodes, [SCORES], inputs=[IMAGES], weights={**weights, **_SLICE})


def gigabytes() -> ModelProto:
    """Some hundred bytes that ask for 28 GiB."""
    return _filled([2, 60_000, 60_000])


def hundreds_of_megabytes() -> ModelProto:
    """It works, and takes 250 MiB."""
    return _filled([250 << 18])


def fatal() -> ModelProto:
    """A tree so deep that building it overflows the stack."""
    ids, leaves = list(range(2 * DEEP + 1)), DEEP + 1
    zeros = [0] * len(ids)
    tree = make_node(
        "TreeEnsembleRegressor",
        ["four"],
        ["scores"],
        domain="ai.onnx.ml",
        n_targets=4,
        nodes_treeids=zeros,
        nodes_nodeids=ids,
        nodes_featureids=zeros,
        nodes_values=[0.0] * len(ids),
        nodes_modes=["BRANCH_LEQ"] * DEEP + ["LEAF"] * leaves,
        nodes_truenodeids=[*range(1, DEEP), 2 * DEEP, *[0] * leaves],
        nodes_falsenodeids=[*range(DEEP, 2 * DEEP), *[0] * leaves],
        target_treeids=[0] * leaves,
        target_nodeids=ids[DEEP:],
        target_ids=[0] * leaves,
        target_weights=[1.0] * leaves,
    )
    nodes = [*_first_four(), tree]
    return network(nodes, [SCORES], inputs=[IMAGES], weights=_SLICE, domains={"ai.onnx.ml": 3})


def folder_of(make: Callable[[], ModelProto], folder: Path) -> Path:
    """Write a model folder whose manifest is right and whose network is not; without a golden sample."""
    shutil.copytree(MODELS / "tiny", folder, ignore=shutil.ignore_patterns("golden.*"))
    content = make().SerializeToString()
    (folder / "model.onnx").write_bytes(content)
    manifest = folder / "model.toml"
    digest = hashlib.sha256(content).hexdigest()
    kept = manifest.read_text().partition("[golden]")[0]
    manifest.write_text(re.sub(r'sha256 = "\w+"', f'sha256 = "{digest}"', kept))
    return folder


def wrong_golden(folder: Path) -> Path:
    """Write a model folder whose network does not give what its golden sample says."""
    shutil.copytree(MODELS / "tiny", folder)
    golden = folder / "golden.json"
    body = json.loads(golden.read_text())
    golden.write_text(json.dumps({key: [{**item, "score": 0.123} for item in value] for key, value in body.items()}))
    return folder


_SLICE = {"from": np.array([0]), "to": np.array([4]), "axis": np.array([1])}


def _first_four() -> list[NodeProto]:
    """Four numbers of the picture."""
    return [
        make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        make_node("Flatten", ["pixels"], ["flat"]),
        make_node("Slice", ["flat", "from", "to", "axis"], ["four"]),
    ]


def _filled(shape: list[int]) -> ModelProto:
    """A tensor of the shape, made from the picture so that it cannot be made beforehand, and four numbers of it."""
    nodes = [
        *_first_four(),
        make_node("ReduceMax", ["four"], ["most"], keepdims=0),
        make_node("Expand", ["most", "shape"], ["filled"]),
        make_node("Reshape", ["filled", "row"], ["flat_again"]),
        make_node("Slice", ["flat_again", "from", "to", "axis"], ["scores"]),
    ]
    sizes = {"shape": np.array(shape), "row": np.array([1, -1]), **_SLICE}
    return network(nodes, [SCORES], inputs=[IMAGES], weights=sizes)
