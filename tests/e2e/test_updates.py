"""Model updates with a real broker, a real server and a real agent, which never stops serving."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from agent.cli.model_release import signed_release
from agent.updates.file_server import file_server
from agent.updates.signature import generate_key
from tests.agent_process import AgentProcess, settings_text
from tests.broker import Broker, Publisher, Subscriber, needs_mosquitto
from tests.paths import MODELS

pytestmark = needs_mosquitto

DESIRED = "edgebeat/v1/porch/settings/desired"
NAME = "seen"


class Site:
    """What an operator has: a key, a folder of models behind a server, and a way to the broker."""

    def __init__(self, folder: Path, publisher: Publisher, server: ThreadingHTTPServer, root: Path) -> None:
        self.secret, self.public = generate_key("ours")
        self.keys = folder / "trusted"
        self.keys.write_text(self.public)
        self.keys.chmod(0o644)
        self.desk = publisher
        self._url = f"http://127.0.0.1:{server.server_address[1]}"
        self._root = root
        self._version = 0

    def settings(self, broker: Broker, state: Path, more: str = "") -> str:
        """Return settings that trust the key and the server."""
        updates = f'[updates]\nkeys_file = "{self.keys}"\nhosts = ["127.0.0.1"]\nprobation_s = 2\ncanary_frames = 3\n'
        return settings_text(url=broker.url, state=state, stream="repeat = true\nfps = 10", more=updates + more)

    def model(self, seq: int, source: Path = MODELS / "tiny") -> Path:
        """Put a model at the server, with a version of its own."""
        folder = Path(shutil.copytree(source, self._root / str(seq)))
        manifest = folder / "model.toml"
        lines = [line for line in manifest.read_text().splitlines() if not line.startswith("version =")]
        manifest.write_text("\n".join([f'version = "release {seq}"', *lines]))
        return folder

    def push(self, seq: int, folder: Path, *, secret: str | None = None, model: Any = None, **more: Any) -> None:
        """Ask for a release."""
        if model is None:
            model, _ = signed_release(folder, NAME, seq, f"{self._url}/{seq}", secret or self.secret, **more)
        self._version += 1
        document = {"schema": 1, "version": self._version, "values": {}, "model": model}
        self.desk.send(DESIRED, json.dumps(document).encode(), retain=True)


@contextmanager
def site(tmp_path: Path) -> Iterator[tuple[Broker, Subscriber, Site]]:
    """A broker, a listener and an operator."""
    root = tmp_path / "served"
    root.mkdir()
    with (
        Broker(tmp_path) as broker,
        Subscriber(broker.port) as subscriber,
        Publisher(broker.port) as publisher,
        file_server(root, "127.0.0.1", 0, None, None) as server,
    ):
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield broker, subscriber, Site(tmp_path, publisher, server, root)
        finally:
            server.shutdown()
            thread.join()


def served_version(subscriber: Subscriber, version: str) -> None:
    """Wait for a result of that version."""
    subscriber.wait_for_body("results/door", lambda body: body["model_version"] == version)


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
                words = ("--seq", seq, "--url", f"{operator._url}/{seq}", "--name", NAME)
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


def test_what_must_not_serve_never_does(tmp_path: Path) -> None:
    """Each is refused with its code, and the model in service goes on."""
    with site(tmp_path) as (broker, subscriber, operator):
        text = operator.settings(broker, tmp_path / "state")
        with AgentProcess(tmp_path, text) as agent:
            served_version(subscriber, "1.0.0")
            operator.push(5, operator.model(5))
            subscriber.wait_for("porch/model/state", phase="committed", seq=5, timeout_s=60)

            other_key, _ = generate_key("ours")
            for seq, more, code in (
                (6, {"secret": other_key}, "bad_signature"),
                (4, {}, "downgrade"),
                (8, {"architectures": ["sparc"]}, "architecture"),
            ):
                operator.push(seq, operator.model(seq), **more)
                assert _rejected(subscriber, code)["state"] == "rejected"

            wrong = operator.model(10, MODELS / "tiny")
            golden = json.loads((wrong / "golden.json").read_text())
            (wrong / "golden.json").write_text(json.dumps(_other(golden)))
            operator.push(10, wrong)
            _expect(subscriber, 10, "rejected", "not_verified")

            damaged = operator.model(11)
            manifest, _ = signed_release(damaged, NAME, 11, f"{operator._url}/11", operator.secret)
            # The one file that this release does not share with the one in service: the others are there already.
            file = damaged / "model.toml"
            data = bytearray(file.read_bytes())
            data[len(data) // 2] ^= 1
            file.write_bytes(data)
            operator.push(11, damaged, model=manifest)
            _expect(subscriber, 11, "rejected", "corrupt")

            slow = operator.model(12, MODELS / "slow100")
            operator.push(12, slow)
            state = _ended(subscriber, 12)
            assert state["phase"] in ("rejected", "rolled_back")
            assert state["code"] in ("too_slow", "on_time", "canary", "not_verified", "streams"), state

            subscriber.drain()
            served_version(subscriber, "release 5")
            summary = agent.terminate()
        assert summary["updates"][NAME]["seq"] == 5


def test_a_download_that_stops_goes_on(tmp_path: Path) -> None:
    """The file is not there yet: the device says so, tries again, and takes it once it is."""
    with site(tmp_path) as (broker, subscriber, operator):
        text = operator.settings(broker, tmp_path / "state")
        with AgentProcess(tmp_path, text) as agent:
            served_version(subscriber, "1.0.0")
            folder = operator.model(3)
            manifest, _ = signed_release(folder, NAME, 3, f"{operator._url}/3", operator.secret)
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
    state = _ended(subscriber, seq)
    assert (state["phase"], state.get("code")) == (phase, code), state


def _rejected(subscriber: Subscriber, code: str) -> Any:
    return subscriber.wait_for_body("porch/settings/reported", lambda body: _code(body) == code).body


def _ended(subscriber: Subscriber, seq: int) -> Any:
    ends = ("committed", "rejected", "rolled_back")
    return subscriber.wait_for_body(
        "porch/model/state", lambda body: body["seq"] == seq and body["phase"] in ends, timeout_s=90
    ).body


def _code(body: Any) -> str | None:
    error = body["errors"].get("model")
    return None if error is None else str(error["code"])


def _other(golden: Any) -> Any:
    """Return a golden sample that the network does not reproduce."""
    return {key: [{**item, "score": 0.123} for item in value] for key, value in golden.items()}


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
            _rejected(subscriber, "not_taken")
            agent.terminate()
