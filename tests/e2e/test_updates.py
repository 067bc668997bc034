"""Model updates with a real broker, a real server and a real agent, which never stops serving."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agent.updates.signature import generate_key
from tests.agent_process import AgentProcess
from tests.broker import Subscriber, needs_mosquitto
from tests.operator_site import NAME, ended, refused, served_version, site

pytestmark = needs_mosquitto


def test_a_release_comes_in_and_stays(tmp_path: Path) -> None:
    """From the manifest to the commit without a frame lost; after a kill it still serves."""
    state = tmp_path / "state"
    with site(tmp_path) as (broker, subscriber, operator):
        text = operator.settings(broker, state)
        with AgentProcess(tmp_path, text) as agent:
            served_version(subscriber, "1.0.0")
            operator.push(7, operator.model(7))
            for phase in ("qualifying", "canary"):
                subscriber.wait_for("porch/model/state", phase=phase, seq=7)
            on_trial = subscriber.wait_for("porch/model/state", phase="probation", seq=7).body
            assert on_trial["figures"]["canary"]["frames"] == 3
            served_version(subscriber, "release 7")
            subscriber.wait_for("porch/model/state", phase="committed", seq=7)
            agent.signal(signal.SIGKILL)
            agent.wait()
        shutil.rmtree(tmp_path / "served")
        with Subscriber(broker.port) as after, AgentProcess(tmp_path, text) as agent:
            after.wait_for("porch/model/state", phase="committed", seq=7)
            served_version(after, "release 7")
            summary = agent.terminate()
        assert summary["updates"][NAME] == {
            "seq": 7,
            "serving": summary["updates"][NAME]["serving"],
            "on_trial": False,
        }
        assert summary["streams"]["door"]["ledger"]["failed"] == 0


def test_signed_and_pushed_by_the_commands(tmp_path: Path) -> None:
    """What an operator types: keygen, sign, push; the exit code tells what became of it."""

    def edgebeat(*words: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "agent", "model", *map(str, words)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)

    with site(tmp_path) as (broker, subscriber, operator):
        assert edgebeat("keygen", "desk").returncode == 0
        operator.keys.write_text((tmp_path / "desk.public").read_text())
        text = operator.settings(broker, tmp_path / "state")
        with AgentProcess(tmp_path, text) as agent:
            served_version(subscriber, "1.0.0")
            for seq, code in ((4, 0), (3, 1)):
                words = ("--seq", seq, "--url", f"{operator.url}/{seq}", "--name", NAME)
                signed = edgebeat("sign", operator.model(seq), "--key", "desk.secret", *words)
                assert signed.returncode == 0, signed.stderr
                release = f"{NAME}-{seq}.release.json"
                pushed = edgebeat("push", release, "--device", "porch", "--mqtt", broker.url, "--json")
                assert pushed.returncode == code, pushed.stderr
            assert (
                "committed"
                in edgebeat("push", f"{NAME}-4.release.json", "--device", "porch", "--mqtt", broker.url).stderr
            )
            assert "downgrade" in pushed.stderr
            agent.terminate()


def test_what_nobody_may_offer_is_refused_before_a_byte_is_fetched(tmp_path: Path) -> None:
    """The wrong key, an older release, another machine: each with its code."""
    with site(tmp_path) as (broker, subscriber, operator):
        text = operator.settings(broker, tmp_path / "state")
        with AgentProcess(tmp_path, text) as agent:
            served_version(subscriber, "1.0.0")
            operator.push(5, operator.model(5))
            _expect(subscriber, 5, "committed", None)
            other_key, _ = generate_key("ours")
            operator.push(6, operator.model(6), secret=other_key)
            assert refused(subscriber, "bad_signature")["state"] == "rejected"
            operator.push(4, operator.model(4))
            assert refused(subscriber, "downgrade")["state"] == "rejected"
            operator.push(8, operator.model(8), architectures=["sparc"])
            assert refused(subscriber, "architecture")["state"] == "rejected"
            subscriber.drain()
            served_version(subscriber, "release 5")
            summary = agent.terminate()
        assert summary["updates"][NAME]["seq"] == 5
        assert not any((tmp_path / "state/updates/contents").glob("*.part"))


def test_a_download_that_stops_goes_on(tmp_path: Path) -> None:
    """The file is not there yet: the device says so, tries again, and takes it once it is."""
    with site(tmp_path) as (broker, subscriber, operator):
        text = operator.settings(broker, tmp_path / "state")
        with AgentProcess(tmp_path, text) as agent:
            served_version(subscriber, "1.0.0")
            folder = operator.model(3)
            manifest = operator.manifest(3, folder)
            hidden = folder.rename(folder.with_name("hidden"))
            operator.push(3, folder, model=manifest)
            subscriber.wait_for_body("porch/model/state", lambda body: "HTTP 404" in body.get("reason", ""))
            hidden.rename(folder)
            _expect(subscriber, 3, "committed", None)
            agent.terminate()


def test_what_was_proven_is_taken_back_on_demand(tmp_path: Path) -> None:
    """A release and a document, each once however often the command is delivered; the audit names who asked."""
    state = tmp_path / "state"
    with site(tmp_path) as (broker, subscriber, operator):
        text = operator.settings(broker, state, more="[remote]\nprobation_s = 2\n")
        with AgentProcess(tmp_path, text) as agent:
            served_version(subscriber, "1.0.0")
            assert operator.desk.ask("rollback", "0", what="model")["code"] == "nothing_to_roll_back"
            for seq in (7, 8):
                operator.push(seq, operator.model(seq))
                _expect(subscriber, seq, "committed", None)
                served_version(subscriber, f"release {seq}")
            answer = operator.desk.ask("rollback", "1", what="model")
            assert (answer["model"], answer["seq"], answer["to_seq"]) == (NAME, 8, 7)
            _expect(subscriber, 8, "rolled_back", "operator")
            served_version(subscriber, "release 7")
            assert operator.desk.ask("rollback", "1", what="model")["repeated"]
            assert operator.desk.ask("rollback", "2", what="settings", version=1)["code"] == "not_in_force"
            answer = operator.desk.ask("rollback", "3", what="settings", version=2)
            assert (answer["version"], answer["to_version"]) == (2, 1)
            subscriber.wait_for("porch/settings/reported", state="rolled_back", version=1)
            summary = agent.terminate()
    assert summary["updates"][NAME]["serving"].startswith(f"{NAME}-7-")
    assert summary["streams"]["door"]["ledger"]["failed"] == 0
    lines = [json.loads(line) for line in (state / "audit.jsonl").read_text().splitlines()]
    by_action = {line["action"]: line for line in lines}
    assert {"applied", "proven", "model_trial", "model_committed", "model_rolled_back", "rolled_back"} < set(
        by_action
    )
    commands = [line for line in lines if line["action"] == "command"]
    assert [line["answer"]["what"] for line in commands] == ["model", "settings"]
    assert all((line["command"], line["asked_by"]) == ("rollback", "who=test") for line in commands)
    assert by_action["model_rolled_back"]["serving_seq"] == 7


def _expect(subscriber: Subscriber, seq: int, phase: str, code: str | None) -> None:
    state = ended(subscriber, seq)
    assert (state["phase"], state.get("code")) == (phase, code), state


@pytest.mark.parametrize("what", ["none", "writable"])
def test_a_device_without_a_trusted_key(tmp_path: Path, what: str) -> None:
    """It takes no model, or does not start with keys that others may change."""
    with site(tmp_path) as (broker, subscriber, operator):
        text = operator.settings(broker, tmp_path / "state")
        if what == "writable":
            operator.keys.chmod(0o666)
            with AgentProcess(tmp_path, text) as agent:
                code, _ = agent.wait()
                assert code == 78
                assert "chmod go-w" in agent.log
            return
        text = "\n".join(line for line in text.splitlines() if not line.startswith("keys_file"))
        with AgentProcess(tmp_path, text) as agent:
            served_version(subscriber, "1.0.0")
            operator.push(7, operator.model(7))
            refused(subscriber, "not_taken")
            agent.terminate()
