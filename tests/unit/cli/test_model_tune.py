"""`edgebeat model tune`: the table, the picture and the exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.__main__ import run_command
from agent.cli.model_tune import text_of
from agent.cli.model_tune_plot import draw
from agent.core.tuning import Candidate, Figures, Target
from agent.engine.tuned import Way
from agent.errors import ConfigError
from agent.tuning import Found, Row
from tests.paths import MODELS

WAY = Way(variant="full", providers=["cpu"], threads=1, spins=False, has_arena=True)
FOUND = Found(
    Path("model"),
    Target(5, 250),
    (
        Row(Candidate("full"), Figures(30, 40, 31, 29, 21), "", True),
        Row(Candidate("full", threads=2, spins=True), Figures(20, 25, 62, 29, 21), "", False),
        Row(Candidate("320"), None, "no memory", False),
    ),
    WAY,
    ("full, 1 thread: it takes the least CPU",),
    (),
    {},
    Path("tuned.json"),
)


def test_people_see_what_is_taken_and_why_the_others_are_not() -> None:
    """The whole table."""
    assert text_of(FOUND).splitlines() == [
        "model: 5 fps within 250 ms; 3 candidates in turns, 21 frames each",
        "   variant  threads  spins  arena  providers  p50 ms  p95 ms  cpu ms  MiB",
        "*  full     1        no     yes    cpu        30.0    40.0    31.0    29.0",
        "   full     2        yes    yes    cpu        20.0    25.0    62.0    29.0",
        "   320      1        no     yes    cpu        -       -       -       -     no memory",
        "  full, 1 thread: it takes the least CPU",
        "kept in tuned.json: used from the next start on",
    ]


@pytest.mark.parametrize("name", ["found.svg", "found.png"])
def test_the_picture_marks_what_is_taken(tmp_path: Path, name: str) -> None:
    """What did not run is left out."""
    draw(FOUND, tmp_path / name)
    first = (tmp_path / name).read_bytes()
    assert first[:5] in (b"<?xml", b"\x89PNG\r")
    if name.endswith("svg"):
        assert b"full, 1 thread (taken)" in first
        assert b"full, 2 threads, spinning" in first
        assert b"320, 1 thread" not in first


def test_a_picture_of_no_known_kind_is_an_error(tmp_path: Path) -> None:
    """By its name."""
    with pytest.raises(ConfigError, match=r"--plot .*found\.xyz: cannot be written"):
        draw(FOUND, tmp_path / "found.xyz")


def test_it_ends_with_1_where_nothing_keeps_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And says by how much; nothing is written."""
    monkeypatch.setenv("EDGEBEAT_STATE__DIR", str(tmp_path / "state"))
    monkeypatch.setenv("EDGEBEAT_ENGINE__RUN_THREADS", "1")
    command = ["model", "tune", str(MODELS / "tiny"), "--seconds", "0.001", "--deadline-ms", "2.001"]
    assert run_command([*command, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["taken"], found["kept"]) == (None, None)
    assert found["target"] == {"fps": 5, "deadline_ms": 2.001}
    assert "of a deadline of 2.001" in found["candidates"][0]["refusal"]
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_what_was_measured_is_printed_though_it_cannot_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], form: tuple[str, ...]
) -> None:
    """A folder in the place of the file stands for a full disk: the table, a note, and exit code 1."""
    (tmp_path / "tuned.json").mkdir()
    monkeypatch.setenv("EDGEBEAT_STATE__DIR", str(tmp_path))
    monkeypatch.setenv("EDGEBEAT_ENGINE__RUN_THREADS", "1")
    command = ["model", "tune", str(MODELS / "tiny"), "--seconds", "0.001", "--deadline-ms", "60000"]
    assert run_command([*command, *form]) == 1
    said = capsys.readouterr()
    assert "Is a directory: nothing was kept" in said.err
    if form:
        found = json.loads(said.out)
        assert (found["taken"]["threads"], found["kept"]) == (1, None)
        assert "nothing was kept" in found["notes"][-1]
    else:
        assert "*  full " in said.out
        assert said.out.splitlines()[-1] == "not kept"


@pytest.mark.parametrize("command", [["tune"], ["quantize", "--calibrate", "x"]])
def test_a_plot_without_a_folder_is_refused_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    """Nothing was looked at yet: not even that there is no such model."""
    for plot, why in (
        (tmp_path / "absent" / "a.png", f"{tmp_path / 'absent'} is no folder"),
        (tmp_path / "a.svg", "it is a folder"),
    ):
        (tmp_path / "a.svg").mkdir(exist_ok=True)
        assert run_command(["model", *command, str(tmp_path / "no model"), "--plot", str(plot)]) == 78
        (line,) = capsys.readouterr().err.splitlines()
        assert f"--plot {plot}: " in line
        assert why in line


def test_a_model_that_the_settings_do_not_name_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With those that they do name."""
    file = tmp_path / "agent.toml"
    file.write_text(
        '[[models]]\nname = "seen"\npath = "elsewhere"\n'
        '[[streams]]\nname = "door"\nsource = "synthetic:"\nmodel = "seen"\n'
    )
    assert run_command(["model", "tune", str(MODELS / "tiny"), "--config", str(file)]) == 78
    assert "is no model of" in (said := capsys.readouterr().err)
    assert "which names elsewhere" in said


def test_a_size_that_is_none_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    """Beside the option's name."""
    with pytest.raises(SystemExit):
        run_command(["model", "tune", "x", "--size", "big"])
    assert "'big' is not a size such as 320x240" in capsys.readouterr().err
