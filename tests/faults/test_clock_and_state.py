"""A board that does not know the time yet, and a state folder that a newer version wrote."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

from tests.agent_process import AgentProcess, settings_text
from tests.broker import Broker, Subscriber, needs_mosquitto
from tests.certificates import issue, issue_later, make_authority


@needs_mosquitto
def test_a_certificate_that_is_not_valid_yet_is_tried_until_it_is(tmp_path: Path) -> None:
    """At 1970 every certificate is: said once, with the clock as its likely cause; then results arrive."""
    authority = make_authority(tmp_path)
    early, key = issue_later(tmp_path, "early", "localhost")
    shutil.copy(early, tmp_path / "server.pem")
    shutil.copy(key, tmp_path / "server.key")
    tls = (f"certfile {tmp_path}/server.pem", f"keyfile {tmp_path}/server.key")
    broker = Broker(tmp_path, *tls)
    with broker:
        text = settings_text(
            url=f"mqtts://localhost:{broker.port}", mqtt=f'ca_file = "{authority}"', stream="repeat = true"
        )
        with AgentProcess(tmp_path, text) as agent:
            agent.wait_for_log("certificate is not yet valid")
            broker.wait_for_log("OpenSSL Error", 2)
            broker.kill()
            issue(tmp_path, "server", "localhost")
            broker.start()
            agent.wait_for_log("connected")
            summary = agent.terminate()
    assert agent.log.count("certificate is not yet valid") == 1
    assert "is the clock of this device right?" in agent.log
    assert summary["delivery"]["sink"]["failures"] >= 2
    assert summary["delivery"]["acknowledged"] > 0


@needs_mosquitto
def test_a_state_folder_of_a_newer_version_is_set_aside_and_the_agent_works(tmp_path: Path) -> None:
    """Each file whose form it does not know is named; none is overwritten unseen, none stops the agent."""
    state = tmp_path / "state"
    state.mkdir()
    spool = sqlite3.connect(state / "spool.db")
    spool.execute("PRAGMA user_version = 99")
    spool.execute("CREATE TABLE messages_of_tomorrow (a)")
    spool.commit()
    spool.close()
    (state / "updates").mkdir()
    newer = {"remote-settings.json": {"format": 99}, "updates/updates.json": {"format": 99, "models": {}}}
    newer |= {"marks.json": {"format": 99, "entries": {}}, "commands.jsonl": {"format": 99}}
    for name, body in newer.items():
        (state / name).write_text(json.dumps(body))
    with (
        Broker(tmp_path) as broker,
        Subscriber(broker.port) as subscriber,
        AgentProcess(tmp_path, settings_text(url=broker.url, stream="repeat = true", state=state)) as agent,
    ):
        assert "format" in json.dumps(subscriber.wait_for("events/spool_replaced").body)
        subscriber.wait_for("results/door")
        agent.terminate()
    for name in ("remote-settings.json", "updates/updates.json"):
        assert f"{name}: is damaged (its format is 99" in agent.log
        assert json.loads((state / f"{name}.damaged").read_text())["format"] == 99
