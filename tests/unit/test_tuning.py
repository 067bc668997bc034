"""Searching on real models, and the start on what was found."""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from agent.clock import SystemClock
from agent.core.tuning import Target
from agent.errors import ConfigError
from agent.provision import Provision
from agent.settings import Settings
from agent.tuning import Found, Search, target_of, tune
from tests.paths import COCO_SSD, MODELS
from tests.unit import test_provision
from tests.unit.test_loading import raw_model, resized

ONE = {"run_threads": 1, "spinning": False, "arena": True}
"""Settings that leave one candidate a variant."""
EASY = Target(fps=0.01, deadline_ms=60_000)


def settings(state: Path, *, model: Path, **sections: object) -> Settings:
    """Return settings whose stream asks for no more than `EASY`."""
    streams = [{"name": "door", "source": "synthetic:", "model": "seen", "deadline_ms": EASY.deadline_ms}]
    return test_provision.settings(state, model=model, **{"streams": streams, **sections})


def with_variant(folder: Path) -> Path:
    """Return a copy of a small model with one lighter variant."""
    folder = Path(shutil.copytree(MODELS / "dynamic", folder))
    with (folder / "model.toml").open("a") as manifest:
        manifest.write('\n[[variants]]\nname = "small"\nwidth = 32\nheight = 24\n')
    return folder


def search(given: Settings, target: Target = EASY, **more: object) -> Found:
    """Search with the fewest rounds."""
    asked = Search(given, "seen", target, measure_s=0.001)
    return tune(replace(asked, **more), SystemClock(), lambda *_: None)  # type: ignore[arg-type]


def started(given: Settings) -> Provision:
    """Try the models of some settings as a start does."""
    provision = Provision(given)
    for model in given.models:
        provision.survey(model)
    return provision


def test_the_default_model_is_measured_and_the_next_start_uses_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Every way of it in turns; the figures are those of one process, and the start says what it takes."""
    caplog.set_level(logging.INFO)
    steps = []
    given = settings(tmp_path, model=COCO_SSD, limits={"threads": 1})
    asked = Search(given, "seen", EASY, measure_s=0.001)
    found = tune(asked, SystemClock(), lambda *step: steps.append(step))
    assert [str(row.candidate) for row in found.rows] == ["full, 1 thread", "full, 1 thread, no arena"]
    assert all(row.figures is not None and row.figures.frames == 9 for row in found.rows)
    assert all(row.figures.p95_ms >= row.figures.p50_ms > 1 for row in found.rows if row.figures)
    assert found.taken is not None
    assert found.kept == tmp_path / "tuned.json"
    assert any("only 3 of 7 rounds" in note for note in found.notes)
    assert [step[0] for step in steps] == ["load"] * 2 + ["measure"] * 6
    provision = started(given)
    assert "seen: runs as it was tuned, but for what the settings name: variant full, 1 thread(s)" in caplog.text
    ((event, body),) = provision.events()
    assert event == "model_tuned"
    assert (body["threads"], body["tuned"]["deadline_ms"]) == (1, 60_000)


def test_a_model_is_measured_with_its_constants(tmp_path: Path) -> None:
    """It is tried with them too: with zeros for its scales this one would be refused."""
    folder = raw_model(tmp_path, resized(by="scales"), "[constants]\nscales = [1.0, 1.0, 1.5, 1.5]")
    found = search(settings(tmp_path / "state", model=folder, engine=ONE, limits={"threads": 1}))
    assert [(row.refusal, row.figures is not None) for row in found.rows] == [("", True)]


def test_the_settings_go_before_what_was_tuned(tmp_path: Path) -> None:
    """Each value for itself; and nothing is used where that is not wanted."""
    search(settings(tmp_path, model=MODELS / "tiny", engine=ONE))
    file = tmp_path / "tuned.json"
    values = json.loads(file.read_text())
    values["entries"][0]["way"] |= {"threads": 64, "spins": True, "has_arena": False}
    file.write_text(json.dumps(values))

    def in_force(**engine: object) -> tuple[int, bool, bool]:
        provision = started(settings(tmp_path, model=MODELS / "tiny", engine=engine))
        setup = provision._surveyed["seen"].conduct.setup
        assert setup is not None
        assert provision.threads_of("seen") == setup.threads <= provision.threads
        return setup.threads, setup.spins, setup.has_arena

    share = Provision(settings(tmp_path, model=COCO_SSD)).threads
    # More threads than the limits allow are never taken, whatever the file says.
    assert in_force() == (share, True, False)
    assert in_force(spinning=False) == (share, False, False)
    assert in_force(arena=True, run_threads=1) == (1, True, True)
    assert in_force(use_tuned=False) == (share, False, True)


def test_a_lighter_variant_is_taken_only_where_it_may_be(tmp_path: Path) -> None:
    """The model itself misses a deadline that no run can make; what is not allowed is not even measured."""
    folder = with_variant(tmp_path / "model")
    given = settings(tmp_path, model=folder, engine=ONE)
    never = Target(fps=1, deadline_ms=2.001)
    names = {row.candidate.variant for row in search(given, never).rows}
    assert "full" in names
    assert len(names) > 1
    closed = settings(tmp_path, model=folder, engine=ONE, degradation={"steps": ["stride"]})
    found = search(closed, never)
    assert [row.candidate.variant for row in found.rows] == ["full"]
    assert (found.way, found.kept) == (None, None)
    assert found.why[-1] == "none keeps up with 1 fps within 2.001 ms"
    assert not (tmp_path / "tuned.json").exists()
    with pytest.raises(ConfigError, match="has no variant 'huge': known are full"):
        search(given, variants=("huge",))


def test_a_variant_that_was_tuned_is_the_heaviest_that_is_loaded(tmp_path: Path) -> None:
    """`models.variant` goes before it."""
    folder = with_variant(tmp_path / "model")
    given = settings(tmp_path, model=folder, engine=ONE)
    lighter = search(given).rows[-1].candidate.variant
    assert lighter != "full"
    found = search(given, variants=(lighter,))
    assert found.way is not None
    assert found.way.variant == lighter
    surveyed = started(given)._surveyed["seen"]
    assert surveyed.conduct.first == lighter
    assert list(surveyed.need.costs) == [lighter]
    models = [{"name": "seen", "path": folder, "variant": "full"}]
    again = started(given.model_validate({**given.model_dump(exclude_unset=True), "models": models}))
    assert again._surveyed["seen"].conduct.first == "full"


def test_a_variant_that_the_settings_name_must_be_there(tmp_path: Path) -> None:
    """By the setting's name, with those that are."""
    folder = with_variant(tmp_path / "model")
    models = [{"name": "seen", "path": folder, "variant": "tiny"}]
    with pytest.raises(
        ConfigError, match=r"models\.seen\.variant: dynamic has no variant 'tiny': known are full, small"
    ):
        started(settings(tmp_path, model=folder, models=models))


def test_a_thread_that_was_placed_elsewhere_searches_on_the_agents_cpus(tmp_path: Path) -> None:
    """The control thread keeps off the inference cores, and its child would not be allowed to use them."""
    cpus = sorted(os.sched_getaffinity(0))
    given = settings(tmp_path, model=MODELS / "tiny", engine=ONE, limits={"inference_cores": [cpus[0]]})
    everywhere = Provision(given).cores.all_of_them()
    assert everywhere == tuple(cpus)
    found = []

    def run() -> None:
        os.sched_setaffinity(0, cpus[-1:])
        found.append(search(given, cpus=everywhere))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found[0].way is not None
    assert started(given).events()[0][0] == "model_tuned"


def test_another_input_size_is_measured_kept_and_used(tmp_path: Path) -> None:
    """The network of open dimensions on an input that model.toml does not name."""
    given = settings(tmp_path, model=MODELS / "dynamic", engine=ONE)
    found = search(given, variants=(), sizes=((32, 24),))
    assert [row.candidate.variant for row in found.rows] == ["32x24"]
    assert found.way is not None
    assert (found.way.width, found.way.height) == (32, 24)
    surveyed = started(given)._surveyed["seen"]
    assert surveyed.conduct.first == "32x24"
    assert surveyed.need.own.input_bytes == 32 * 24 * 3 * 4
    with pytest.raises(ConfigError, match="has a variant '32x24' already"):
        search(given, sizes=((32, 24), (32, 24)))


def test_a_network_of_fixed_size_refuses_another_one_in_the_table(tmp_path: Path) -> None:
    """And the model itself is taken."""
    found = search(settings(tmp_path, model=COCO_SSD, engine=ONE), sizes=((64, 64),))
    assert found.rows[1].figures is None
    assert "[input] makes uint8[1, 64, 64, 3]" in found.rows[1].refusal
    assert found.way is not None
    assert found.way.variant == "full"


def test_what_does_not_fit_into_the_memory_is_refused_with_the_figures(tmp_path: Path) -> None:
    """As the start would refuse it."""
    found = search(settings(tmp_path, model=COCO_SSD, engine=ONE, limits={"memory_mb": 64}))
    assert found.way is None
    assert "may take 64 MiB (limits.memory_mb)" in found.rows[0].refusal


def test_a_model_that_cannot_be_used_is_one_error(tmp_path: Path) -> None:
    """By the text that `verify` gives."""
    with pytest.raises(ConfigError, match="there is no such model folder"):
        search(settings(tmp_path, model=tmp_path / "nowhere"))


def test_what_is_asked_comes_from_the_streams(tmp_path: Path) -> None:
    """The sum of their rates and the tightest of their deadlines, unless somebody names others."""
    stream = {"source": "synthetic:", "model": "seen"}
    given = settings(
        tmp_path,
        model=COCO_SSD,
        streams=[
            {**stream, "name": "a", "max_fps": 3, "deadline_ms": 100},
            {**stream, "name": "b", "max_fps": 4},
        ],
    )
    assert target_of(given, "seen", None, None) == Target(7, 100)
    assert target_of(given, "seen", 2, 50) == Target(2, 50)
    assert target_of(test_provision.settings(), "seen", None, None) == Target(5, 250)


def test_a_stream_that_asks_for_more_than_was_measured_is_not_served_by_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The agent starts as if nothing had been tuned, and says so."""
    search(settings(tmp_path, model=MODELS / "tiny", engine=ONE))
    provision = started(test_provision.settings(tmp_path, model=MODELS / "tiny"))
    assert provision.events() == []
    why = "it was measured for 0.01 fps within 60000 ms, and within 250 ms is asked for"
    assert [record.message for record in caplog.records if "tuned.json" in record.message] == [
        f"{tmp_path / 'tuned.json'}: is not used for tiny: {why}"
    ]
