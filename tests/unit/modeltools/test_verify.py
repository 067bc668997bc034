"""`edgebeat model verify`: what is right passes, and everything that is wrong is told at once."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from agent.__main__ import run_command
from tests.paths import COCO_SSD, MODELS


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
    assert full["sha256"] == hashlib.sha256((COCO_SSD / "model.onnx").read_bytes()).hexdigest()
    assert run_command(["model", "verify", str(COCO_SSD), "--threads", "1"]) == 0
    assert "may serve on this device" in capsys.readouterr().out


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
