"""The command: its page, its exit code, its bundle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from agent.__main__ import run_command
from agent.cli.doctor import try_model, visit
from agent.cli.secrets import without_secrets
from agent.desired.audit import FILE as AUDIT_FILE
from agent.doctor.bundle import PART_BYTES_MAX, write_bundle
from agent.history import FILE as HISTORY_FILE
from agent.settings import MqttSettings
from tests.agent_process import settings_text
from tests.broker import Broker, needs_mosquitto
from tests.paths import BROKEN_INT8, MODELS


def test_the_page_and_its_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every line of advice stands below its finding; the exit code follows the problems."""
    file = tmp_path / "agent.toml"
    file.write_text(settings_text(source="/dev/video99"))
    assert run_command(["doctor", "--quick", "--config", str(file), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["ok"]
    assert [f["text"] for f in found["findings"] if f["topic"] == "camera"] == ["/dev/video99 does not exist"]
    assert run_command(["doctor", "--quick", "--config", str(file)]) == 1
    page = capsys.readouterr().out
    assert "PROBLEM camera        /dev/video99 does not exist\n                      -> plug it in" in page


def test_settings_that_are_half_written_are_one_problem_of_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rest of the device is looked at all the same."""
    file = tmp_path / "agent.toml"
    file.write_text("[mqtt]\nurl = ")
    assert run_command(["doctor", "--quick", "--config", str(file), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)["findings"]
    assert (found[0]["topic"], found[0]["level"]) == ("settings", "problem")
    assert {"cpu", "memory", "time"} <= {finding["topic"] for finding in found}


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    """As `edgebeat doctor | head -1` does: nothing to read on the terminal but its line."""
    file = tmp_path / "agent.toml"
    file.write_text(settings_text(source="/dev/video99"))
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "agent", "doctor", "--quick", "--config", str(file)]
    ended = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False, timeout=100)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (1, "")


@needs_mosquitto
def test_a_bundle_holds_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Passwords in URLs, in comments of the file and in password files stay at home."""
    secret = tmp_path / "password"
    secret.write_text("s3cret")
    with Broker(tmp_path) as broker:
        text = settings_text(
            url=broker.url, source="rtsp://admin:s3cret@127.0.0.1/live?token=s3cret", state=tmp_path / "state"
        )
        file = tmp_path / "agent.toml"
        file.write_text(f"# the password is s3cret\n{text}")
        bundle = tmp_path / "bundle.tar.gz"
        monkeypatch.setenv("EDGEBEAT_MQTT__PASSWORD_FILE", str(secret))
        state = tmp_path / "state"
        state.mkdir()
        (state / f"{HISTORY_FILE}.1").write_text('{"at":"1"}\n')
        (state / HISTORY_FILE).write_text('{"at":"2","error":"rtsp://admin:s3cret@cam/x"}\n')
        (state / AUDIT_FILE).write_text('{"action":"applied"}\n')
        run_command(["doctor", "--quick", "--config", str(file), "--bundle", str(bundle)])
    assert bundle.stat().st_mode & 0o077 == 0
    with tarfile.open(bundle) as tar:
        parts = {name: tar.extractfile(name).read() for name in tar.getnames()}  # type: ignore[union-attr]
    names = {name.rpartition("/")[2] for name in parts}
    assert names >= {"doctor.json", "settings.json", "versions.txt", "journal.txt", "health.json"}
    assert b"rtsp://***@127.0.0.1/live?token=***" in parts["edgebeat-bundle/settings.json"]
    history = parts[f"edgebeat-bundle/{HISTORY_FILE}"]
    assert history == b'{"at":"1"}\n{"at":"2","error":"rtsp://***@cam/x"}\n'
    assert parts[f"edgebeat-bundle/{AUDIT_FILE}"] == b'{"action":"applied"}\n'
    assert not [name for name, content in parts.items() if b"s3cret" in content]


def test_a_bundle_is_bounded(tmp_path: Path) -> None:
    """A log keeps its end."""
    size = write_bundle(tmp_path / "b.tar.gz", {"log.txt": "x" * (3 * PART_BYTES_MAX) + "the end"})
    assert size == (tmp_path / "b.tar.gz").stat().st_size
    with tarfile.open(tmp_path / "b.tar.gz") as tar:
        (entry,) = tar.getmembers()
        content = tar.extractfile(entry).read()  # type: ignore[union-attr]
    assert entry.size < PART_BYTES_MAX + 100
    assert content.startswith(b"(the beginning was left out)")
    assert content.endswith(b"the end")


def test_a_bundle_that_cannot_be_written(tmp_path: Path) -> None:
    """One sentence, exit 78."""
    file = tmp_path / "agent.toml"
    file.write_text(settings_text())
    code = run_command(["doctor", "--quick", "--config", str(file), "--bundle", str(tmp_path / "no/b.tar.gz")])
    assert code == 78


def test_models_are_tried_in_a_process_of_their_own(tmp_path: Path) -> None:
    """What it takes, and why one is refused."""
    trial = try_model(MODELS / "tiny")
    assert trial.problems == ()
    assert trial.rss_max_mb > 30
    assert try_model(tmp_path).problems != ()
    assert try_model(BROKEN_INT8.with_name("absent")).problems != ()


@needs_mosquitto
def test_a_visit_to_a_broker(tmp_path: Path) -> None:
    """Reached, and not."""
    with Broker(tmp_path) as broker:
        assert visit(MqttSettings(url=broker.url), "porch").is_reached
    answer = visit(MqttSettings(url=broker.url), "porch")
    assert not answer.is_reached
    assert "refused" in answer.sentence


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rtsp://user:pw@cam/x", "rtsp://***@cam/x"),
        ("http://cam/x?channel=1&password=pw&size=2", "http://cam/x?channel=1&password=***&size=2"),
        ("/dev/video0", "/dev/video0"),
        ("Environment=CAMERA_PASSWORD=pw MODE=x", "Environment=CAMERA_PASSWORD=*** MODE=x"),
        ("mqtt://broker:1883", "mqtt://broker:1883"),
    ],
)
def test_secrets_are_hidden(text: str, expected: str) -> None:
    """In texts, lists and objects; nothing else is touched."""
    assert without_secrets({"a": [text, 1, None]}) == {"a": [expected, 1, None]}
