"""What is kept of a settings file on trial, and what a start makes of it."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.reconcile import STARTS_MAX_UNPROVEN
from agent.desired.file_trial import FILE, FileTrial, FileTrials, open_file_trials
from agent.desired.start import begin, resume
from agent.layers import Layers, Leaf
from tests.fakes import ManualClock
from tests.unit.core.test_located_json import TEXT, VALUES

PLACE = "agent.toml"
PARTS = st.sampled_from(["streams", "log", "level", "max_fps", 0, 1]) | VALUES
JSON = st.fixed_dictionaries(
    {
        "format": st.just(1),
        "file": st.just(PLACE),
        "good": st.lists(st.tuples(st.lists(PARTS, max_size=4), VALUES, TEXT), max_size=4) | VALUES,
        "starts": st.integers(0, 4) | VALUES,
        "check": st.sampled_from(["", "memory"]) | VALUES,
        "figures": st.just({}) | VALUES,
    },
    optional={"digest": VALUES},
)
FPS = ("streams", 0, "max_fps")


def layers(state: Path, fps: float, *, line: int = 7, place: str = PLACE, **more: Any) -> Layers:
    """Return what a settings file says."""
    values: dict[tuple[str | int, ...], Any] = {
        ("state", "dir"): str(state),
        ("models", 0, "name"): "seen",
        ("models", 0, "path"): "m",
        ("streams", 0, "name"): "door",
        ("streams", 0, "source"): "rtsp://user:secret@camera",
        ("streams", 0, "model"): "seen",
        FPS: fps,
        **{("streams", 0, key): value for key, value in more.items()},
    }
    return Layers(tuple(Leaf(path, value, f"{place}:{line}") for path, value in values.items()), place=place)


@pytest.fixture
def tried(tmp_path: Path) -> Layers:
    """A file with 9 frames a second that was read again, after one with 2."""
    bad = layers(tmp_path, 9.0)
    FileTrials(tmp_path).put(FileTrial.of(bad, layers(tmp_path, 2.0)))
    return bad


def kept(layers: Layers) -> FileTrial | None:
    """Return what is on disk."""
    return open_file_trials(layers.load().settings).load(layers)


def test_each_start_is_counted_before_it_and_the_last_good_settings_follow(tried: Layers) -> None:
    """Three starts on the file, with what was before it at hand; the next ones on that, told once."""
    for starts in range(1, STARTS_MAX_UNPROVEN + 1):
        start = begin(tried, ManualClock())
        assert start.loaded.settings.streams[0].max_fps == 9.0
        assert start.good is not None
        assert (trial := kept(tried)) is not None
        assert trial.starts == starts
    start = begin(tried, ManualClock())
    assert start.loaded.settings.streams[0].max_fps == 2.0
    assert start.loaded.origins["streams.0.max_fps"] == "last good agent.toml:7"
    assert start.good is None
    (told,) = start.given_up
    assert (told["check"], told["file"], told["figures"]) == ("starts", PLACE, {"starts": 3, "starts_max": 3})
    again = begin(tried, ManualClock())
    assert (again.loaded.settings.streams[0].max_fps, again.given_up) == (2.0, ())
    lines = (Path(tried.below[0].value) / "audit.jsonl").read_text().splitlines()
    assert [json.loads(line)["action"] for line in lines] == ["rolled_back"]


def test_a_file_that_was_changed_since_is_taken_as_it_is(tried: Layers, tmp_path: Path) -> None:
    """Other values end the trial; other lines and comments are no other values, another file no concern of it."""
    by_hand = begin(layers(tmp_path, 5.0, place="other.toml"), ManualClock())
    assert by_hand.good is None
    moved = begin(layers(tmp_path, 9.0, line=99), ManualClock())
    assert moved.good is not None
    corrected = begin(layers(tmp_path, 3.0), ManualClock())
    assert (corrected.loaded.settings.streams[0].max_fps, corrected.good) == (3.0, None)
    assert kept(tried) is None


def test_a_file_on_which_no_run_can_start_is_given_up_for_the_starts_after_it_too(tried: Layers) -> None:
    """Its model is gone: what is told is cut, and without passwords."""
    start = begin(tried, ManualClock()).without_file(["rtsp://user:secret@camera: " + "x" * 1000])
    assert start.loaded.settings.streams[0].max_fps == 2.0
    (problem,) = start.given_up[0]["figures"]["problems"]
    assert problem.startswith("rtsp://***@camera: xxx")
    assert len(problem) == 300
    assert begin(tried, ManualClock()).loaded.settings.streams[0].max_fps == 2.0


def test_a_hang_that_counted_against_it_is_kept_by_the_next_run(tried: Layers) -> None:
    """The run that hung could not write: its disk may be what hung."""
    trial = kept(tried)
    assert trial is not None
    event = {"file": PLACE, "check": "hung", "figures": {"reason": "seen hung"}}
    start = resume(trial.before(tried), ManualClock(), good=None, given_up=(event,))
    assert start.given_up == (event,)
    found = kept(tried)
    assert found is not None
    assert (found.check, found.figures) == ("hung", {"reason": "seen hung"})


def test_what_was_before_it_may_be_of_no_use_any_more(tried: Layers, tmp_path: Path) -> None:
    """By the rules of another version: the file itself is better than no start."""
    bad = layers(tmp_path, -1.0)
    FileTrials(tmp_path).put(FileTrial.of(tried, bad).given_up("memory", {}))
    assert begin(tried, ManualClock()).loaded.settings.streams[0].max_fps == 9.0
    assert kept(tried) is None


def test_where_no_run_can_start_on_what_was_before_the_file_is_taken_as_it_is(tried: Layers) -> None:
    """The model of before was removed: a device that could start on something does."""
    given_up = begin(tried, ManualClock()).without_file(["m: no such model"])
    again = given_up.as_written(["n: no such model"])
    assert (again.loaded.settings.streams[0].max_fps, again.written) == (9.0, None)
    start = begin(tried, ManualClock())
    assert (start.loaded.settings.streams[0].max_fps, start.good) == (9.0, None)


def test_a_start_that_cannot_be_counted_is_on_what_was_proven(tried: Layers, tmp_path: Path) -> None:
    """It may be the one of a thousand."""
    (tmp_path / f".{FILE}.part").mkdir()
    start = begin(tried, ManualClock())
    assert start.loaded.settings.streams[0].max_fps == 2.0
    assert start.given_up[0]["check"] == "not_kept"


@pytest.mark.parametrize("text", ["", "[]", "{", '{"format": 99}', '{"format": 1, "file": "x"}', "[" * 100_000])
def test_what_is_damaged_is_set_aside(tmp_path: Path, text: str) -> None:
    """The settings file is taken as it is; a check leaves it alone."""
    file = tmp_path / FILE
    file.write_text(text)
    own = layers(tmp_path, 2.0)
    assert FileTrials(tmp_path).load(own, sets_aside=False) is None
    assert file.read_text() == text
    assert FileTrials(tmp_path).load(own) is None
    assert (tmp_path / f"{FILE}.damaged").read_text() == text


@given(JSON)
def test_any_json_is_a_trial_or_damaged(body: Any) -> None:
    """Whoever writes the state folder ends nothing with it."""
    with tempfile.TemporaryDirectory() as folder:
        own = layers(Path(folder), 2.0)
        (Path(folder) / FILE).write_text(json.dumps({"digest": FileTrial.of(own, own).digest, **body}))
        begin(own, ManualClock())


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    """With the values before it and their places; nothing on trial leaves no file."""
    trials = FileTrials(tmp_path)
    trial = FileTrial.of(layers(tmp_path, 9.0), layers(tmp_path, 2.0)).begun()
    trials.put(trial)
    assert FileTrials(tmp_path).load(layers(tmp_path, 9.0)) == trial
    trials.put(None)
    assert not (tmp_path / FILE).exists()


def test_a_disk_that_takes_nothing_is_an_error_for_the_caller(tmp_path: Path) -> None:
    """What is on trial is known until the run ends."""
    trials = FileTrials(tmp_path / "absent")
    trial = FileTrial.of(layers(tmp_path, 9.0), layers(tmp_path, 2.0))
    with pytest.raises(OSError, match="No such file"):
        trials.put(trial)
    assert trials.trial == trial
    huge = replace(trial, good=(Leaf(("log", "level"), "x" * (5 << 20), PLACE),))
    with pytest.raises(OSError, match="too large"):
        FileTrials(tmp_path).put(huge)
