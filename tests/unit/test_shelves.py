"""Which folder each model is loaded from at a start."""

from __future__ import annotations

from pathlib import Path

from agent.core.shelf import Shelf, folder_name
from agent.settings import Settings
from agent.shelves import Shelves
from agent.updates.store import ReleaseStore


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
    shelves = Shelves(ReleaseStore(tmp_path))

    def serving() -> str:
        return shelves.effective(settings).models[0].path.name

    seen = [serving()]
    while shelves.step_down(["its network is damaged"]):
        seen.append(serving())
    assert seen == [three, two, one, "m"]
    assert ReleaseStore(tmp_path).load()["seen"].current == ""
    assert [(name, ended.seq, ended.code) for name, ended in shelves.given_up] == [
        ("seen", seq, "cannot_start") for seq in (3, 2, 1)
    ]
