"""`edgebeat simulate`: made and recorded traces, what-ifs, pictures, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.__main__ import run_command
from agent.clock import NS_PER_MS, NS_PER_S
from agent.core.policy import SchedulerPolicy, StreamPolicy
from agent.core.predictor import PredictorPolicy
from agent.core.scheduler import Ending
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


def ledger(values: dict[str, object], stream: str) -> dict[str, int]:
    """Return the outcomes of a stream."""
    streams: dict[str, dict[str, dict[str, int]]] = values["streams"]  # type: ignore[assignment]
    return streams[stream]["ledger"]


def test_priority_and_minimum_share_divide_an_overloaded_box(capsys: pytest.CaptureFixture[str]) -> None:
    """One camera before another: it gets most, and the other more of it when more is divided evenly."""
    made = [*MADE, "--streams", "2", "--service-ms", "60", "--priority", "s0=9"]
    first, second = (ledger(figures(capsys, *made), stream)["published"] for stream in ("s0", "s1"))
    assert first > 2 * second > 0
    assert ledger(figures(capsys, *made, "--min-share", "1"), "s1")["published"] > 2 * second


def test_stride_and_bursts_of_a_made_trace(capsys: pytest.CaptureFixture[str]) -> None:
    """Every third frame asks for inference; frames of a burst supersede each other."""
    made = [*MADE, "--streams", "1", "--fps", "20"]
    plain, thinned = figures(capsys, *made), figures(capsys, *made, "--stride", "3")
    assert ledger(plain, "s0")["published"] >= 95
    assert ledger(thinned, "s0")["skipped"] == pytest.approx(67, abs=2)
    assert ledger(plain, "s0")["superseded"] == 0
    assert ledger(figures(capsys, *made, "--bursts", "0.3"), "s0")["superseded"] >= 10


def test_probes_and_window_can_be_tried(capsys: pytest.CaptureFixture[str]) -> None:
    """A model that is too slow is tried as often as is asked; one change leaves the others as recorded."""
    made = [*MADE, "--streams", "1", "--fps", "10", "--service-ms", "400"]
    often = ledger(figures(capsys, *made, "--probe-interval-s", "0.3"), "s0")["aborted"]
    seldom = ledger(figures(capsys, *made, "--probe-interval-s", "2"), "s0")["aborted"]
    assert often > 2 * seldom
    shaky = [*MADE, "--noise", "0.3", "--drops", "2", "--fps", "8", "--service-ms", "110", "--deadline-ms", "200"]
    assert figures(capsys, *shaky, "--window-s", "0.1") != figures(capsys, *shaky)
    assert figures(capsys, *shaky, "--probe-share", "1") != figures(capsys, *shaky)


def test_a_trace_is_simulated_by_the_policy_that_it_was_recorded_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the box was set to, unless something else is asked for; an older trace says that it does not tell."""
    policy = SchedulerPolicy(predictor=PredictorPolicy(probe_interval_ns=60 * NS_PER_S))
    lines = [header({"door": StreamPolicy(250 * NS_PER_MS, session="seen")}, policy)]
    for index in range(100):
        at_ns = index * 100 * NS_PER_MS
        ran = run_line("door", at_ns, at_ns, at_ns + 400 * NS_PER_MS, Ending.DONE)
        lines += [arrival_line("door", at_ns, at_ns), ran]
    file = tmp_path / "trace.ndjson"
    file.write_text("\n".join(lines) + "\n")
    values = figures(capsys, "simulate", "--trace", str(file), "--probe-share", "0.01")
    assert ledger(values, "door")["aborted"] <= 5
    asked = figures(capsys, "simulate", "--trace", str(file), "--probe-interval-s", "0.5")
    assert ledger(asked, "door")["aborted"] >= 10
    assert "default" not in str(values["trace"])
    head = json.loads(lines[0]) | {"edgebeat_trace": 1, "threads": 1, "run_threads": 1}
    file.write_text("\n".join([json.dumps(head), *lines[1:]]) + "\n")
    assert "default" in str(figures(capsys, "simulate", "--trace", str(file))["trace"])


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
        (["--synthetic", "--priority", "door=9"], "--priority door=9: there is no stream door, only s0, s1, s2, s3"),
        (["--synthetic", "--plot", "picture.jpg"], "--plot picture.jpg: the name must end in .png or .svg"),
        (["--synthetic", "--seconds", "1", "--plot", "/no/such/folder/plot.svg"], "cannot be written"),
    ],
)
def test_what_it_refuses(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With the thing, the value and the reason."""
    assert run_command(["simulate", *arguments]) == 78
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--fps", "0"],
        ["--streams", "0"],
        ["--service-ms", "-1"],
        ["--speed", "0"],
        ["--threads", "1025"],
        ["--min-share", "0"],
        ["--confidence", "1.5"],
        ["--bursts", "nan"],
        ["--priority", "s0"],
        ["--priority", "s0=10"],
        ["--stride", "0"],
        ["--noise", "nan"],
        ["--noise", "-1"],
        ["--noise", "much"],
        ["--stalls", "-1"],
        ["--drops", "-1"],
        ["--drops", "1.5"],
        ["--max-fps", "1e-300"],
        ["--speed", "1e300"],
    ],
)
def test_wrong_numbers_are_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, as for any wrong argument."""
    with pytest.raises(SystemExit) as ended:
        run_command(["simulate", "--synthetic", *arguments])
    assert ended.value.code == 2
    assert "is not" in capsys.readouterr().err


def test_a_trace_of_wrong_numbers_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As any other bad trace: exit code 78 and no traceback."""
    file = recorded(tmp_path)
    file.write_text(file.read_text().replace('"budget_ns":250000000', '"budget_ns":"x"'))
    assert run_command(["simulate", "--trace", str(file)]) == 78
    said = capsys.readouterr().err
    assert 'line 1: is not a line of a trace: streams.door.budget_ns = "x" is not null or a whole number' in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments", [["--seconds", "1e-6", "--stalls", "1"], ["--service-ms", "1e-6"], ["--speed", "1e9"]]
)
def test_the_smallest_numbers_are_simulated(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is divided by what became 0 ns."""
    values = figures(capsys, *MADE, *arguments)
    assert values["goodput"] in (None, pytest.approx(1.0, abs=0.02))
