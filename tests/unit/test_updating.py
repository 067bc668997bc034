"""Which folder each model is loaded from at a start."""

from __future__ import annotations

from pathlib import Path

from agent.core.shelf import Shelf, folder_name
from agent.marks import Marks
from agent.settings import Settings
from agent.updates.store import ReleaseStore
from agent.updating import Updates
from tests.fakes import ManualClock


def test_releases_that_cannot_be_loaded_give_way_down_to_the_settings_own(tmp_path: Path) -> None:
    """One after the other, and none twice: a start must not go on for ever."""
    one, two, three = (folder_name("seen", seq, f"{seq}" * 64) for seq in (1, 2, 3))
    shelf = Shelf("m").begin(one, 1, "d1").commit().begin(two, 2, "d2").commit()
    ReleaseStore(tmp_path).save({"seen": shelf.begin(three, 3, "d3")})
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
    assert seen == [three, two, one, "m"]
    assert ReleaseStore(tmp_path).load()["seen"].current == ""
    assert [(name, ended.seq, ended.code) for name, ended in updates._given_up] == [
        ("seen", seq, "cannot_start") for seq in (3, 2, 1)
    ]
