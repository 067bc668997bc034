"""Networks that remember are quantised dynamically, and judged in order with the state that they make themselves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx.helper import make_node

from agent.__main__ import run_command
from agent.engine.session import OrtEngine
from agent.models.manifest import load_manifest
from agent.models.recording import golden_windows
from agent.models.signal import SignalSpec
from agent.modeltools.dynamic import quantize_dynamically, recurrent_operators
from agent.modeltools.network import all_nodes, read_network
from agent.modeltools.presets import PRESETS
from agent.modeltools.recordings import split_recordings
from tests.paths import MOTION, SILERO_VAD, SPEECH, WATCH_GRU
from tests.unit.modeltools.networks import network, saved
from tests.unit.modeltools.test_quantize import pictures, quantize

SLOW = ("--latency-max", "1000")
"""Whether it is fast is a question for a quiet machine."""


def operators(file: Path) -> set[str]:
    """Return the kinds of operators of a network, bodies included."""
    return {node.op_type for node in all_nodes(read_network(file).proto)}


def test_a_gru_is_quantised_dynamically_and_judged_with_its_own_state(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The shipped exercise recogniser on the demo's recording: the weights of GRU and Conv are stored as int8."""
    output = tmp_path / "int8"
    found = quantize(capsys, WATCH_GRU, "--calibrate", MOTION, *SLOW, "--output", output)
    assert (found["method"], found["method_why"], found["held"]) == ("dynamic", "it has GRU", "windows")
    assert (found["calibration_pictures"], found["kernels"], found["layers"]) == (0, None, None)
    assert (found["accuracy"]["metric"], found["accuracy"]["value"]) == ("top-1 agreement", 1.0)
    assert found["size_ratio"] < 0.33
    assert {"GRU", "DequantizeLinear"} <= operators(output / "model.onnx")
    assert {file.name for file in output.iterdir()} >= {"golden.csv", "golden.json", "labels.txt", "LICENSE"}
    assert load_manifest(output)[1].version == "1.0.0+int8"
    assert run_command(["model", "verify", str(output), "--threads", "1"]) == 0
    assert "may serve on this device" in capsys.readouterr().out


def test_an_lstm_in_the_bodies_of_an_if_is_found_and_quantised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The shipped voice detector on a reading: one class, so yes and no are compared."""
    output = tmp_path / "int8"
    found = quantize(capsys, SILERO_VAD, "--calibrate", SPEECH, *SLOW, "--output", output)
    assert (found["method"], found["accuracy"]["metric"]) == ("dynamic", "agreement at 0.5")
    assert found["accuracy"]["value"] >= 0.98
    assert "fp32 says yes to" in found["accuracy"]["detail"]
    assert found["size_ratio"] < 0.4
    assert found["folding"]["nodes_after"] < found["folding"]["nodes_before"] / 2
    assert "DynamicQuantizeLSTM" in operators(output / "model.onnx")
    assert "LSTM" not in operators(output / "model.onnx")
    assert "dynamic: MatMul and LSTM compute in int8" in (output / "model.toml").read_text()


def test_the_method_can_be_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Static quantisation of the same network calibrates with half of the recording; it leaves the GRU in float."""
    arguments = ["--calibrate", MOTION, *SLOW, "--size-max", "2", "--accuracy-min", "0.9", "--method", "static"]
    found = quantize(capsys, WATCH_GRU, *arguments, "--output", tmp_path / "int8", "--keep-float", "0")
    assert (found["method"], found["method_why"]) == ("static", "as asked")
    assert (found["calibration_pictures"], found["accuracy"]["pictures"]) == (24, 24)
    assert found["kernels"] > 0.97
    assert {"GRU", "QuantizeLinear"} <= operators(tmp_path / "int8/model.onnx")


def test_a_layer_that_hurts_a_recurrent_network_stays_in_float(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each layer alone on the outputs of the shipped voice detector: the first convolutions cost its four answers."""
    output = tmp_path / "int8"
    arguments = ["--calibrate", SPEECH, *SLOW, "--accuracy-min", "1", "--size-max", "0.7", "--output", output]
    found = quantize(capsys, SILERO_VAD, *arguments)
    assert len(found["layers"]) == 8
    assert {layer["operator"] for layer in found["layers"]} == {"Conv", "LSTM"}
    assert found["tries"][0]["accuracy"] < 1.0 == found["accuracy"]["value"]
    assert found["kept_float"] == [layer["name"] for layer in found["layers"][: len(found["kept_float"])]]
    assert found["tries"][0]["int8_bytes"] < found["int8_bytes"]
    assert "layer(s) stay in float" in (output / "model.toml").read_text()


def test_a_network_without_a_golden_recording_gets_none_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A note, and `model verify` says that nothing is proven."""
    folder = Path(shutil.copytree(WATCH_GRU, tmp_path / "watch"))
    manifest = folder / "model.toml"
    manifest.write_text(manifest.read_text().partition("[golden]")[0])
    found = quantize(capsys, folder, "--calibrate", MOTION, *SLOW)
    assert "the original has no golden recording, so int8 has none" in found["notes"]
    assert run_command(["model", "verify", str(tmp_path / "watch-int8"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["proven"] is False


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "holds no recordings (.csv, .wav)"),
        ("ax,ay,az,wx,wy,wz\n" + "0,0,0,0,0,0\n" * 25, "1 window(s) of 25 samples"),
        ("ax,ay,az,wx,wy,wz\n" + "0,0,0,0,0,0\n" * 9, "has 9 samples, one window takes 25"),
        ("ax,ay\n1,2\n", "az"),
    ],
)
def test_recordings_that_are_absent_or_too_short_are_one_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, said: str
) -> None:
    """Empty folders, one window, less than one, and other channels."""
    folder = tmp_path / "recordings"
    folder.mkdir()
    if content is not None:
        (folder / "a.csv").write_text(content)
    arguments = ["--calibrate", str(folder), "--output", str(tmp_path / "int8")]
    assert run_command(["model", "quantize", str(WATCH_GRU), *arguments]) == 78
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not (tmp_path / "int8").exists()


def test_pictures_are_no_recordings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a model takes decides what is looked for."""
    folder = pictures(tmp_path / "pictures", 2)
    arguments = ["--calibrate", str(folder), "--output", str(tmp_path / "int8")]
    assert run_command(["model", "quantize", str(WATCH_GRU), *arguments]) == 78
    assert "holds no recordings" in capsys.readouterr().err


def test_recordings_are_shared_out_without_a_window_in_common(tmp_path: Path) -> None:
    """Every second one of several, half of one, and everything judges where nothing is calibrated."""
    spec = SignalSpec(name="x", layout="NTC", rate_hz=50, length=25, channels=("a",))
    for index in range(3):
        (tmp_path / f"{index}.csv").write_text("a\n" + f"{index}\n" * 100)
    several = split_recordings(tmp_path, None, spec, is_dynamic=False)
    assert [take.file.name for take in several.calibration] == ["0.csv", "2.csv"]
    assert [take.file.name for take in several.held_out] == ["1.csv"]
    one = split_recordings(tmp_path / "0.csv", None, spec, is_dynamic=False)
    assert [len(take.windows) for take in (*one.calibration, *one.held_out)] == [2, 2]
    everything = split_recordings(tmp_path, None, spec, is_dynamic=True)
    assert (len(everything.calibration), len(everything.held_out)) == (0, 3)
    assert len(golden_windows(tmp_path / "0.csv", spec)) == 4


def test_recurrent_operators_are_found() -> None:
    """In the graph and in bodies."""
    assert recurrent_operators(read_network(WATCH_GRU / "model.onnx").proto) == ["GRU"]
    assert recurrent_operators(read_network(SILERO_VAD / "model.onnx").proto) == ["LSTM"]


def test_stored_weights_are_near_and_shared_ones_are_stored_once(tmp_path: Path) -> None:
    """Two convolutions with the same weight: one int8 tensor, and numbers within half a step of a channel's range."""
    rng = np.random.default_rng(2)
    weight = rng.normal(size=(40, 3, 3, 3)).astype(np.float32) * np.logspace(-3, 3, 40).reshape(-1, 1, 1, 1)
    model = network(
        [make_node("Conv", ["images", "w"], ["a"]), make_node("Conv", ["images", "w"], ["b"])],
        [("a", TensorProto.FLOAT, [1, 40, 30, 30]), ("b", TensorProto.FLOAT, [1, 40, 30, 30])],
        weights={"w": weight.astype(np.float32)},
    )
    file = saved(model, tmp_path / "m.onnx")
    quantize_dynamically(file, tmp_path / "int8.onnx", PRESETS["avx2"])
    stored = onnx.load(tmp_path / "int8.onnx")
    assert sorted(tensor.name for tensor in stored.graph.initializer) == ["w_int8", "w_scale"]
    assert (tmp_path / "int8.onnx").stat().st_size < file.stat().st_size / 2
    feed = {"images": rng.random((1, 3, 32, 32), np.float32)}
    outputs = []
    for name in ("m.onnx", "int8.onnx"):
        engine = OrtEngine(tmp_path / name, threads=1, sha256=None)
        outputs.append(engine.run(feed, engine.new_abort())[0])
    step = np.abs(weight).max(axis=(1, 2, 3)) / 127
    error = np.abs(outputs[0] - outputs[1]).max(axis=(0, 2, 3))
    assert (error <= 27 * step / 2 * 1.01).all(), "27 weights meet inputs of at most 1"
