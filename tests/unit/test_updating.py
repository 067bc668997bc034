"""What updates need at a start."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.core.shelf import Shelf, folder_name
from agent.errors import ConfigError
from agent.marks import Marks
from agent.settings import Settings
from agent.updates.store import ReleaseStore
from agent.updating import Updates
from tests.fakes import ManualClock


def test_a_start_that_is_refused_for_its_keys_is_no_start_of_the_release(tmp_path: Path) -> None:
    """Or a release would be given up for a crash loop that the settings are at fault for."""
    folder = folder_name("seen", 1, "1" * 64)
    ReleaseStore(tmp_path).save({"seen": Shelf("m").begin(folder, 1, "d1")})
    before = ReleaseStore(tmp_path).load()
    (tmp_path / "keys").write_text("no key\n", encoding="utf-8")
    settings = Settings.model_validate(
        {
            "models": [{"name": "seen", "path": "m"}],
            "streams": [{"name": "door", "source": "0", "model": "seen"}],
            "state": {"dir": tmp_path},
            "updates": {"keys_file": tmp_path / "keys"},
        }
    )
    with pytest.raises(ConfigError, match="keys"):
        Updates(settings, Marks(tmp_path), ManualClock())
    assert ReleaseStore(tmp_path).load() == before
