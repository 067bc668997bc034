"""model.toml as it is written: TOML, whatever names and labels are made of."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from agent.__main__ import run_command
from agent.models.manifest import load_manifest
from agent.modeltools.draft import manifest_text
from tests.unit.modeltools.networks import classifier, saved
from tests.unit.modeltools.test_keep_float import manifest_of


@pytest.mark.parametrize("text", ["\U0001f600", "é", "日本", "\x00\x01\t\n\x1f", "\x7f", "\x85\u2028", '"\\', "'"])
def test_every_character_comes_back(text: str) -> None:
    """As a value, in a list, as a key, and as a key of a table in a line; a comment keeps what TOML allows there."""
    given = {"name": text, "names": [text, text], text: 1, "inner": {text: text}, "rows": {"a": {text: [text]}}}
    written = manifest_text(manifest_of(**given), [f"for {text}.onnx"])
    assert tomllib.loads(written)["decoder"] == given


def test_half_a_character_does_not_end_in_a_traceback() -> None:
    """JSON in a network's metadata may hold one; no file of text can."""
    assert tomllib.loads(manifest_text(manifest_of(name="a\ud800b")))["decoder"]["name"] == "a?b"


def test_a_name_beyond_the_first_65536_characters_is_written_and_read(tmp_path: Path) -> None:
    """`inspect --write` and then `verify`."""
    file = saved(classifier(metadata={"names": "{0: '\U0001f600', 1: 'b', 2: 'c'}"}), tmp_path / "\U0001f600.onnx")
    assert run_command(["model", "inspect", str(file), "--write"]) == 0
    assert load_manifest(tmp_path)[1].model.path == file.name
    assert run_command(["model", "verify", str(tmp_path), "--threads", "1"]) == 0
