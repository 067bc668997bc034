"""`edgebeat model quantize`: a complete folder when every bound holds, and otherwise nothing but the reason."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx.helper import make_node
from onnx.numpy_helper import to_array

from agent.__main__ import run_command
from agent.cli.model_quantize import ends_on_sigterm
from agent.clock import SystemClock
from agent.engine.session import OrtEngine
from agent.errors import ConfigError, PermanentError
from agent.frame import Tensor
from agent.interfaces import Placement
from agent.models.golden import read_picture
from agent.models.manifest import load_manifest
from agent.models.preprocess import build_preprocess
from agent.modeltools.agreement import Agreement, Found, cosine, match
from agent.modeltools.folder import choose_golden, new_folder
from agent.modeltools.measure import METRICS, ONE_CLASS, Accuracy, Player, Sample, measure_accuracy, measure_kernels
from agent.modeltools.pictures import read, split
from agent.modeltools.presets import preset_of_this_cpu
from agent.modeltools.quantize import quantize as quantize_model
from agent.modeltools.task import Task
from agent.result import Mask, Payload, Segment, TensorValues
from tests.paths import BROKEN_INT8, CLIP, COCO_SSD, MOTION, WATCH_GRU
from tests.unit.engine.test_trial import gigabytes
from tests.unit.modeltools.networks import classifier, network, saved
from tests.unit.modeltools.test_verify import with_network

EASY = ("--accuracy-min", "0.8", "--size-max", "9", "--latency-max", "1000")
"""A network of 1 kB is not made smaller or faster; these tests are not about that."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A float classifier with a manifest and a licence."""
    folder = tmp_path / "model"
    folder.mkdir()
    assert run_command(["model", "inspect", str(saved(classifier(), folder / "net.onnx")), "--write"]) == 0
    (folder / "LICENSE").write_text("free\n")
    return folder


def pictures(folder: Path, count: int) -> Path:
    """Write different pictures of one colour and noise each."""
    folder.mkdir()
    rng = np.random.default_rng(1)
    for index in range(count):
        pixels = rng.integers(0, 30, (40, 48, 3)) + rng.integers(0, 220, 3)
        cv2.imwrite(str(folder / f"{index:02}.png"), pixels.astype(np.uint8))
    return folder


def quantize(capsys: pytest.CaptureFixture[str], model: Path, *arguments: object, code: int = 0) -> dict[str, Any]:
    """Run the command and return its JSON."""
    capsys.readouterr()
    assert run_command(["model", "quantize", str(model), *map(str, arguments), "--json"]) == code
    values: dict[str, Any] = json.loads(capsys.readouterr().out)
    return values


def test_a_good_int8_model_is_written_complete(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Network, manifest, labels, licence and a golden sample from fp32, proven on this device."""
    found = quantize(capsys, model, "--calibrate", pictures(tmp_path / "pictures", 24), *EASY)
    output = tmp_path / "model-int8"
    assert (found["failed"], found["output"]) == ([], str(output))
    assert (found["calibration_pictures"], found["accuracy"]["pictures"]) == (12, 12)
    names = {"model.onnx", "model.toml", "labels.txt", "LICENSE", "golden.png", "golden.json"}
    assert {file.name for file in output.iterdir()} == names
    assert run_command(["model", "verify", str(output), "--threads", "1"]) == 0
    assert "may serve on this device" in capsys.readouterr().out
    assert load_manifest(output)[1].version == "0+int8"
    assert {file.name for file in tmp_path.iterdir()} == {"model", "model-int8", "pictures"}


def test_a_file_without_a_manifest_is_taken_as_inspect_describes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was assumed is among the notes."""
    file = saved(classifier(), tmp_path / "net.onnx")
    found = quantize(capsys, file, "--calibrate", pictures(tmp_path / "pictures", 12), *EASY)
    assert any("without model.toml, this was assumed: classification" in note for note in found["notes"])
    assert (tmp_path / "net-int8" / "labels.txt").read_text() == "class 0\nclass 1\nclass 2\n"


def test_a_bound_that_does_not_hold_keeps_fp32(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1, the bound with its figures, and nothing left behind."""
    folder = pictures(tmp_path / "pictures", 12)
    found = quantize(capsys, model, "--calibrate", folder, *EASY, "--size-max", "0.01", code=1)
    (failure,) = found["failed"]
    assert "of fp32's bytes, the bound is 0.01" in failure
    assert found["output"] is None
    assert {file.name for file in tmp_path.iterdir()} == {"model", "pictures"}


def test_the_originals_own_golden_sample_must_hold(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sample that int8 misses refuses it, though every other bound holds."""
    folder = pictures(tmp_path / "pictures", 12)
    shutil.copy(folder / "00.png", model / "golden.png")
    (model / "golden.json").write_text('{"classes": []}')
    with (model / "model.toml").open("a") as manifest:
        manifest.write('\n[golden]\nimage = "golden.png"\nexpected = "golden.json"\n')
    found = quantize(capsys, model, "--calibrate", folder, *EASY, code=1)
    assert "does not reproduce its golden sample" in found["failed"][0]
    assert not (tmp_path / "model-int8").exists()


@pytest.mark.parametrize(
    ("count", "said"), [(0, "holds no pictures"), (1, "1 different picture"), (3, "3 different")]
)
def test_too_few_pictures_are_refused(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str], count: int, said: str
) -> None:
    """Empty, and of one picture."""
    folder = pictures(tmp_path / "pictures", count)
    capsys.readouterr()
    assert run_command(["model", "quantize", str(model), "--calibrate", str(folder)]) == 78
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_what_cannot_be_quantised_is_one_error(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Int8 already, an output that exists, pictures that are none, and a source that is absent."""
    folder = pictures(tmp_path / "pictures", 6)
    text = tmp_path / "clip.mp4"
    text.write_text("no clip")
    for path, source, output, said in (
        (COCO_SSD, folder, tmp_path / "new", "is quantised already"),
        (model, folder, model, "is there already"),
        (model, text, tmp_path / "new", "is not a video"),
        (model, tmp_path / "nothing", tmp_path / "new", "no such folder or clip"),
    ):
        capsys.readouterr()
        arguments = ["model", "quantize", str(path), "--calibrate", str(source), "--output", str(output)]
        assert run_command(arguments) == 78
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line
    (folder / "05.png").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"05.png: is not a readable picture"):
        split(folder, None, 10)


def test_a_picture_that_promises_gigabytes_is_one_error(tmp_path: Path) -> None:
    """OpenCV raises for it instead of giving nothing; the file is named."""
    folder = pictures(tmp_path / "pictures", 4)
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b""))
    (folder / "02.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
            for kind, body in chunks
        )
    )
    with pytest.raises(ConfigError, match=r"02.png: is not a readable picture: OpenCV"):
        split(folder, None, 10)


@pytest.mark.parametrize("file_bytes_max", [1000, 1500, 3000])
def test_a_full_disk_is_a_clear_error(tmp_path: Path, model: Path, file_bytes_max: int) -> None:
    """A limit on the size of files stands for it: folding or quantising fails, and nothing is left, no folder."""
    folder = pictures(tmp_path / "pictures", 8)
    ended = quantized_with_files_of(file_bytes_max, model, folder, tmp_path / "a" / "b" / "model-int8")
    assert ended.returncode == 1
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("edgebeat: ")]
    assert line == f"edgebeat: {tmp_path / 'a' / 'b' / 'model-int8'}: File too large: nothing was written"
    assert "Traceback" not in ended.stderr
    assert {file.name for file in tmp_path.iterdir()} == {"model", "pictures"}


def test_a_full_disk_in_dynamic_quantisation_is_a_clear_error(tmp_path: Path) -> None:
    """The float network of 180 kB fits nowhere."""
    ended = quantized_with_files_of(90_000, WATCH_GRU, MOTION, tmp_path / "int8")
    assert ended.returncode == 1
    assert "File too large: nothing was written" in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_new_folders_above_the_output_stay_only_with_it(tmp_path: Path) -> None:
    """Those that were there stay, and so do those that somebody else has put something into."""
    (tmp_path / "a").mkdir()
    target = tmp_path / "a" / "b" / "c" / "m"
    with new_folder(target):
        pass
    assert list(tmp_path.rglob("*")) == [tmp_path / "a"]
    with new_folder(target):
        (tmp_path / "a" / "b" / "mine").touch()
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "a", tmp_path / "a" / "b", tmp_path / "a" / "b" / "mine"]
    with new_folder(target) as folder:
        (folder / "model.onnx").touch()
    assert (target / "model.onnx").is_file()


def test_a_signal_to_end_takes_away_what_was_begun(tmp_path: Path, model: Path) -> None:
    """SIGTERM in the middle of the work, wherever it is; afterwards the signal does again what it did."""
    before = signal.getsignal(signal.SIGTERM)
    folder = pictures(tmp_path / "pictures", 8)
    for wanted in ("original", "calibrating", "comparing"):

        def stage(name: str, steps: int, wanted: str = wanted) -> Callable[[], None]:
            if name == wanted:
                os.kill(os.getpid(), signal.SIGTERM)
            return lambda: None

        with pytest.raises(SystemExit) as ended, ends_on_sigterm():
            quantize_model(Task(model, folder), SystemClock(), stage)
        assert ended.value.code == 143
        assert {file.name for file in tmp_path.iterdir()} == {"model", "pictures"}
        assert signal.getsignal(signal.SIGTERM) is before


def test_the_command_ends_on_sigterm_with_its_code(tmp_path: Path, model: Path) -> None:
    """As a shell would tell it, without a traceback; the signal comes where the pictures are looked at."""
    folder = pictures(tmp_path / "pictures", 4)
    command = ["model", "quantize", str(model), "--calibrate", str(folder)]
    code = (
        "import os, signal; from agent.__main__ import main; import agent.modeltools.quantize as begun\n"
        "begun.gather = lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM)\n"
        f"main({command!r})"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (ended.returncode, ended.stderr) == (143, "")
    assert {file.name for file in tmp_path.iterdir()} == {"model", "pictures"}


def quantized_with_files_of(
    file_bytes_max: int, model: Path, calibrate: Path, output: Path
) -> subprocess.CompletedProcess[str]:
    """Run the command in a process that cannot write larger files."""
    command = ["model", "quantize", str(model), "--calibrate", str(calibrate), "--output", str(output)]
    command += ["--accuracy-min", "0", "--size-max", "9", "--latency-max", "1000"]
    code = (
        "import resource; from agent.__main__ import main\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({file_bytes_max}, {file_bytes_max}))\n"
        f"main({command!r})"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=100)


def refusal(capsys: pytest.CaptureFixture[str], model: Path, folder: Path) -> str:
    """Run the command on a bad model; return its one error."""
    capsys.readouterr()
    assert run_command(["model", "quantize", str(model), "--calibrate", str(folder)]) == 78
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_networks_that_cannot_be_run_are_one_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """NaN, operators that do not exist or are somebody's own, half a file, and one that asks for 28 GiB."""
    folder = pictures(tmp_path / "pictures", 4)
    shape = [1, 3, 32, 32]
    for name, model, said in (
        (
            "nan",
            network(
                [make_node("Div", ["z", "z"], ["n"]), make_node("Mul", ["images", "n"], ["y"])],
                [("y", TensorProto.FLOAT, shape)],
                weights={"z": np.zeros(1, np.float32)},
            ),
            "holds NaN",
        ),
        ("unknown", network([make_node("Wizard", ["images"], ["y"])], [("y", TensorProto.FLOAT, shape)]), "Wizard"),
        (
            "custom",
            network(
                [make_node("Magic", ["images"], ["y"], domain="my.ops")],
                [("y", TensorProto.FLOAT, shape)],
                domains={"my.ops": 1},
            ),
            "custom domain 'my.ops'",
        ),
        ("gigabytes", gigabytes(), "it asks for more than the"),
    ):
        file = saved(model, tmp_path / f"{name}.onnx")
        assert said in refusal(capsys, with_manifest(file) if name == "gigabytes" else file, folder)
        assert not (tmp_path / f"{name}-int8").exists()
    content = classifier().SerializeToString()
    (tmp_path / "half.onnx").write_bytes(content[: len(content) // 2])
    assert "is truncated" in refusal(capsys, tmp_path / "half.onnx", folder)


def test_custom_operators_are_refused_without_advice_that_does_not_help(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No library can be named here, so none is asked for; with a manifest and without one."""
    folder = pictures(tmp_path / "pictures", 4)
    magic = network(
        [make_node("Magic", ["images"], ["y"], domain="my.ops")],
        [("y", TensorProto.FLOAT, [1, 3, 32, 32])],
        domains={"my.ops": 1},
    )
    file = saved(magic, tmp_path / "magic.onnx")
    for model in (file, with_manifest(file)):
        line = refusal(capsys, model, folder)
        assert "custom domain 'my.ops': quantize loads no libraries of operators" in line
        assert "engine.custom_ops" not in line


def with_manifest(file: Path) -> Path:
    """Return a folder with a network that `inspect` cannot describe."""
    folder = file.with_suffix("")
    return with_network(folder, onnx.load(file))


@pytest.mark.parametrize(
    ("machine", "flags", "name"),
    [
        ("x86_64", "fpu avx avx2", "avx2"),
        ("x86_64", "avx2 avx512_vnni", "vnni"),
        ("x86_64", "avx2 avx_vnni", "vnni"),
        ("x86_64", "", "avx2"),
        ("aarch64", "asimddp", "arm"),
    ],
)
def test_the_preset_follows_the_cpu(tmp_path: Path, machine: str, flags: str, name: str) -> None:
    """What is not known to have VNNI is treated with care."""
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"flags\t\t: {flags}\n")
    assert preset_of_this_cpu(cpuinfo=cpuinfo, machine=machine).name == name
    assert preset_of_this_cpu(cpuinfo=tmp_path / "absent", machine="x86_64").name == "avx2"


def test_calibration_and_judgement_share_no_picture(tmp_path: Path) -> None:
    """Not even as copies under another name, nor from a folder of its own."""
    folder = pictures(tmp_path / "pictures", 8)
    shutil.copy(folder / "00.png", folder / "copy.png")
    chosen = split(folder, None, 100)
    assert len(chosen.calibration) + len(chosen.held_out) == 8
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    with pytest.raises(ConfigError, match="different picture"):
        split(folder, other, 100)


def test_limits_that_make_no_sense_are_wrong_usage(model: Path) -> None:
    """Below two sets of two there is nothing to split."""
    for option, value in (("--pictures-max", "3"), ("--accuracy-min", "1.5"), ("--size-max", "0")):
        with pytest.raises(SystemExit) as ended:
            run_command(["model", "quantize", str(model), "--calibrate", str(CLIP), option, value])
        assert ended.value.code == 2


def test_frames_of_a_clip_are_spread_over_it() -> None:
    """Evenly, from the first to the last, and each is read again as it was."""
    chosen = split(CLIP, None, 10)
    frames = sorted(place.frame or 0 for place in (*chosen.calibration, *chosen.held_out))
    assert (frames[0], frames[-1]) == (0, 130)
    ((place, pixels),) = read(chosen.held_out[:1])
    assert place == chosen.held_out[0]
    assert pixels.shape == (480, 640, 3)


@pytest.mark.skipif(
    any(flag in Path("/proc/cpuinfo").read_text() for flag in ("avx512_vnni", "avx_vnni"))
    or "avx2" not in Path("/proc/cpuinfo").read_text(),
    reason="the broken model only saturates on AVX2 without VNNI",
)
def test_kernels_that_saturate_here_are_seen_on_any_picture() -> None:
    """The default model agrees with its own float form, the one made for VNNI does not."""
    _, manifest = load_manifest(COCO_SSD)
    assert manifest.input is not None
    inputs, placement = build_preprocess(manifest.input)(read_picture(COCO_SSD / "golden.png"))
    samples = [Sample(inputs, placement, {}, {"detections": []})]
    agreed = {}
    for file in (COCO_SSD / "model.onnx", BROKEN_INT8):
        integer = OrtEngine(file, threads=1, sha256=None)
        plain = OrtEngine(file, threads=1, sha256=None, is_optimized=False)
        agreed[file] = measure_kernels(integer, plain, samples)
    assert agreed[COCO_SSD / "model.onnx"] > 0.97
    assert agreed[BROKEN_INT8] < 0.9


def test_an_original_that_finds_nothing_proves_nothing() -> None:
    """Two models that detect nothing agree perfectly; that is no agreement."""
    with pytest.raises(ConfigError, match="detects nothing on 3 held-out pictures"):
        compared("detection", [{"detections": []}] * 3, [])


class CannedNetwork:
    """An engine and its decoder in one: gives prepared payloads in turn, and fails for None."""

    outputs = ()

    def __init__(self, payloads: list[Payload | None]) -> None:
        self._payloads = iter(payloads)

    def new_abort(self) -> None:
        """Nothing is ever stopped."""

    def run(self, inputs: object, abort: object) -> list[Tensor]:
        return []

    def decode(self, outputs: object, placement: object) -> Payload:
        payload = next(self._payloads)
        if payload is None:
            raise PermanentError("NaN")
        return payload


def compared(task: str, wanted: list[Payload], got: list[Payload | None]) -> Accuracy:
    """Measure an int8 network that makes `got` where fp32 makes `wanted`."""
    samples = [Sample({}, Placement(1, 1, 0, 0, 1, 1, 1, 1), {}, payload) for payload in wanted]
    canned: Any = CannedNetwork(got)
    return measure_accuracy(METRICS.get(task, task), Player(canned, canned), samples, lambda: None)[0]


def test_detections_that_int8_loses_or_fails_on_cost_accuracy() -> None:
    """Of three objects one stays, one is missed, one frame is NaN: 2 x 1 / (3 + 1)."""
    scene: Payload = {"detections": [{"label": "a", "class_id": 1, "score": 0.9, "box": [0, 0, 9, 9]}]}
    accuracy = compared("detection", [scene] * 3, [scene, {"detections": []}, None])
    assert (accuracy.value, accuracy.evidence, accuracy.failures) == (0.5, 3, 1)
    assert compared("detection", [scene] * 3, [{"detections": []}] * 3).value == 0.0


def test_another_first_class_is_disagreement() -> None:
    """Scores may move, the answer may not."""

    def answer(class_id: int) -> Payload:
        return {"classes": [{"label": "x", "class_id": class_id, "score": 0.9}]}

    with pytest.raises(ConfigError, match="the same class on all 2"):
        compared("classification", [answer(1)] * 2, [answer(1)] * 2)
    accuracy = compared("classification", [answer(1), answer(2), answer(3), answer(1)], [answer(1)] * 3 + [None])
    assert (accuracy.value, accuracy.failures) == (0.25, 1)


def test_each_bound_refuses_by_itself(tmp_path: Path, model: Path) -> None:
    """Bounds that nothing can hold, one at a time, so that each is seen to refuse with its figure."""
    base = Task(model, pictures(tmp_path / "pictures", 16), accuracy_min=0.8, size_max=9, latency_max=1000)
    for change, said in (
        ({"accuracy_min": 1.1}, "the bound is 1.1"),
        ({"kernels_min": 1.1}, "its kernels saturate here"),
        ({"size_max": 0.1}, "of fp32's bytes"),
        ({"latency_max": 0.0}, "of fp32's time, the bound"),
    ):
        report = quantize_model(replace(base, **change), SystemClock(), lambda name, steps: lambda: None)  # type: ignore[arg-type]
        assert said in report.failed[0]
        assert (len(report.failed), report.output) == (1, None)
    assert not (tmp_path / "model-int8").exists()


def mask(class_id: int, *counts: int) -> Segment:
    """Return one segment of a grid of 10 cells."""
    return Segment(label="x", class_id=class_id, share=0.5, mask=Mask(size=[10, 1], counts=list(counts)))


def test_masks_are_compared_by_intersection_over_union() -> None:
    """Of class 1 four cells of six agree, class 2 is on one side only; a frame that fails shares nothing."""
    wanted: Payload = {"segments": [mask(1, 0, 5, 5)]}
    got: Payload = {"segments": [mask(1, 1, 5, 4)]}
    assert compared("segmentation", [wanted], [wanted]).value == 1.0
    assert compared("segmentation", [wanted], [got]).value == pytest.approx(4 / 6)
    both: Payload = {"segments": [mask(1, 0, 5, 5), mask(2, 9, 1)]}
    assert compared("segmentation", [wanted], [both]).value == pytest.approx(1 / 2)
    accuracy = compared("segmentation", [wanted, wanted], [wanted, None])
    assert (accuracy.value, accuracy.failures) == (0.5, 1)
    with pytest.raises(ConfigError, match="detects nothing on 1 held-out pictures"):
        compared("segmentation", [{"segments": []}], [wanted])


def test_one_class_is_a_yes_or_a_no() -> None:
    """Its first class is always the same; what counts is on which side of 0.5 it is."""

    def score(value: float) -> Payload:
        return {"classes": [{"label": "speech", "class_id": 0, "score": value}]}

    accuracy = compared(ONE_CLASS, [score(0.9), score(0.1), score(0.6)], [score(0.8), score(0.6), None])
    assert accuracy.value == pytest.approx(1 / 3)
    assert accuracy.failures == 1
    assert "scores differ by 0.500 at most" in accuracy.detail
    with pytest.raises(ConfigError, match="the same class on all 2"):
        compared(ONE_CLASS, [score(0.9)] * 2, [score(0.9)] * 2)


def test_boxes_are_paired_once_and_by_class() -> None:
    """Two boxes on one object are one hit and one too many."""
    box, far = np.array([0, 0, 10, 10], np.float32), np.array([50, 50, 60, 60], np.float32)
    assert match([Found(1, box)], [Found(1, box), Found(1, box)]) == Agreement(1, 1, 0)
    assert match([Found(1, box), Found(1, far)], [Found(2, box), Found(1, far)]) == Agreement(1, 1, 1)
    assert (Agreement().f1, Agreement(1, 1, 1).f1) == (0.0, 0.5)


def test_the_cosine_of_useless_outputs_is_zero() -> None:
    """NaN, or silence where there was something."""
    ones = np.ones(4)
    assert cosine(ones, 3 * ones) == pytest.approx(1.0)
    assert cosine(ones, np.zeros(4)) == 0.0
    assert cosine(ones, ones * np.nan) == 0.0
    assert cosine(np.zeros(4), np.zeros(4)) == 1.0


def test_outputs_without_numbers_or_of_another_shape_are_compared_too() -> None:
    """Another number of boxes is no agreement; texts and truth values agree where they are equal."""
    assert cosine(np.ones((3, 6)), np.ones((2, 6))) == 0
    assert cosine(np.ones((2, 3)), np.ones((3, 2))) == 0
    assert cosine(np.array(["cat", "dog"], object), np.array(["cat", "cow"], object)) == 0.5
    assert cosine(np.array([True, False, True, True]), np.array([True, True, True, True])) == 0.75
    assert cosine(np.zeros((0, 6)), np.zeros((0, 6))) == 1
    assert cosine(np.array([], object), np.array([], object)) == 1


def test_networks_that_give_texts_or_an_open_number_of_rows_are_quantised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And one whose output has as many rows as there are cells above a number, which int8 may count differently."""
    texts = network(
        [
            *classifier().graph.node,
            make_node("ArgMax", ["probabilities"], ["best"], axis=1, keepdims=0),
            make_node("Gather", ["names", "best"], ["said"]),
        ],
        [("probabilities", TensorProto.FLOAT, [1, 3]), ("said", TensorProto.STRING, [1])],
        weights={
            **{one.name: to_array(one) for one in classifier().graph.initializer},
            "names": np.array(["blue", "green", "red"], object),
        },
    )
    open_rows = network(
        [
            make_node("Conv", ["images", "w"], ["c"], pads=[1] * 4),
            make_node("Greater", ["c", "half"], ["is_bright"]),
            make_node("NonZero", ["is_bright"], ["places"]),
        ],
        [("places", TensorProto.INT64, [4, "n"]), ("is_bright", TensorProto.BOOL, [1, 1, 32, 32])],
        weights={"w": np.full((1, 3, 3, 3), 1 / 27, np.float32), "half": np.float32(0.3)},
    )
    folder = pictures(tmp_path / "pictures", 8)
    for name, model in (("texts", texts), ("rows", open_rows)):
        described = with_manifest(saved(model, tmp_path / f"{name}.onnx"))
        quantize(capsys, described, "--calibrate", folder, *EASY, "--accuracy-min", "0", "--per-layer")
        assert (tmp_path / f"{name}-int8" / "model.toml").is_file()


def test_a_golden_sample_says_something_and_is_steady() -> None:
    """Not an empty scene, not a score at the threshold, not one on which int8 is far off."""

    def scene(*scores: float) -> Payload:
        return {"detections": [{"label": "a", "class_id": 1, "score": s, "box": [0, 0, 9, 9]} for s in scores]}

    wanted = [scene(), scene(0.52), scene(0.9), scene(0.95, 0.9)]
    chosen = choose_golden(wanted, [scene(), scene(0.52), scene(0.89), scene(0.5, 0.5)], [100] * 4)
    assert chosen is not None
    assert (chosen.index, chosen.tolerance) == (2, {"score": 0.05, "box": 2.0})
    numbers: Payload = {"embeddings": [TensorValues(name="e", shape=[2], values=[0.5, -0.25])]}
    measured = choose_golden([numbers], [numbers], [100])
    assert measured is not None
    assert measured.tolerance == {"values": 0.01}
    assert choose_golden([scene(0.9)], [None], [100]) is None
