"""The demo and the watcher as a new user meets them: processes, a broker of their own, a real model."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import paho.mqtt.client as mqtt
import psutil
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from agent.sinks.embedded import EmbeddedBroker, free_ports
from tests.paths import REPOSITORY

# A wrong setting in the environment is the user's own agent's business: the demo must not see it.
ENVIRONMENT = {**os.environ, "EDGEBEAT_MQTT__TOPIC_PREFIX": "mine", "TERM": "dumb"}


def start(*arguments: object) -> subprocess.Popen[str]:
    """Start a command with its output in pipes; warnings are errors."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "agent", *map(str, arguments)],
        cwd=REPOSITORY,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], timeout_s: float = 60) -> tuple[int, str, str]:
    """Wait for the end; return exit code, standard output and standard error."""
    try:
        output, errors = process.communicate(timeout=timeout_s)
    finally:
        process.kill()
    return process.returncode, output, errors


def assert_a_good_report(output: str, picture: Path) -> None:
    """Check the figures that the demo prints at its end, and its picture."""
    arrived = re.search(r"^results +(\d+) arrived over MQTT$", output, re.MULTILINE)
    assert arrived is not None, output
    ledger = re.search(r"^ledger +captured (\d+) = (.+)$", output, re.MULTILINE)
    assert ledger is not None, output
    causes = {name: int(count) for name, count in (part.split(" ") for part in ledger[2].split(" + "))}
    assert int(ledger[1]) == sum(causes.values())
    assert 0 < int(arrived[1]) == causes["published"]
    assert re.search(r"^age +p50 [\d.]+ ms, p95 [\d.]+ ms, max [\d.]+ ms", output, re.MULTILINE), output
    pixels = cv2.imread(str(picture))
    assert pixels is not None
    assert pixels.shape == (480, 640, 3)


def test_the_demo_shows_predictions_and_proves_them(tmp_path: Path) -> None:
    """Exit 0 with results seen by an MQTT client, a ledger that adds up, and a picture with something on it."""
    code, output, errors = finish(start("demo", "--seconds", 8, "--out", tmp_path))
    assert code == 0, output + errors
    assert_a_good_report(output, tmp_path / "clip.jpg")
    assert re.search(r"^demo/clip  \d+ ms  cup 0\.\d\d$", output, re.MULTILINE), output
    assert re.search(r"^labels +cup \d+", output, re.MULTILINE), output
    assert "watch --mqtt mqtt://127.0.0.1:" in output
    assert max(map(len, output.replace(str(tmp_path), "DIR").splitlines())) <= 100


@pytest.mark.parametrize(
    ("flag", "stream", "label"), [("--sensor", "watch", "pendulum"), ("--audio", "voice", "speech")]
)
def test_the_demos_of_signals_show_predictions(tmp_path: Path, flag: str, stream: str, label: str) -> None:
    """A recorded watch and a recorded reading, at the speed at which they happened; there is no picture."""
    code, output, errors = finish(start("demo", flag, "--seconds", 8, "--out", tmp_path))
    assert code == 0, output + errors
    shown = re.findall(rf"^demo/{stream}  \d+ ms  ([a-z ]+) (0\.\d\d|1\.00)(?:,.*)?$", output, re.MULTILINE)
    assert shown, output
    # What the first seconds of the recording hold is the best answer most of the time, and a sure one.
    assert sum(best == label for best, _ in shown) > len(shown) / 2, output
    assert max(float(score) for best, score in shown if best == label) > 0.9, output
    assert re.search(rf"^labels +{label} \d+", output, re.MULTILINE), output
    assert "picture" not in output


def test_ctrl_c_ends_the_demo_with_the_same_report_and_no_process_left(tmp_path: Path) -> None:
    """Without --seconds it runs until it is told; agent and broker end with it."""
    demo = start("demo", "--out", tmp_path)
    assert demo.stdout is not None
    seen = ""
    while "cup" not in seen:
        line = demo.stdout.readline()
        assert line, finish(demo)
        seen += line
    children = psutil.Process(demo.pid).children(recursive=True)
    assert len(children) >= 2
    demo.send_signal(signal.SIGINT)
    code, output, errors = finish(demo, timeout_s=20)
    assert code == 0, output + errors
    assert_a_good_report(output, tmp_path / "clip.jpg")
    assert not any(child.is_running() for child in children)


def test_an_agent_that_dies_ends_the_demo_with_its_log_and_no_process_left(tmp_path: Path) -> None:
    """The demo's exit code is the agent's, and what the agent said last is on the screen."""
    demo = start("demo", "--out", tmp_path)
    assert demo.stdout is not None
    while "online" not in demo.stdout.readline():
        assert demo.poll() is None, finish(demo)
    children = psutil.Process(demo.pid).children(recursive=True)
    (agent,) = [child for child in children if "run" in child.cmdline()]
    agent.kill()
    code, _, errors = finish(demo, timeout_s=20)
    assert code == 128 + signal.SIGKILL
    assert "the agent ended with exit code 137" in errors
    assert "models warm and verified" in errors
    assert str(tmp_path / "agent.log") in errors
    assert not any(child.is_running() for child in children)


def test_a_file_where_the_folder_should_be_is_said_in_a_sentence(tmp_path: Path) -> None:
    """Nothing starts when the demo could not leave its picture behind."""
    (tmp_path / "out").write_text("a file")
    code, output, errors = finish(start("demo", "--seconds", 8, "--out", tmp_path / "out" / "demo"))
    assert code == 78
    assert output == ""
    assert "the demo cannot write there: Not a directory" in errors
    assert "Traceback" not in errors


def test_a_picture_that_cannot_be_written_fails_the_demo_and_names_it(tmp_path: Path) -> None:
    """A disk that fills up under way: the predictions still come, and the exit code says that something is amiss."""
    demo = start("demo", "--seconds", 4, "--out", tmp_path)
    # The picture is written beside its place and moved: a folder in that place stops every one of them.
    (tmp_path / ".clip.jpg.part").mkdir()
    code, output, errors = finish(demo)
    assert code == 1, output + errors
    assert "clip.jpg was not written." in errors
    assert "agent.log, should say why." in errors
    assert "cannot be written" in (tmp_path / "agent.log").read_text()


def test_a_port_that_is_taken_is_named(tmp_path: Path, broker: EmbeddedBroker) -> None:
    """The sentence is about the option that the user gave."""
    port = broker.url("5").rpartition(":")[2]
    code, _, errors = finish(start("demo", "--port", port, "--out", tmp_path))
    assert code == 78
    assert errors.startswith(f"edgebeat: --port {port}: the demo's broker cannot start there: ")


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    """Run a broker that knows both versions of MQTT."""
    started = EmbeddedBroker(*free_ports(2))
    yield started
    started.stop()


def publish(url: str, protocol: MQTTProtocolVersion, topic: str, payload: bytes, *, retain: bool = False) -> None:
    """Send one message, acknowledged."""
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=protocol)
    client.connect("127.0.0.1", int(url.rpartition(":")[2]))
    client.loop_start()
    client.publish(topic, payload, qos=1, retain=retain).wait_for_publish(10)
    client.disconnect()
    client.loop_stop()


@pytest.mark.parametrize(("version", "protocol"), [("5", mqtt.MQTTv5), ("3.1.1", mqtt.MQTTv311)])
def test_watch_prints_every_message_as_json(
    broker: EmbeddedBroker, version: str, protocol: MQTTProtocolVersion
) -> None:
    """Topic and payload of what is retained and of what comes, and null for what is not JSON."""
    url = broker.url(version)
    publish(url, protocol, "edgebeat/v1/porch/status", b'{"state":"online"}', retain=True)
    watch = start("watch", "--mqtt", url, "--protocol", version, "--json")
    assert watch.stdout is not None
    lines = [json.loads(watch.stdout.readline())]
    publish(url, protocol, "edgebeat/v1/porch/results/door", b"\xff")
    lines.append(json.loads(watch.stdout.readline()))
    watch.send_signal(signal.SIGINT)
    code, _, errors = finish(watch)
    assert code == 0, errors
    assert lines[0] == {"topic": "edgebeat/v1/porch/status", "payload": {"state": "online"}}
    assert lines[1]["topic"] == "edgebeat/v1/porch/results/door"
    assert (lines[1]["payload"], lines[1]["bytes"]) == (None, 1)


def test_watch_says_once_that_nobody_is_there_and_fails() -> None:
    """It tries again until its time is over; the reason is said once, not once a try."""
    (port,) = free_ports(1)
    code, output, errors = finish(start("watch", "--mqtt", f"mqtt://127.0.0.1:{port}", "--duration", 3))
    assert code == 1
    assert output == ""
    assert errors.count("Connection refused") == 1


def test_watch_names_every_wrong_option_at_once() -> None:
    """A URL, a prefix and a file that cannot be right are settings errors, with no traceback."""
    wrong = ("--mqtt", "http://x", "--prefix", "a/#", "--password-file", "/does/not/exist")
    code, _, errors = finish(start("watch", *wrong))
    assert code == 78
    assert [line.split(" ")[1] for line in errors.splitlines()] == ["--password-file", "--mqtt", "--prefix"]
