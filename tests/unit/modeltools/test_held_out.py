"""What is kept of the held-out samples: no more than is compared, and no more than memory holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto
from onnx.helper import make_node

from agent.errors import ConfigError
from agent.fitting import build_steps
from agent.modeltools.held_out import KEPT_BYTES_MAX, HeldOut, play_held_out
from agent.modeltools.material import gather
from agent.modeltools.original import read_original
from agent.modeltools.progress import silent
from agent.modeltools.task import Task
from tests.paths import MOTION, WATCH_GRU
from tests.unit.modeltools.networks import classifier, network, saved
from tests.unit.modeltools.test_quantize import pictures, with_manifest

ONE_BYTES = 12_288
"""The input of the networks here, 1 x 3 x 32 x 32 in float32."""


def played(model: Path, source: Path, work: Path, bytes_max: int = KEPT_BYTES_MAX) -> HeldOut:
    """Play half of the pictures, or all windows."""
    original = read_original(model, work)
    engine = original.load()
    preprocess, _ = build_steps(original.folder, original.manifest, engine)
    is_dynamic = original.manifest.signal is not None
    material = gather(Task(model, source), original.manifest, is_dynamic=is_dynamic)
    kept = [spec.name for spec in engine.outputs]
    return play_held_out(original, material, engine, preprocess, kept, silent, bytes_max)


def plain(folder: Path) -> Path:
    """Return a model that gives its input, 12 kB, as raw numbers."""
    model = network([make_node("Relu", ["images"], ["y"])], [("y", TensorProto.FLOAT, [1, 3, 32, 32])])
    return with_manifest(saved(model, folder / "plain.onnx"))


def test_outputs_are_kept_only_where_they_are_compared(tmp_path: Path) -> None:
    """By their payloads classifiers are judged; raw numbers by their cosine."""
    folder = pictures(tmp_path / "pictures", 8)
    held = played(saved(classifier(), tmp_path / "net.onnx"), folder, tmp_path)
    assert [sample.outputs for sample in held.samples] == [{}] * 4
    held = played(plain(tmp_path), folder, tmp_path)
    assert [sample.outputs["y"].nbytes for sample in held.samples] == [ONE_BYTES] * 4
    assert held.notes == ()


def test_more_pictures_than_memory_holds_are_fewer_and_that_is_said(tmp_path: Path) -> None:
    """Evenly spread, the last one among them, and each is found again by its index."""
    folder = pictures(tmp_path / "pictures", 20)
    model = saved(classifier(), tmp_path / "net.onnx")
    held = played(model, folder, tmp_path, bytes_max=4 * ONE_BYTES)
    assert (len(held.samples), len(held.sides_px), held.material.held_out_count) == (3, 3, 3)
    (note,) = held.notes
    assert note.startswith("3 of 10 held-out pictures judge: each takes 0.0 MiB")
    assert [item.file.name for item in held.material.held_out()] == ["01.png", "09.png", "19.png"]
    assert held.material.picture is not None
    for index, item in enumerate(held.material.held_out()):
        assert (held.material.picture(index) == item.content).all()


def test_fewer_windows_are_the_first_ones(tmp_path: Path) -> None:
    """A state goes on from one to the next."""
    every = played(WATCH_GRU, MOTION, tmp_path)
    some = played(WATCH_GRU, MOTION, tmp_path, bytes_max=40_000)
    assert 2 <= len(some.samples) < len(every.samples)
    assert f"{len(some.samples)} of {len(every.samples)} held-out windows judge" in some.notes[0]
    for one, other in zip(some.samples, every.samples, strict=False):
        assert all(np.array_equal(one.inputs[name], other.inputs[name]) for name in one.inputs)


def test_a_sample_that_is_too_large_is_refused_with_its_size(tmp_path: Path) -> None:
    """Two must fit."""
    folder = pictures(tmp_path / "pictures", 8)
    with pytest.raises(ConfigError, match="MiB with what is compared, and 2 must fit"):
        played(plain(tmp_path), folder, tmp_path, bytes_max=3 * ONE_BYTES)
