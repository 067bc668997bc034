"""The commands as a user runs them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.agent_process import AgentProcess, checked_summary, settings_text
from tests.paths import CLIP, CLIP_FRAMES, COCO_SSD, MODELS, REPOSITORY


def edgebeat(*arguments: object, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    command = [sys.executable, "-W", "error", "-m", "agent", *map(str, arguments)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=timeout_s, check=False)


def test_a_one_off_run_prints_every_frame_and_the_summary() -> None:
    """No file, no broker: one JSON result a line, every frame of the clip, exact books."""
    result = edgebeat("run", "--model", COCO_SSD, "--source", CLIP, "--output", "stdout")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    results = [json.loads(line) for line in lines[:-1]]
    assert [item["frame"] for item in results] == list(range(1, CLIP_FRAMES + 1))
    assert results[0]["model"] == "coco-ssd"
    truth = (REPOSITORY / "config/demo/clip.truth.txt").read_text().split()
    shown = {"coffee": "cup", "astronaut": "person", "chelsea": "cat", "none": None}
    for item, name in zip(results, truth, strict=True):
        labels = {found["label"] for found in item["detections"]}
        assert (shown[name] in labels) if shown[name] else not labels
    summary = checked_summary(lines)
    assert summary["streams"]["stream"]["ledger"]["published"] == CLIP_FRAMES


def test_the_duration_ends_a_run(tmp_path: Path) -> None:
    """A repeated source would go on for ever; between its frames the model is kept warm, and in memory."""
    text = settings_text(stream="repeat = true\nfps = 1", more="[limits]\nlock_memory = true")
    text = text.replace('name = "seen"', 'name = "seen"\nkeep_warm_s = 0.1')
    with AgentProcess(tmp_path, text, "--output", "stdout", "--duration", "2") as agent:
        code, lines = agent.wait()
    assert code == 0, agent.log
    summary = checked_summary(lines)
    assert summary["stop_reason"] == "duration reached"
    assert summary["models"]["seen"]["warm_runs"] > 0
    # RLIMIT_MEMLOCK may be too small for an agent without CAP_IPC_LOCK: then the operator is told.
    is_refused = "limits.lock_memory: refused: " in agent.log
    assert summary["process"]["memory_locked"] is not is_refused


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_mid_inference_drains(tmp_path: Path, number: signal.Signals) -> None:
    """SIGTERM and Ctrl-C: what runs ends or is stopped, the books close, the code is 0, within 5 s."""
    text = settings_text(model=MODELS / "slow", stream='repeat = true\nmode = "every_frame"')
    with AgentProcess(tmp_path, text, "--output", "stdout") as agent:
        agent.wait_for_log("ready")
        agent.signal(number)
        code, lines = agent.wait(timeout_s=5)
    assert code == 0
    assert checked_summary(lines)["stop_reason"] == number.name


def test_the_reader_of_the_pipe_may_leave() -> None:
    """`| head -1`: no trace, no hang."""
    arguments = ["run", "--model", str(COCO_SSD), "--source", str(CLIP), "--output", "stdout"]
    command = [sys.executable, "-m", "agent", *arguments]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        log = process.stderr.read().decode()
        process.wait(timeout=30)
    assert "Traceback" not in log
    assert "reader of standard output went away" in log


def test_check_names_each_origin(tmp_path: Path) -> None:
    """Values, where they came from, and a verdict."""
    file = tmp_path / "agent.toml"
    file.write_text(settings_text())
    result = edgebeat("check", "--config", file)
    assert result.returncode == 0, result.stderr
    assert f"{file}:3" in result.stdout
    assert "settings are valid" in result.stdout.splitlines()[-1]
    as_json = json.loads(edgebeat("check", "--config", file, "--json").stdout)
    assert as_json["streams.0.mode"] == {"value": "live", "origin": "default"}


def test_wrong_settings_end_with_78(tmp_path: Path) -> None:
    """Every error with its line, nothing on standard output, nothing started."""
    file = tmp_path / "agent.toml"
    file.write_text(settings_text(stream="deadline = 5\nmax_fps = 0"))
    for command in ("check", "run"):
        result = edgebeat(command, "--config", file)
        assert result.returncode == 78
        assert result.stdout == ""
        assert "streams.0.deadline: is not a setting: did you mean 'deadline_ms'?" in result.stderr
        assert "streams.0.max_fps: 0: input should be greater than 0" in result.stderr
        assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["run"], 78, "nothing to run"),
        (["run", "--model", "x"], 78, "go together"),
        (["run", "--model", COCO_SSD, "--source", "none.mp4"], 78, "'none.mp4' is no file"),
        (["run", "--model", "none", "--source", CLIP], 78, "there is no such model folder"),
        (["run", "--config", "none.toml"], 78, "none.toml: cannot be read"),
        (["run", "--duration", "0"], 2, "is not above 0"),
        (["frobnicate"], 2, "invalid choice"),
        ([], 2, "COMMAND"),
    ],
)
def test_usage_errors(arguments: list[object], code: int, said: str) -> None:
    """Usage is 2, settings are 78, and the text says what to do."""
    result = edgebeat(*arguments)
    assert result.returncode == code
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_an_unreadable_clip_fails_the_run(tmp_path: Path) -> None:
    """The stream ends with its reason, the exit code is 1, the books are exact."""
    nonsense = tmp_path / "clip.mp4"
    nonsense.write_bytes(os.urandom(5000))
    result = edgebeat("run", "--model", MODELS / "tiny", "--source", nonsense, "--output", "stdout")
    assert result.returncode == 1
    assert "is not a video that FFmpeg can read" in result.stderr
    assert checked_summary(result.stdout.splitlines())["streams"]["stream"]["ledger"]["captured"] == 0
