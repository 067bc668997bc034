"""Faults of the device: cameras that go, disks that are full, models that hang."""

from __future__ import annotations

from pathlib import Path

from tests.agent_process import AgentProcess, checked_summary, settings_text
from tests.mjpeg import MjpegServer
from tests.paths import MODELS


def test_camera_lost_and_back(tmp_path: Path) -> None:
    """A network camera hangs up, is away, and returns with another size: the stream goes on, one event each."""
    with MjpegServer() as first:
        port = first.port
        text = settings_text(source=first.url, stream="deadline_ms = 2000")
        agent = AgentProcess(tmp_path, text, "--output", "stdout")
        with agent:
            agent.wait_for_log("ready")
            first.close()
            agent.wait_for_log("door: ")
            with MjpegServer(port, size=(96, 64)):
                agent.wait_for_log("the source is back")
                agent.wait_for_output('"source":{"width":96,"height":64}')
                summary = agent.terminate()
    stream = summary["streams"]["door"]
    assert stream["source_losses"] >= 1
    assert stream["ledger"]["published"] > 0
    assert stream["ledger"]["failed"] == 0


def test_a_stop_while_a_camera_says_nothing(tmp_path: Path) -> None:
    """Its reader waits in FFmpeg and is left behind; the agent still ends in order, not by C++'s abort."""
    with (
        MjpegServer(interval_ms=60_000) as silent,
        AgentProcess(tmp_path, settings_text(source=silent.url), "--output", "stdout") as agent,
    ):
        agent.wait_for_log("ready")
        summary = agent.terminate(timeout_s=8)
    assert summary["streams"]["door"]["ledger"]["captured"] == 0


def test_camera_absent_at_start(tmp_path: Path) -> None:
    """The agent runs, says once what is missing, and stops in order."""
    with AgentProcess(tmp_path, settings_text(source="/dev/video99"), "--output", "stdout") as agent:
        agent.wait_for_log("/dev/video99: there is no such device: is the camera plugged in?")
        summary = agent.terminate()
    assert summary["streams"]["door"]["source_losses"] == 1
    assert agent.log.count("is the camera plugged in") == 1


def test_annotated_picture_on_a_full_or_absent_disk(tmp_path: Path) -> None:
    """Predictions go on; the file and the reason are said once."""
    text = settings_text(stream=f'annotated_image = "{tmp_path}/no/such/folder.jpg"\nrepeat = true')
    with AgentProcess(tmp_path, text, "--output", "stdout") as agent:
        agent.wait_for_log("cannot be written: No such file or directory")
        summary = agent.terminate()
    assert summary["streams"]["door"]["ledger"]["published"] > 0
    assert agent.log.count("cannot be written") == 1


def test_model_that_ignores_its_abort_at_shutdown(tmp_path: Path) -> None:
    """One operator of a second: its late result is never published, and SIGTERM still ends the agent in 5 s."""
    text = settings_text(model=MODELS / "giant", stream="repeat = true")
    with AgentProcess(tmp_path, text, "--output", "stdout") as agent:
        agent.wait_for_log("ready", 100)  # Four runs of this model: 4 s, and as many times more on a busy machine.
        summary = agent.terminate(timeout_s=5)
    assert summary["streams"]["door"]["ledger"]["published"] == 0


def test_a_deadline_shorter_than_the_model(tmp_path: Path) -> None:
    """Aborted or refused, never published, and every frame counted."""
    text = settings_text(model=MODELS / "slow", stream="repeat = true\ndeadline_ms = 30")
    with AgentProcess(tmp_path, text, "--output", "stdout", "--duration", "3") as agent:
        code, lines = agent.wait()
    assert code == 0
    summary = checked_summary(lines)
    ledger = summary["streams"]["door"]["ledger"]
    assert ledger["published"] == 0
    assert ledger["aborted"] >= 1
    assert ledger["unreachable"] >= 1
    # The promise of an abort is "at its next operator": how late that was is told.
    overshoot = summary["models"]["seen"]["abort_overshoot_ms"]
    assert overshoot["count"] > 0
    assert 0 < overshoot["p50"] <= overshoot["p99"] <= overshoot["max"]
    assert "its deadline of 30 ms is shorter than the fastest run of seen in the warm-up" in agent.log
