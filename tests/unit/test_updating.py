"""What updates need at a start, and how a release is tried."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from agent.core.release import ReleaseRefusedError
from agent.core.shelf import Shelf, folder_name
from agent.errors import ConfigError
from agent.marks import Marks
from agent.provision import Provision
from agent.settings import Settings
from agent.updates.store import ReleaseStore
from agent.updating import Agent, Updates
from tests.fakes import ManualClock
from tests.paths import CLIP, MODELS


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


def test_a_release_is_tried_with_the_threads_that_it_will_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the child and on live frames: CPUs are divided between the models of the device, not of the trial."""
    settings = Settings.model_validate(
        {
            "models": [{"name": name, "path": MODELS / "tiny"} for name in ("seen", "heard")],
            "streams": [{"name": name, "source": str(CLIP), "model": name} for name in ("seen", "heard")],
            "state": {"dir": tmp_path},
        }
    )
    told: list[tuple[str, int]] = []

    class Running:
        def provision(self) -> Provision:
            return Provision(settings)

        def spare_bytes(self) -> int:
            return 1 << 30

        def inference(self, _model: str) -> object:
            return self

    def qualify(alone: Settings, *, deadline_ms: float | None, sessions: int) -> dict[str, Any]:
        assert deadline_ms == 250
        assert [model.name for model in alone.models] == ["seen"]
        told.append(("qualified", sessions))
        return {"memory_mb": 1.0}

    def load_models(_wanted: object, provision: Provision, *_: object, **__: object) -> object:
        told.append(("canary", provision.sessions))
        raise ConfigError("not now")

    monkeypatch.setattr("agent.updating.qualify", qualify)
    monkeypatch.setattr("agent.updating.load_models", load_models)
    updates, running = Updates(settings, Marks(tmp_path), ManualClock()), cast(Agent, Running())
    updates._qualify(running, "seen", MODELS / "tiny")
    with pytest.raises(ReleaseRefusedError, match="not now"):
        updates._show_live_frames(running, "seen", MODELS / "tiny")
    assert told == [("qualified", 2), ("canary", 2)]
