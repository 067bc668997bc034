"""Which folder each model is loaded from at a start."""

from __future__ import annotations

from pathlib import Path

from agent.core.shelf import Shelf
from agent.marks import Marks
from agent.settings import Settings
from agent.updates.store import ReleaseStore
from agent.updating import Updates
from tests.fakes import ManualClock


def test_releases_that_cannot_be_loaded_give_way_down_to_the_settings_own(tmp_path: Path) -> None:
    """One after the other, and none twice: a start must not go on for ever."""
    shelf = Shelf("m").begin("seen-1-0", 1, "d1").commit().begin("seen-2-0", 2, "d2").commit()
    ReleaseStore(tmp_path).save({"seen": shelf.begin("seen-3-0", 3, "d3")})
    settings = Settings.model_validate(
        {
            "models": [{"name": "seen", "path": "m"}],
            "streams": [{"name": "door", "source": "0", "model": "seen"}],
            "state": {"dir": tmp_path},
        }
    )
    updates = Updates(settings, Marks(tmp_path), ManualClock())

    def serving() -> str:
        return updates.effective(settings).models[0].path.name

    seen = [serving()]
    while updates.step_down(["its network is damaged"]):
        seen.append(serving())
    assert seen == ["seen-3-0", "seen-2-0", "seen-1-0", "m"]
    assert ReleaseStore(tmp_path).load()["seen"].current == ""
