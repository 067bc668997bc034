"""An inference that ignores its abort: seen, said, and the agent replaces itself without losing anything."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
from pathlib import Path

import pytest

from tests import hostile
from tests.agent_process import AgentProcess, checked_summary, settings_text
from tests.broker import Broker, Subscriber, needs_mosquitto
from tests.paths import CLIP, MODELS


def two_streams(folder: Path, url: str) -> str:
    """Return settings whose stream `door` hangs at its first frame, beside a healthy stream `yard`."""
    more = f"""
[limits]
hang_s = 1
[state]
dir = "{folder / "state"}"
[[models]]
name = "healthy"
path = "{MODELS / "tiny"}"
[[streams]]
name = "yard"
source = "{CLIP}"
model = "healthy"
repeat = true
"""
    return settings_text(url=url, model=MODELS / "stuck", stream="repeat = true", more=more)


@needs_mosquitto
def test_a_model_that_hangs_twice_is_left_out_and_the_others_go_on(tmp_path: Path) -> None:
    """Each hang is an event and a restart; after the second the model is marked, on disk and in health."""
    with Broker(tmp_path) as broker, Subscriber(broker.port) as subscriber:
        with AgentProcess(tmp_path, two_streams(tmp_path, broker.url)) as agent:
            first = subscriber.wait_for("results/yard").body["boot"]
            hang = subscriber.wait_for("events/inference_hung").body
            assert (hang["model"], hang["stream"], hang["hangs"]) == ("seen", "door", 1)
            assert hang["overdue_s"] == 1.0
            restarted = subscriber.wait_for("events/restarted").body
            assert restarted["restarts"] == 1
            # With `overdue_s`, the parts of the bound in docs/scheduling.md: how long each was.
            assert restarted["drain_s"] > 0
            assert restarted["start_s"] > 0
            assert subscriber.wait_for("results/yard").body["boot"] != first
            assert subscriber.wait_for("events/inference_hung").body["hangs"] == 2
            assert subscriber.wait_for("events/model_marked").body["model"] == "seen"
            subscriber.wait_for("results/yard")
            health = subscriber.wait_for("porch/health").body
            summary = agent.terminate()
        assert all("results/door" not in message.topic for message in subscriber.drain())
    assert health["models"]["seen"]["marked"]["hangs"] == 2
    assert "yard" in health["streams"]
    assert "door" not in health["streams"]
    assert summary["restarts"] == 2
    marks = json.loads((tmp_path / "state/marks.json").read_text())
    assert [mark["hangs"] for mark in marks.values()] == [2]
    # A new start reads the mark and does not try the model again.
    with AgentProcess(tmp_path, two_streams(tmp_path, broker.url)) as again:
        again.wait_for_log("seen: hung 2 times and is not loaded")
        again.wait_for_log("ready: yard <- healthy")
        assert again.terminate()["restarts"] == 0


@needs_mosquitto
@pytest.mark.parametrize("spool", ["[spool]\nmax_mb = 0", ""], ids=["memory", "disk"])
def test_what_waits_to_be_sent_survives_the_restart(tmp_path: Path, spool: str) -> None:
    """The broker is away while the agent replaces itself: events of the run before arrive with their own identity."""
    broker = Broker(tmp_path)
    text = two_streams(tmp_path, broker.url).replace("[spool]\nmax_mb = 0", spool)
    with AgentProcess(tmp_path, text) as agent:
        agent.wait_for_log("hung 2 times and is not loaded")
        with broker, Subscriber(broker.port) as subscriber:
            subscriber.wait_for("events/restarted", restarts=2)
            subscriber.wait_for("results/yard", replay=True)
            subscriber.wait_for("porch/health")
            agent.terminate()
            messages = subscriber.drain()
    hangs = [message.body for message in messages if message.topic.endswith("inference_hung")]
    assert [hang["hangs"] for hang in hangs] == [1, 2]
    sent = [(message.body["boot"], message.body["seq"]) for message in messages if "/results/" in message.topic]
    assert {hang["boot"] for hang in hangs} < {boot for boot, _ in sent}
    assert len({boot for boot, _ in sent}) == 3
    assert len(sent) == len(set(sent))


def test_settings_survive_a_file_that_was_broken_meanwhile(tmp_path: Path) -> None:
    """The run that replaces a hung one has the settings that were in force."""
    text = two_streams(tmp_path, "mqtt://127.0.0.1:9")
    with AgentProcess(tmp_path, text, "--output", "stdout") as agent:
        agent.wait_for_log("ready")
        (tmp_path / "agent.toml").write_text("nonsense")
        agent.wait_for_log("ready: yard <- healthy")
        assert agent.terminate()["restarts"] == 2


def test_the_only_model_hangs_and_the_agent_stays_to_say_so(tmp_path: Path) -> None:
    """Nothing is left to run: it stays, connected, until somebody ends it."""
    more = f'[limits]\nhang_s = 1\n[state]\ndir = "{tmp_path / "state"}"'
    text = settings_text(model=MODELS / "stuck", stream="repeat = true", more=more)
    with AgentProcess(tmp_path, text) as agent:
        agent.wait_for_log("ready: no stream can run")
        summary = agent.terminate()
    assert summary["streams"] == {}
    assert summary["models"]["seen"]["marked"]["hangs"] == 2


def test_two_models_that_hang_together_cost_one_restart_each(tmp_path: Path) -> None:
    """A stall of the storage hits every model: the first hang replaces the agent, the second is not in its way."""
    more = f"""
[limits]
hang_s = 1
threads = 2
[state]
dir = "{tmp_path / "state"}"
[[models]]
name = "other"
path = "{copied(tmp_path)}"
[[streams]]
name = "yard"
source = "{CLIP}"
model = "other"
repeat = true
"""
    text = settings_text(model=MODELS / "stuck", stream="repeat = true", more=more)
    with AgentProcess(tmp_path, text) as agent:
        agent.wait_for_log("ready: no stream can run", timeout_s=60)
        summary = agent.terminate()
    assert {name: model["marked"]["hangs"] for name, model in summary["models"].items()} == {"seen": 2, "other": 2}


def copied(folder: Path) -> Path:
    """Return a copy of the stuck model with another digest: one of its values has another name."""
    copy = Path(shutil.copytree(MODELS / "stuck", folder / "other"))
    network = (copy / "model.onnx").read_bytes()
    renamed = network.replace(b"sixteenths", b"fifteenths")
    assert renamed != network
    (copy / "model.onnx").write_bytes(renamed)
    manifest = (copy / "model.toml").read_text()
    before, after = (hashlib.sha256(content).hexdigest() for content in (network, renamed))
    (copy / "model.toml").write_text(manifest.replace(before, after))
    return copy


def test_a_signal_while_the_agent_replaces_itself_ends_it(tmp_path: Path) -> None:
    """Who asks it to stop must not find a new run instead."""
    more = f'[limits]\nhang_s = 1\n[state]\ndir = "{tmp_path / "state"}"'
    text = settings_text(model=MODELS / "stuck", stream="repeat = true", more=more)
    with AgentProcess(tmp_path, text) as agent:
        agent.wait_for_log("the agent restarts itself")
        agent.signal(signal.SIGTERM)
        code, lines = agent.wait(15)
    summary = checked_summary(lines)
    assert code == 0
    assert (summary["restarts"], summary["stop_reason"]) == (0, "SIGTERM")


def test_what_cannot_be_loaded_any_more_does_not_end_the_others(tmp_path: Path) -> None:
    """The model's folder went away before its second chance: the healthy stream goes on, and health says why."""
    gone = Path(shutil.copytree(MODELS / "stuck", tmp_path / "model"))
    text = two_streams(tmp_path, "mqtt://127.0.0.1:9").replace(str(MODELS / "stuck"), str(gone))
    with AgentProcess(tmp_path, text) as agent:
        agent.wait_for_log("ready: door <- seen, yard <- healthy")
        shutil.rmtree(gone)
        agent.wait_for_log("ready: yard <- healthy")
        summary = agent.terminate()
    assert "there is no such model folder" in summary["models"]["seen"]["failed"][0]
    assert list(summary["streams"]) == ["yard"]


def looping(folder: Path, stream: str) -> str:
    """Return settings of a model that loops for ever on every picture that is not black."""
    model = hostile.folder_of(hostile.endless_when_bright, folder / "model")
    more = f'[limits]\nhang_s = 1\n[state]\ndir = "{folder / "state"}"'
    return settings_text(model=model, stream=f"repeat = true\n{stream}", more=more)


def test_an_endless_loop_is_stopped_at_its_deadline_and_is_no_hang(tmp_path: Path) -> None:
    """The abort is seen between two operators, also those of a loop's body."""
    text = looping(tmp_path, "deadline_ms = 200")
    with AgentProcess(tmp_path, text, "--output", "stdout", "--duration", "3") as agent:
        code, lines = agent.wait()
    assert code == 0, agent.log
    summary = checked_summary(lines)
    ledger = summary["streams"]["door"]["ledger"]
    assert (summary["restarts"], ledger["published"]) == (0, 0)
    assert ledger["aborted"] >= 1
    assert "hung" not in agent.log


def test_an_endless_loop_without_a_deadline_hangs_and_is_marked(tmp_path: Path) -> None:
    """Nothing would end it: the limit counts from its start, and after the second hang it is not loaded."""
    text = looping(tmp_path, 'mode = "every_frame"')
    with AgentProcess(tmp_path, text, "--output", "stdout") as agent:
        agent.wait_for_log("ready: no stream can run", timeout_s=60)
        summary = agent.terminate()
    assert summary["restarts"] == 2
    assert summary["models"]["seen"]["marked"]["hangs"] == 2
