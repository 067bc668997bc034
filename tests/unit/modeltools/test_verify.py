"""`edgebeat model verify`: what is right passes, and everything that is wrong is told at once."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from onnx import ModelProto, TensorProto
from onnx.helper import make_node

from agent.__main__ import run_command
from agent.clock import SystemClock
from agent.modeltools.verify import verify
from tests.paths import COCO_SSD, MODELS
from tests.unit.engine.test_trial import endless, gigabytes, unknown_operator
from tests.unit.modeltools.networks import network, saved


def verdict(capsys: pytest.CaptureFixture[str], folder: Path, code: int) -> dict[str, Any]:
    """Run the command and return its JSON."""
    assert run_command(["model", "verify", str(folder), "--threads", "1", "--json"]) == code
    values: dict[str, Any] = json.loads(capsys.readouterr().out)
    return values


def with_variants(folder: Path) -> Path:
    """Return a copy of the tiny model with one good variant and one whose digest is wrong."""
    folder = Path(shutil.copytree(MODELS / "tiny", folder))
    content = (folder / "model.onnx").read_bytes()
    (folder / "light.onnx").write_bytes(content)
    (folder / "damaged.onnx").write_bytes(content)
    digests = {"light": hashlib.sha256(content).hexdigest(), "damaged": "0" * 64}
    with (folder / "model.toml").open("a") as manifest:
        for name, digest in digests.items():
            manifest.write(f'\n[[variants]]\nname = "{name}"\npath = "{name}.onnx"\nsha256 = "{digest}"\n')
    return folder


def test_the_default_model_is_proven(capsys: pytest.CaptureFixture[str]) -> None:
    """Its folder is right, and its golden sample comes out right here."""
    found = verdict(capsys, COCO_SSD, 0)
    assert (found["ok"], found["proven"], found["problems"]) == (True, True, [])
    (full,) = found["variants"]
    assert 5 < full["steady_mb"] <= full["peak_mb"] < 120
    assert full["sha256"] == hashlib.sha256((COCO_SSD / "model.onnx").read_bytes()).hexdigest()
    assert run_command(["model", "verify", str(COCO_SSD), "--threads", "1"]) == 0
    said = capsys.readouterr().out
    assert "may serve on this device" in said
    assert "MiB of weights and kernels" in said


def test_a_model_without_a_golden_sample_is_not_called_proven(capsys: pytest.CaptureFixture[str]) -> None:
    """It runs, so it passes; the report says what is missing."""
    found = verdict(capsys, MODELS / "letterbox", 0)
    assert (found["ok"], found["proven"]) == (True, False)


def test_every_variant_is_tried_and_every_problem_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong digest in one variant and a wrong expectation for all: each said once, nothing hidden by the first."""
    folder = with_variants(tmp_path / "model")
    (folder / "golden.json").write_text('{"classes": []}')
    assert run_command(["model", "verify", str(folder), "--json"]) == 78
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert [variant["ok"] for variant in found["variants"]] == [False, False, False]
    text = "\n".join(found["problems"])
    assert "model.onnx does not reproduce its golden sample" in text
    assert "light.onnx does not reproduce its golden sample" in text
    assert "damaged.onnx: SHA-256 is" in text
    assert "edgebeat: " in captured.err
    assert "Traceback" not in captured.err


def test_good_variants_are_named_beside_a_bad_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The operator sees which network to replace."""
    found = verdict(capsys, with_variants(tmp_path / "model"), 78)
    assert {variant["name"]: variant["ok"] for variant in found["variants"]} == {
        "full": True,
        "light": True,
        "damaged": False,
    }


def test_every_error_of_the_manifest_comes_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the line of each."""
    folder = Path(shutil.copytree(MODELS / "tiny", tmp_path / "model"))
    manifest = folder / "model.toml"
    manifest.write_text(manifest.read_text().replace("schema = 1", "schema = 9\nflavour = 1"))
    found = verdict(capsys, folder, 78)
    assert len(found["problems"]) == 2
    assert all("model.toml:" in problem for problem in found["problems"])


def test_a_folder_that_is_absent_is_one_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not a traceback."""
    assert "no such model folder" in verdict(capsys, tmp_path / "nothing", 78)["problems"][0]


def with_network(folder: Path, model: ModelProto) -> Path:
    """Return a folder whose network takes 1 x 3 x 32 x 32 numbers and is someone else's."""
    folder.mkdir()
    digest = hashlib.sha256(saved(model, folder / "m.onnx").read_bytes()).hexdigest()
    (folder / "model.toml").write_text(
        'schema = 1\nname = "m"\nversion = "1"\ntask = "raw"\nlicense = "none"\n'
        f'[model]\npath = "m.onnx"\nsha256 = "{digest}"\n'
        '[input]\nname = "images"\nlayout = "NCHW"\ndtype = "float32"\nwidth = 32\nheight = 32\n'
        '[decoder]\nname = "raw"\n'
    )
    return folder


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (gigabytes, "it asks for more than the"),
        (endless, "did not end within 3 s: the network may hold an endless loop"),
        (unknown_operator, "name their library in engine.custom_ops"),
    ],
)
def test_a_hostile_network_is_told_and_never_loaded_here(
    tmp_path: Path, make: Callable[[], ModelProto], said: str
) -> None:
    """Only the child that tries it takes the harm: no thread of this process loads or runs it."""
    before = threading.active_count()
    found = verify(with_network(tmp_path / "model", make()), 1, SystemClock(), limit_s=3 if make is endless else 60)
    (problem,) = found.problems
    assert said in problem
    assert [attempt.variant for attempt in found.attempts] == [None]
    assert threading.active_count() == before
    assert found.as_json()["variants"][0]["steady_mb"] is None


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ([1, 3, 0, 32], ["input images is float32[1, 3, 0, 32]: a dimension of 0 holds nothing"]),
        (
            [1, 3, 1 << 20, 1 << 20],
            [
                "input.width: 1048576: input should be less than or equal to 8192",
                "input.height: 1048576: input should be less than or equal to 8192",
            ],
        ),
    ],
)
def test_a_bare_network_of_an_impossible_size_is_told_as_that(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    shape: list[int],
    said: list[str],
) -> None:
    """Nothing is assumed in the place of what it says, and nothing is told of what follows from it."""
    nodes = [make_node("GlobalAveragePool", ["images"], ["p"]), make_node("Flatten", ["p"], ["y"])]
    ports = [("images", TensorProto.FLOAT, shape)]
    file = saved(network(nodes, [("y", TensorProto.FLOAT, [1, 3])], inputs=ports), tmp_path / "m.onnx")
    assert verdict(capsys, file, 78)["problems"] == [f"{file}: {text}" for text in said]
    assert "is assumed: the network leaves it open" not in caplog.text


def test_a_wrong_size_in_the_manifest_is_one_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And not also the scale, whose default depends on a valid section."""
    folder = Path(shutil.copytree(MODELS / "tiny", tmp_path / "model"))
    manifest = folder / "model.toml"
    manifest.write_text(re.sub(r"^width = .*$", "width = 9000", manifest.read_text(), flags=re.MULTILINE))
    (problem,) = verdict(capsys, folder, 78)["problems"]
    assert problem.endswith("input.width: 9000: input should be less than or equal to 8192")


def test_bars_are_drawn_on_a_terminal_and_nowhere_else(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On standard error: one network may take two minutes. A device without rich has none."""
    command = ["model", "verify", str(MODELS / "tiny"), "--threads", "1", "--json"]
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.delenv("TTY_COMPATIBLE", raising=False)
    assert run_command(command) == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("FORCE_COLOR", "1")  # Rich's word for: this is a terminal.
    monkeypatch.setenv("TERM", "xterm")
    assert run_command(command) == 0
    captured = capsys.readouterr()
    for name in ("reading", "trying", "verifying"):
        assert re.search(rf"{name} .*1/1", captured.err), name
    assert json.loads(captured.out)["ok"]
    monkeypatch.setitem(sys.modules, "rich", None)
    assert run_command(command) == 0
    assert capsys.readouterr().err == ""


def test_a_truncated_network_is_one_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its digest tells, before anything reads it."""
    folder = Path(shutil.copytree(MODELS / "tiny", tmp_path / "model"))
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:99])
    (problem,) = verdict(capsys, folder, 78)["problems"]
    assert "the file is damaged or was replaced" in problem


def test_libraries_of_operators_come_from_the_settings_that_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only what nobody else may change is loaded; then the child process that tries the network loads it."""
    (tmp_path / "ops").mkdir()
    library = tmp_path / "ops" / "libops.so"
    library.write_bytes(b"no library")
    library.chmod(0o644)
    file = tmp_path / "agent.toml"
    file.write_text(
        f'[engine]\ncustom_ops = ["{library}"]\n[[models]]\nname = "m"\npath = "m"\n'
        '[[streams]]\nname = "door"\nsource = "synthetic:"\nmodel = "m"\n'
    )
    folder = with_network(tmp_path / "m", unknown_operator())
    command = ["model", "verify", str(folder), "--threads", "1", "--config", str(file)]
    assert run_command(command) == 78
    assert f"engine.custom_ops: {library}: cannot be loaded" in capsys.readouterr().err
    library.chmod(0o666)
    assert run_command(command) == 78
    (line,) = capsys.readouterr().err.splitlines()
    assert f"engine.custom_ops: {library}: {library} may be written by others" in line
