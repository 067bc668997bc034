"""What the models are given, and what happens where it is not enough."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from agent.engine.memory import MIB
from agent.engine.providers import NAMES
from agent.errors import ConfigError
from agent.provision import Provision
from agent.settings import Settings
from tests.paths import CLIP, COCO_SSD, MODELS, REPOSITORY


def settings(state: Path | None = None, *, model: Path = COCO_SSD, **sections: object) -> Settings:
    """Return settings of one stream; with a state folder where one is given."""
    named = {} if state is None else {"state": {"dir": state}}
    models = [{"name": "seen", "path": model}]
    streams = [{"name": "door", "source": str(CLIP), "model": "seen"}]
    return Settings.model_validate({"models": models, "streams": streams, **named, **sections})


def surveyed(given: Settings) -> Provision:
    """Try the models of some settings."""
    provision = Provision(given)
    for model in given.models:
        provision.survey(model)
    return provision


def test_what_was_tried_once_is_remembered(tmp_path: Path) -> None:
    """The second start takes cost and compiled form from the state folder, and starts no child."""
    first = surveyed(settings(tmp_path))
    costs = tmp_path / "costs.json"
    before = costs.stat().st_ino
    second = surveyed(settings(tmp_path))
    assert costs.stat().st_ino == before
    assert first._surveyed == second._surveyed
    prepared = second._surveyed["seen"].prepared
    compiled = prepared["model.onnx"].compiled
    assert compiled is not None
    assert compiled.is_relative_to(tmp_path / "compiled")
    assert second.events() == []


def test_without_a_state_folder_it_is_measured_and_not_compiled(tmp_path: Path) -> None:
    """Nothing is written anywhere."""
    prepared = surveyed(settings(model=MODELS / "tiny"))._surveyed["seen"].prepared
    assert prepared["model.onnx"].compiled is None
    assert prepared["model.onnx"].cost.steady_bytes > 0
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_replaces_another_does_not_try_again() -> None:
    """What was measured goes along in memory, with or without a state folder: nobody waits for another trial."""
    given = settings(model=MODELS / "tiny")
    first = surveyed(given)
    key, known = next(iter(first.export().items()))
    second = Provision(given, carried={key: {**known, "session_bytes": 12345}})
    second.survey(given.models[0])
    need = second._surveyed["seen"].need
    assert need.own.session_bytes == 12345


def test_a_cache_that_cannot_be_written_is_an_event_and_no_failure(tmp_path: Path) -> None:
    """The model runs as it is."""
    (tmp_path / "compiled").write_text("in the way")
    provision = surveyed(settings(tmp_path, model=MODELS / "tiny"))
    ((event, body),) = provision.events()
    assert event == "cache_failed"
    assert "is used as it is, without a compiled form" in body["reason"]
    assert provision.events() == []  # Each is told once.
    prepared = provision._surveyed["seen"].prepared
    assert prepared["model.onnx"].compiled is None


def test_a_cache_of_no_size_is_none(tmp_path: Path) -> None:
    """`engine.cache_mb = 0`."""
    provision = surveyed(settings(tmp_path, model=MODELS / "tiny", engine={"cache_mb": 0}))
    assert not (tmp_path / "compiled").exists()
    assert provision.snapshot({}, {})["cache"] is None


def test_what_does_not_fit_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    """The default model beside this process, which is larger than the agent."""
    provision = surveyed(settings(tmp_path, limits={"memory_mb": 64}))
    with pytest.raises(ConfigError, match=r"would take \d+ MiB and may take 64 MiB \(limits.memory_mb\)") as caught:
        provision.fit()
    assert provision.budget is None
    # A run that replaces another goes on: the same models served a moment ago.
    assert caught.value.harm == "too_big"
    provision.fit(must_fit=False)
    assert provision.budget is not None


def test_providers_that_are_absent_are_an_event_and_stand_in_health(tmp_path: Path) -> None:
    """Left out in the order of the settings, never in silence."""
    provision = surveyed(settings(tmp_path, model=MODELS / "tiny", engine={"providers": ["xnnpack", "acl", "cpu"]}))
    assert [(event, body["provider"]) for event, body in provision.events()] == [
        ("provider_fallback", "xnnpack"),
        ("provider_fallback", "acl"),
    ]
    shown = provision.snapshot({}, {})["providers"]
    assert (shown["asked"], shown["absent"]) == (["xnnpack", "acl", "cpu"], ["xnnpack", "acl"])


def test_a_provider_that_a_trial_leaves_out_is_told_with_each_model_that_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At the start and after a change, each time with its reason; health says it for as long as it holds."""
    # This build is made to have it; the child's has not.
    monkeypatch.setattr("agent.provision.available_providers", lambda: [NAMES["xnnpack"], NAMES["cpu"]])
    given = settings(model=MODELS / "tiny", engine={"providers": ["acl", "xnnpack", "cpu"]})
    first = surveyed(given)
    absent, left_out = first.events()
    assert absent[1] == {"provider": "acl", "models": ["seen"], "reason": "not in this build"}
    why = left_out[1]["reason"]
    assert why.startswith("xnnpack was asked for and ONNX Runtime runs it on CPUExecutionProvider")
    assert left_out == ("provider_fallback", {"provider": "xnnpack", "models": ["seen"], "reason": why})
    swapped = first.follow(given)
    assert swapped.events() == []
    assert swapped.snapshot({}, {})["providers"]["left_out"] == {"seen": {"xnnpack": why}}
    swapped.survey(given.models[0])
    assert swapped.events() == [left_out]
    assert swapped.snapshot({}, {})["providers"]["left_out"] == {"seen": {"xnnpack": why}}


def test_inference_gets_the_cores_that_are_named_for_it() -> None:
    """As many threads as CPUs, however many there are beside them."""
    provision = Provision(settings(limits={"inference_cores": [0]}))
    assert (provision.cpus, provision.threads, provision.cores.inference) == (1, 1, (0,))


@pytest.mark.parametrize(
    ("cpus", "models", "threads"), [(4, 1, 4), (4, 2, 2), (4, 3, 1), (2, 3, 1), (1, 1, 1)], ids=str
)
def test_the_cpus_are_divided_evenly_among_the_models(
    cpus: int, models: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one inference, at least 1; streams that share a model, and models without a stream, divide nothing."""
    monkeypatch.setattr("agent.provision.effective_cpus", lambda asked, *, allowed: cpus)
    known = [{"name": f"m{index}", "path": MODELS / "tiny"} for index in range(models + 1)]
    streams = [
        {"name": f"s{index}", "source": str(CLIP), "model": f"m{index % models}"} for index in range(2 * models)
    ]
    provision = Provision(settings(models=known, streams=streams))
    assert (provision.cpus, provision.threads, provision.setup.threads) == (cpus, threads, threads)


STANDBY = """
import sys
from pathlib import Path
from agent.clock import SystemClock
from agent.engine.memory import MIB, MemoryLimit
from agent.loading import load_model
from tests.unit.test_provision import settings, surveyed

given = settings(Path(sys.argv[1]) / "state", model=Path(sys.argv[1]) / "model")
provision = surveyed(given)
provision.fit()
budget = provision.budget
needed = budget.fixed_bytes + budget.needs[0].own.peak_bytes
provision.limit = MemoryLimit(needed + 256 * 1024, "limits.memory_mb")
provision.fit()
model = load_model(given.models[0], 1, SystemClock(), provision.recipe("seen"))
unloaded = provision.snapshot({"seen": model}, {})["memory"]["unloaded"]
print([variant.engine.is_loaded for variant in model.variants], unloaded, model.keeps_all)
light = model.variants[1]
light.engine.run(light.warm_inputs, light.engine.new_abort())
print(light.engine.is_loaded)
"""


def test_variants_wait_on_disk_where_they_do_not_all_fit(tmp_path: Path) -> None:
    """All are verified at start; the model itself stays loaded, the others are loaded when they are needed."""
    folder = tmp_path / "model"
    folder.mkdir()
    for file in COCO_SSD.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    content = (folder / "model.onnx").read_bytes()
    (folder / "light.onnx").write_bytes(content)
    manifest = (folder / "model.toml").read_text()
    digest = manifest.partition('sha256 = "')[2][:64]
    variant = f'\n[[variants]]\nname = "light"\npath = "light.onnx"\nsha256 = "{digest}"\n'
    (folder / "model.toml").write_text(manifest + variant)
    done = subprocess.run(
        [sys.executable, "-c", STANDBY, str(tmp_path)], capture_output=True, text=True, cwd=REPOSITORY, check=False
    )
    assert done.stdout.splitlines() == ["[True, False] ['seen: light'] False", "True"], done.stderr


def test_the_state_folder_is_for_this_user_alone(tmp_path: Path) -> None:
    """Whoever can write there can put weights there."""
    surveyed(settings(tmp_path / "state", model=MODELS / "tiny"))
    assert (tmp_path / "state/compiled").stat().st_mode & 0o077 == 0
    assert sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()) < MIB


def test_a_candidate_has_the_threads_that_it_will_have_beside_the_other_models() -> None:
    """Else it would be judged with twice the threads, and `limits.threads` passed."""
    both = Settings.model_validate(
        {
            "models": [{"name": name, "path": MODELS / "tiny"} for name in ("seen", "heard")],
            "streams": [{"name": name, "source": str(CLIP), "model": name} for name in ("seen", "heard")],
        }
    )
    serving = Provision(both)
    alone = settings(model=MODELS / "tiny")
    assert serving.sessions == 2
    candidate = serving.follow(alone, sessions=serving.sessions)
    assert (candidate.sessions, candidate.threads) == (2, max(1, candidate.cpus // 2))
    assert Provision(alone).sessions == 1
    assert Provision(alone).follow(alone, sessions=2).sessions == 2


def test_models_get_an_arena_of_their_own_where_no_other_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first ones, and one that takes the place of the only other; not one of two, which share what there is."""
    made: list[int] = []
    monkeypatch.setattr("agent.provision.share_arena", made.append)
    alone = settings(model=MODELS / "tiny")
    first = surveyed(alone)
    first.fit()
    assert len(made) == 1
    swapped = first.follow(alone)
    swapped.survey(alone.models[0])
    swapped.fit()
    # As large as the first, though its predecessor is resident beside it: it will be alone.
    assert made == [made[0]] * 2
    both = Settings.model_validate(
        {
            "models": [{"name": name, "path": MODELS / "tiny"} for name in ("seen", "heard")],
            "streams": [{"name": name, "source": str(CLIP), "model": name} for name in ("seen", "heard")],
        }
    )
    more = swapped.follow(both)
    more.survey(both.models[1])
    more.fit()
    assert len(made) == 2
    # A candidate for one of the two is tried beside both.
    candidate = more.follow(alone)
    candidate.survey(alone.models[0])
    candidate.fit()
    candidate.renew_arena()
    assert len(made) == 2


def test_an_arena_is_left_where_no_other_model_serves_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the successor is judged, and not where that would leave another model's activations behind."""
    made: list[int] = []
    monkeypatch.setattr("agent.provision.share_arena", made.append)
    both = Settings.model_validate(
        {
            "models": [{"name": name, "path": MODELS / "tiny"} for name in ("seen", "heard")],
            "streams": [{"name": name, "source": str(CLIP), "model": name} for name in ("seen", "heard")],
        }
    )
    provision = surveyed(both)
    provision.fit()
    assert len(made) == 1
    provision.leave_arena(["seen"])
    assert len(made) == 1
    provision.leave_arena(["seen", "heard"])
    assert made == [made[0]] * 2


def test_health_and_inputs_follow_what_serves_after_a_swap(monkeypatch: pytest.MonkeyPatch) -> None:
    """The old model was resident while its successor was judged: it is none of the agent's own, nor counts twice."""
    resident = [100 * MIB]
    monkeypatch.setattr("agent.provision.resident_bytes", lambda: resident[0])
    alone = settings(model=MODELS / "tiny", limits={"memory_mb": 400})
    first = surveyed(alone)
    first.fit()
    figures, largest = first.snapshot({}, {})["memory"], first.recipe("seen").input_bytes_max
    assert (figures["own_mb"], figures["serving_mb"]) == (100.0, 42.0)
    resident[0] = 180 * MIB
    swapped = first.follow(alone)
    swapped.survey(alone.models[0])
    swapped.fit()
    assert swapped.snapshot({}, {})["memory"] == figures
    assert swapped.recipe("seen").input_bytes_max == largest
    # A stream that comes takes its part, also without a model.
    streams = [*alone.streams, alone.streams[0].model_copy(update={"name": "yard"})]
    more = swapped.follow(alone.model_copy(update={"streams": streams}))
    more.fit()
    assert more.snapshot({}, {})["memory"] == {**figures, "serving_mb": 60.0}
    assert first.snapshot({}, {})["memory"] == figures
