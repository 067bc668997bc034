"""`edgebeat check` looks at what a start would begin with, and changes nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agent.cli.load import read_layers
from agent.core.desired import Document
from agent.core.reconcile import Record
from agent.core.shelf import Shelf, folder_name
from agent.desired.accepted import AcceptedStore
from agent.desired.file_trial import FileTrial, FileTrials
from agent.layers import Layers, Leaf
from agent.updates.store import ReleaseStore
from tests.agent_process import settings_text
from tests.paths import MODELS, REPOSITORY

RELEASE = folder_name("seen", 3, "d" * 64)


def check(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    command = [sys.executable, "-m", "agent", "check", *map(str, arguments)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return every file below a folder, with what would tell that it was written anew."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A settings file, and a state folder with a release, a document and the file itself on trial."""
    state = tmp_path / "state"
    file = tmp_path / "agent.toml"
    file.write_text(settings_text(url="mqtt://127.0.0.1:1", state=state))
    state.mkdir()
    store = ReleaseStore(state)
    shutil.copytree(MODELS / "tiny", store.folder(RELEASE))
    shelf = Shelf(str(MODELS / "tiny")).begin(RELEASE, 3, "d" * 64)
    store.save({"seen": shelf.start()})
    values = {"streams": {"door": {"max_fps": 7}}}
    record = Record(Document(4, values), is_proven=False, version_max=4, starts=2)
    AcceptedStore(state, may_make=False).save(record)
    return file


def test_a_check_counts_no_start_and_writes_nothing(tmp_path: Path, config: Path) -> None:
    """However often somebody looks; no cache is made either, which the agent could not trust."""
    state = tmp_path / "state"
    before = contents(state)
    for _ in range(4):
        done = check("--load", "--config", config)
        assert done.returncode == 0, done.stderr
    assert "remote v4" in done.stdout
    assert contents(state) == before
    assert sorted(path.name for path in state.iterdir()) == ["remote-settings.json", "updates"]


def test_a_release_that_cannot_be_loaded_is_told_and_kept(tmp_path: Path, config: Path) -> None:
    """A start would go back to the release before; that is not for somebody who looks."""
    state = tmp_path / "state"
    (state / "updates/releases" / RELEASE / "model.onnx").unlink()
    before = contents(state)
    done = check("--load", "--config", config)
    assert done.returncode == 78
    assert RELEASE in done.stderr
    assert contents(state) == before


def test_a_damaged_state_is_left_for_the_agent_to_set_aside(tmp_path: Path, config: Path) -> None:
    """What was there is told and not used."""
    state = tmp_path / "state"
    for name in ("remote-settings.json", "settings-file.json", "updates/updates.json"):
        (state / name).write_text("{")
    before = contents(state)
    done = check("--load", "--config", config)
    assert done.returncode == 0, done.stderr
    assert "remote-settings.json: is damaged" in done.stderr
    assert contents(state) == before


def test_a_file_that_was_given_up_is_told(tmp_path: Path, config: Path) -> None:
    """The values are those that a start would use, with what they come from."""
    state = tmp_path / "state"
    text = config.read_text()
    config.write_text(text.replace('source = "', 'max_fps = 9\nsource = "'))
    (state / "remote-settings.json").unlink()
    tried = read_layers(config, {}, {})
    good = Layers(
        tuple(Leaf(leaf.path, 2 if leaf.path[-1] == "max_fps" else leaf.value, leaf.origin) for leaf in tried.below)
    )
    FileTrials(state).put(FileTrial.of(tried, good).given_up("memory", {"ratio": 1.2}))
    done = check("--config", config, "--json")
    assert done.returncode == 0, done.stderr
    assert f"{config}: was given up: memory: {{'ratio': 1.2}}" in done.stderr
    value = json.loads(done.stdout)["streams.0.max_fps"]
    assert value["value"] == 2.0
    assert value["origin"].startswith(f"last good {config}:")
