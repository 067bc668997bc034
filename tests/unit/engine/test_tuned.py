"""What was tuned is used where nothing has changed, and never believed otherwise."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.core.tuning import Figures, Target
from agent.engine.tuned import ENTRIES_MAX, FILE_BYTES_MAX, Tuned, TunedFile, Way, facts_of, result

FIGURES = Figures(p50_ms=30, p95_ms=40, cpu_ms=31, memory_mb=30, frames=21)
WAY = Way(variant="full", providers=["cpu"], threads=1, spins=False, has_arena=True)
TARGET = Target(fps=5, deadline_ms=250)


def entry(model: str = "seen", networks: str = "ab", **other: str) -> Tuned:
    """Return a result."""
    facts = facts_of(model, networks, 2, 400) | other
    return result(facts, WAY, TARGET, FIGURES, "2026-11-24T10:00:00.000Z")


def test_what_was_kept_is_found_by_the_same_facts(tmp_path: Path) -> None:
    """The newest result of a model is the one that counts; others stay."""
    file = TunedFile(tmp_path)
    assert file.find(entry().facts) == (None, None)
    assert file.keep(entry("other")) == tmp_path / "tuned.json"
    file.keep(entry())
    newer = entry().model_copy(update={"p95_ms": 41.0})
    file.keep(newer)
    assert TunedFile(tmp_path).find(entry().facts) == (newer, None)
    assert TunedFile(tmp_path).find(entry("other").facts)[0] is not None
    assert len(json.loads((tmp_path / "tuned.json").read_text())["entries"]) == 2


@pytest.mark.parametrize("name", ["networks", "onnxruntime", "cpu", "cpus", "memory_mb"])
def test_a_stale_result_is_left_with_one_line_that_names_what_changed(tmp_path: Path, name: str) -> None:
    """Another network, ONNX Runtime, CPU or limit."""
    file = TunedFile(tmp_path)
    file.keep(entry(**{name: "before"}))
    tuned, why = file.find(entry().facts)
    assert tuned is None
    assert why is not None
    assert f"is not used for seen: it was measured with other {name} before -> {entry().facts[name]}" in why
    assert "\n" not in why


@pytest.mark.parametrize("asked", [Target(6, 250), Target(5, 100)])
def test_a_result_for_less_than_is_asked_is_left(tmp_path: Path, asked: Target) -> None:
    """What kept up with 5 fps may not with 6."""
    file = TunedFile(tmp_path)
    file.keep(entry())
    assert file.find(entry().facts, Target(0, 300))[0] is not None
    tuned, why = file.find(entry().facts, asked)
    assert tuned is None
    assert why is not None
    assert "measured for 5 fps within 250 ms" in why


def damage(file: Path) -> None:
    file.write_text(file.read_text()[:-20])


def nest(file: Path) -> None:
    file.write_text("[" * 50_000)


def lie(file: Path) -> None:
    values = json.loads(file.read_text())
    values["entries"][0]["way"]["threads"] = -1
    file.write_text(json.dumps(values))


def fill(file: Path) -> None:
    file.write_text(" " * (FILE_BYTES_MAX + 1))


def open_up(file: Path) -> None:
    file.chmod(0o666)


def link(file: Path) -> None:
    file.rename(file.with_name("elsewhere"))
    file.symlink_to("elsewhere")


def pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (damage, "is damaged"),
        (nest, "is damaged"),
        (lie, "is damaged"),
        (fill, "is larger than"),
        (open_up, "others may write"),
        (link, "cannot be read"),
        (pipe, "is no file"),
    ],
)
def test_a_file_that_is_not_as_we_wrote_it_is_left_and_made_anew(
    tmp_path: Path, harm: Callable[[Path], None], said: str
) -> None:
    """One line says so; the next result takes its place."""
    file = TunedFile(tmp_path)
    file.keep(entry())
    harm(tmp_path / "tuned.json")
    tuned, why = file.find(entry().facts)
    assert tuned is None
    assert why is not None
    assert said in why
    file.keep(entry())
    assert file.find(entry().facts) == (entry(), None)


def test_the_file_is_bounded(tmp_path: Path) -> None:
    """The one that was measured first goes."""
    file = TunedFile(tmp_path)
    for number in range(ENTRIES_MAX + 2):
        file.keep(entry(f"m{number}" + "x" * 60))
    content = (tmp_path / "tuned.json").read_bytes()
    assert len(content) < FILE_BYTES_MAX
    assert len(json.loads(content)["entries"]) == ENTRIES_MAX
    assert file.find(entry("m0" + "x" * 60).facts) == (None, None)


def test_without_a_folder_nothing_is_kept() -> None:
    """And nothing found."""
    file = TunedFile(None)
    assert file.keep(entry()) is None
    assert file.find(entry().facts) == (None, None)
