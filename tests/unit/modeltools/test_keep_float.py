"""Layers that cannot be int8: found by their own error, kept in float one after another, reported with their cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto
from onnx.helper import make_node

from agent.__main__ import run_command
from agent.clock import SystemClock
from agent.frame import Tensor
from agent.models.manifest import Manifest
from agent.modeltools.fold import fold, outputs_read
from agent.modeltools.layer_error import SQNR_MAX_DB, LayerError, Powers, measure_layers
from agent.modeltools.presets import PRESETS
from agent.modeltools.qdq import quantize_qdq
from agent.modeltools.quantize import quantize as quantize_model
from agent.modeltools.task import Task
from tests.unit.modeltools.networks import classifier, network, saved
from tests.unit.modeltools.test_quantize import EASY, pictures, quantize


def with_a_sensitive_layer() -> ModelProto:
    """The classifier, whose last layer sees a 1000 beside small numbers: in int8 a step is 4, and they are gone."""
    model = classifier()
    gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
    gemm.name = "head"
    gemm.input[0], gemm.input[1] = "wide", "head_wide"
    head = next(tensor for tensor in model.graph.initializer if tensor.name == "head")
    values = onnx.numpy_helper.to_array(head)
    model.graph.initializer.remove(head)
    wide = np.vstack([values, np.zeros((1, values.shape[1]), np.float32)])
    model.graph.initializer.append(onnx.numpy_helper.from_array(wide, "head_wide"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.full((1, 1), 1000, np.float32), "thousand"))
    at = list(model.graph.node).index(gemm)
    model.graph.node.insert(at, make_node("Concat", ["f", "thousand"], ["wide"], axis=1))
    return model


@pytest.fixture
def sensitive(tmp_path: Path) -> Path:
    """Its file; `model inspect` describes it."""
    return saved(with_a_sensitive_layer(), tmp_path / "net.onnx")


def test_a_sensitive_layer_stays_in_float_and_is_named_with_its_cost(
    tmp_path: Path, sensitive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first network answers nothing, the second, with that one layer in float, answers all; both are reported."""
    found = quantize(capsys, sensitive, "--calibrate", pictures(tmp_path / "pictures", 24), *EASY)
    assert found["kept_float"] == ["head"]
    first, last = found["tries"]
    assert first["accuracy"] < 0.8 <= last["accuracy"] == found["accuracy"]["value"]
    assert (first["kept_float"], last["int8_bytes"]) == ([], found["int8_bytes"])
    assert found["layers"][0]["name"] == "head"
    assert "1 layer(s) stay in float: head" in found["notes"]
    head = next(node for node in onnx.load(tmp_path / "net-int8/model.onnx").graph.node if node.output[0] == "logits")
    assert head.input[0] == "wide"
    assert "1 layer(s) stay in float: head" in (tmp_path / "net-int8/model.toml").read_text()


def test_without_layers_to_spare_it_is_refused(
    tmp_path: Path, sensitive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--keep-float 0` is one try, and its failure is not hidden."""
    folder = pictures(tmp_path / "pictures", 24)
    found = quantize(capsys, sensitive, "--calibrate", folder, *EASY, "--keep-float", "0", code=1)
    assert len(found["tries"]) == 1
    assert "top-1 agreement is" in found["failed"][0]
    assert not (tmp_path / "net-int8").exists()


def test_tries_end_at_the_stated_number(tmp_path: Path, sensitive: Path) -> None:
    """A bound that nothing can hold: 0, 1 and 2 layers are tried, and all of that is told."""
    task = Task(
        sensitive,
        pictures(tmp_path / "pictures", 24),
        accuracy_min=1.1,
        size_max=9,
        latency_max=1000,
        keep_float_max=2,
    )
    report = quantize_model(task, SystemClock(), lambda name, steps: lambda: None)
    assert [len(one.kept_float) for one in report.tries] == [0, 1, 2]
    assert "after 3 tries, the bound is 1.1" in report.failed[0]
    said = report.text()
    assert "try 3     2 layer(s) in float: accuracy " in said
    assert f"in float  head, {report.kept_float[1]}: " in said
    assert report.output is None


def test_layers_in_float_are_no_cure_for_kernels_that_saturate(tmp_path: Path, sensitive: Path) -> None:
    """They are not tried: what is wrong is how this CPU multiplies, in every layer."""
    task = Task(sensitive, pictures(tmp_path / "pictures", 12), kernels_min=1.1, size_max=9, latency_max=1000)
    report = quantize_model(task, SystemClock(), lambda name, steps: lambda: None)
    assert len(report.tries) == 1
    assert "its kernels saturate here" in report.failed[-1]


def test_each_layers_error_is_reported_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table for people, the same for programs, the worst first, and a picture of either kind."""
    file = saved(classifier(), tmp_path / "net.onnx")
    folder = pictures(tmp_path / "pictures", 12)
    found = quantize(capsys, file, "--calibrate", folder, *EASY, "--per-layer", "--output", tmp_path / "a")
    assert {layer["operator"] for layer in found["layers"]} == {"Conv", "Gemm"}
    assert [layer["own_db"] for layer in found["layers"]] == sorted(layer["own_db"] for layer in found["layers"])
    for suffix, head in ((".svg", b"<?xml"), (".png", b"\x89PNG")):
        plot = tmp_path / f"layers{suffix}"
        arguments = ["--calibrate", str(folder), *EASY, "--plot", str(plot), "--output", str(tmp_path / f"b{suffix}")]
        assert run_command(["model", "quantize", str(file), *arguments]) == 0
        assert plot.read_bytes().startswith(head)
    said = capsys.readouterr()
    assert "layer errors, SQNR in dB" in said.out
    assert "Gemm" in said.out
    assert "plot: " in said.err
    assert run_command(["model", "quantize", str(file), "--calibrate", str(folder), "--plot", "a.pdf"]) == 78
    assert "must end in .png or .svg" in capsys.readouterr().err


def test_nobody_asks_for_layers_they_are_not_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It takes time; a good network needs no cure."""
    file = saved(classifier(), tmp_path / "net.onnx")
    found = quantize(capsys, file, "--calibrate", pictures(tmp_path / "pictures", 12), *EASY)
    assert (found["layers"], found["kept_float"], len(found["tries"])) == (None, [], 1)


def errors(tmp_path: Path, model: ModelProto, feeds: list[dict[str, Tensor]]) -> tuple[LayerError, ...]:
    """Fold, quantise and measure a network."""
    file = saved(model, tmp_path / "m.onnx")
    fold(file, file.stat().st_size, [output.name for output in model.graph.output], tmp_path / "folded.onnx")
    quantize_qdq(tmp_path / "folded.onnx", tmp_path / "int8.onnx", feeds, PRESETS["avx2"], is_folded=True)
    return measure_layers(tmp_path / "folded.onnx", tmp_path / "int8.onnx", feeds, lambda: None)


def noisy(count: int) -> list[dict[str, Tensor]]:
    """Return inputs of noise."""
    rng = np.random.default_rng(3)
    return [{"images": rng.random((1, 3, 32, 32), np.float32)} for _ in range(count)]


def test_the_error_follows_the_formula_of_onnx_runtime(tmp_path: Path) -> None:
    """One layer: alone and whole are the same, and what qdq_loss_debug makes of the two networks' outputs."""
    import onnxruntime as ort
    from onnxruntime.quantization.qdq_loss_debug import compute_signal_to_quantization_noice_ratio

    model = network(
        [make_node("Conv", ["images", "w"], ["y"], pads=[1] * 4)],
        [("y", TensorProto.FLOAT, [1, 4, 32, 32])],
        weights={"w": np.random.default_rng(1).normal(size=(4, 3, 3, 3)).astype(np.float32)},
    )
    feeds = noisy(3)
    (layer,) = errors(tmp_path, model, feeds)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    wanted, got = (
        [ort.InferenceSession(str(tmp_path / name), options).run(None, feed)[0] for feed in feeds]
        for name in ("m.onnx", "int8.onnx")
    )
    reference = compute_signal_to_quantization_noice_ratio(wanted, got)
    assert layer.own_db == layer.total_db == pytest.approx(reference, abs=0.01)
    assert 20 < layer.own_db < SQNR_MAX_DB


def test_a_layer_behind_a_bad_one_is_not_blamed_for_it(tmp_path: Path) -> None:
    """Its error in the whole network is large, its own is not."""
    rng = np.random.default_rng(1)
    rough = rng.normal(size=(4, 3, 1, 1)).astype(np.float32)
    rough[0, 0] = 3000  # One range for all channels of an activation: the others get no steps.
    smooth = np.full((4, 4, 1, 1), 1.0, np.float32)
    smooth[:, 0] = 0  # What follows reads the poor channels alone.
    model = network(
        [make_node("Conv", ["images", "rough"], ["a"]), make_node("Conv", ["a", "smooth"], ["y"])],
        [("y", TensorProto.FLOAT, [1, 4, 32, 32])],
        weights={"rough": rough, "smooth": smooth},
    )
    found = {layer.name: layer for layer in errors(tmp_path, model, noisy(3))}
    assert found["Conv:y"].own_db < 5, "its own input has no steps for what it reads"
    assert found["Conv:a"].own_db > 20
    assert found["Conv:y"].total_db < 5


def test_a_network_without_quantised_layers_has_no_errors(tmp_path: Path) -> None:
    """Nothing of it was quantised, so nothing can stay in float."""
    model = network([make_node("Sigmoid", ["images"], ["y"])], [("y", TensorProto.FLOAT, [1, 3, 32, 32])])
    assert errors(tmp_path, model, noisy(2)) == ()


def manifest_of(**decoder: Any) -> Manifest:
    """Return a manifest with a decoder."""
    values = {
        "schema": 1,
        "name": "m",
        "version": "1",
        "task": "raw",
        "license": "none",
        "model": {"path": "m.onnx", "sha256": "0" * 64},
        "input": {"name": "images", "layout": "NCHW", "dtype": "float32", "width": 32, "height": 32},
        "state": {"tensors": {"h": "h_out"}},
        "decoder": decoder,
    }
    return Manifest.model_validate(values)


def test_what_the_decoder_and_the_state_read_stays() -> None:
    """Outputs that are named, those of the state, and all of them where the decoder takes what is there."""
    names = ["scores", "boxes", "h_out", "debug"]
    assert outputs_read(manifest_of(name="ssd", boxes="boxes", scores="scores"), names) == set(names) - {"debug"}
    assert outputs_read(manifest_of(name="raw", outputs=["debug"]), names) == {"debug", "h_out"}
    assert outputs_read(manifest_of(name="yolo", prototypes="debug"), names) == set(names)


def test_what_nobody_reads_and_what_never_changes_is_taken_out(tmp_path: Path) -> None:
    """An output with its branch and weights, and a sum of constants."""
    model = network(
        [
            make_node("Add", ["one", "one"], ["two"]),
            make_node("Mul", ["images", "two"], ["y"]),
            make_node("Conv", ["images", "w"], ["debug"]),
        ],
        [("y", TensorProto.FLOAT, [1, 3, 32, 32]), ("debug", TensorProto.FLOAT, None)],
        weights={"one": np.ones(1, np.float32), "w": np.ones((64, 3, 3, 3), np.float32)},
    )
    file = saved(model, tmp_path / "m.onnx")
    found = fold(file, file.stat().st_size, ["y"], tmp_path / "folded.onnx")
    assert (found.nodes_before, found.nodes_after, found.outputs_removed) == (3, 1, ("debug",))
    assert found.bytes_after < found.bytes_before / 4
    folded = onnx.load(tmp_path / "folded.onnx")
    assert [node.name for node in folded.graph.node] == ["Mul:y"]
    assert json.loads(json.dumps(found.outputs_removed)) == ["debug"]


def test_a_layer_in_float_is_in_float_when_it_is_loaded(tmp_path: Path) -> None:
    """ONNX Runtime would quantise its weights at load, with one scale for all channels: it finds no such layer."""
    import onnxruntime as ort

    rng = np.random.default_rng(1)
    model = network(
        [
            make_node("Conv", ["images", "first"], ["a"], name="first"),
            make_node("Conv", ["a", "middle"], ["b"], name="middle"),
            make_node("Conv", ["b", "last"], ["y"], name="last"),
        ],
        [("y", TensorProto.FLOAT, [1, 8, 30, 30])],
        weights={
            "first": rng.normal(size=(8, 3, 1, 1)).astype(np.float32),
            "middle": rng.normal(size=(8, 8, 3, 3)).astype(np.float32),
            "last": np.eye(8, dtype=np.float32).reshape(8, 8, 1, 1),
        },
    )
    file = saved(model, tmp_path / "m.onnx")
    quantize_qdq(file, tmp_path / "int8.onnx", noisy(3), PRESETS["avx2"], excluded=["middle"])
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    ort.InferenceSession(str(tmp_path / "int8.onnx"), options)
    loaded = [node.op_type for node in onnx.load(tmp_path / "loaded.onnx").graph.node]
    assert (loaded.count("QLinearConv"), loaded.count("Conv")) == (2, 1)


def test_what_cannot_be_subtracted_has_an_error_too() -> None:
    """Truth values, texts, and an output of another shape, which is as much noise as there was signal."""
    for wanted, got, sqnr_db in (
        (np.array([True, True, False]), np.array([True, True, True]), 4.77),
        (np.array(["a", "b"] * 5, object), np.array(["a", "b"] * 4 + ["a", "c"], object), 10),
        (np.ones((3, 6), np.float32), np.ones((2, 6), np.float32), 0),
        (np.array([200], np.uint8), np.array([220], np.uint8), 20),
    ):
        powers = Powers()
        powers.add(wanted, got, wanted)
        assert (powers.sqnr_db("own"), powers.sqnr_db("total")) == (sqnr_db, SQNR_MAX_DB)
