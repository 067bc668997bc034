"""`edgebeat simulate`: made and recorded traces, what-ifs, pictures, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.__main__ import run_command
from agent.clock import NS_PER_MS
from agent.core.scheduler import Ending, SchedulerPolicy, StreamPolicy
from agent.core.trace import arrival_line, header, run_line

MADE = ["simulate", "--synthetic", "--seconds", "5", "--noise", "0"]


def figures(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    """Run the command and return its JSON."""
    assert run_command([*arguments, "--json"]) == 0
    values: dict[str, object] = json.loads(capsys.readouterr().out)
    return values


def recorded(folder: Path) -> Path:
    """Write a trace of 10 s of one camera at 10 fps whose model takes 80 ms."""
    lines = [header({"door": StreamPolicy(250 * NS_PER_MS, session="seen")}, SchedulerPolicy(threads=2))]
    for index in range(100):
        at_ns = (1000 + index * 100) * NS_PER_MS
        lines += [
            arrival_line("door", at_ns, at_ns),
            run_line("door", at_ns, at_ns, at_ns + 80 * NS_PER_MS, Ending.DONE),
        ]
    file = folder / "trace.ndjson"
    file.write_text("\n".join(lines) + "\n")
    return file


def test_a_made_trace_has_exact_books(capsys: pytest.CaptureFixture[str]) -> None:
    """Four streams in threefold overload: everything possible, evenly, and every frame accounted for."""
    values = figures(capsys, *MADE)
    assert values["goodput"] == pytest.approx(1.0, abs=0.02)
    assert values["fairness"] == pytest.approx(1.0, abs=0.01)
    for stream in values["streams"].values():  # type: ignore[attr-defined]
        ledger = stream["ledger"]
        assert ledger["captured"] == sum(ledger.values()) - ledger["captured"]


def test_the_same_seed_gives_the_same_figures(capsys: pytest.CaptureFixture[str]) -> None:
    """Trouble is drawn from the seed alone."""
    trouble = [*MADE, "--stalls", "1", "--drops", "1", "--noise", "0.2"]
    first = figures(capsys, *trouble)
    assert figures(capsys, *trouble) == first
    assert figures(capsys, *trouble, "--seed", "1") != first


def test_a_recorded_trace_answers_what_ifs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As recorded every frame is published; on a box of a third of the speed about four a second are."""
    file = str(recorded(tmp_path))
    assert figures(capsys, "simulate", "--trace", file)["published_possible"] == 100
    slow = figures(capsys, "simulate", "--trace", file, "--speed", "0.36")
    assert 38 <= slow["published_possible"] <= 46  # type: ignore[operator]
    assert slow["goodput"] >= 0.9  # type: ignore[operator]
    strict = figures(capsys, "simulate", "--trace", file, "--deadline-ms", "50")
    assert strict["published_possible"] == 0
    assert strict["goodput"] is None


def test_the_table_names_the_causes_that_occur(capsys: pytest.CaptureFixture[str]) -> None:
    """For people: a line a stream, and what the goodput is of."""
    assert run_command(MADE) == 0
    output = capsys.readouterr().out
    assert "superseded" in output
    assert "unreachable" not in output
    assert "clairvoyant" in output


@pytest.mark.parametrize(("name", "begins"), [("plot.svg", b"<?xml"), ("plot.png", b"\x89PNG")])
def test_it_draws(tmp_path: Path, name: str, begins: bytes) -> None:
    """PNG or SVG, by the name."""
    assert run_command([*MADE, "--plot", str(tmp_path / name)]) == 0
    assert (tmp_path / name).read_bytes().startswith(begins)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--trace", "/no/such/trace"], "--trace /no/such/trace: cannot be read: No such file or directory"),
        (["--trace", __file__], "line 1: "),
        (["--synthetic", "--plot", "picture.jpg"], "--plot picture.jpg: the name must end in .png or .svg"),
        (["--synthetic", "--seconds", "1", "--plot", "/no/such/folder/plot.svg"], "cannot be written"),
    ],
)
def test_what_it_refuses(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With the thing, the value and the reason."""
    assert run_command(["simulate", *arguments]) == 78
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["--fps", "0"], ["--streams", "0"], ["--service-ms", "-1"], ["--speed", "0"], ["--threads", "1025"]]
)
def test_wrong_numbers_are_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, as for any wrong argument."""
    with pytest.raises(SystemExit) as ended:
        run_command(["simulate", "--synthetic", *arguments])
    assert ended.value.code == 2
    assert "is not" in capsys.readouterr().err
