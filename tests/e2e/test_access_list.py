"""The access list that we hand out, at a real broker: the agent works with it, and nobody else can do its harm."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.agent_process import AgentProcess, settings_text
from tests.broker import Broker, Subscriber, needs_mosquitto
from tests.paths import REPOSITORY

pytestmark = needs_mosquitto

TREE = "edgebeat/v1/porch"
DESIRED = json.dumps({"schema": 1, "version": 1, "values": {"health": {"period_s": 2}}}).encode()


class Account:
    """A client with a name; tells what the broker answers."""

    def __init__(self, port: int, user: str) -> None:
        self._answered = threading.Event()
        self._reason: Any = None
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        self._client.username_pw_set(user, user)
        self._client.on_publish = lambda _c, _u, _m, reason, _p: self._answer(reason)
        self._client.on_subscribe = lambda _c, _u, _m, reasons, _p: self._answer(reasons[0])
        self._client.on_connect = lambda _c, _u, _f, reason, _p: self._answer(reason)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert self._wait()

    def __enter__(self) -> Account:
        return self

    def __exit__(self, *exc: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def may_write(self, topic: str, payload: bytes = b"{}") -> bool:
        """Publish and return whether the broker accepts it."""
        self._answered.clear()
        properties = Properties(PacketTypes.PUBLISH)
        properties.UserProperty = ("asked_by", "somebody")
        self._client.publish(topic, payload, 1, properties=properties)
        return self._wait()

    def _answer(self, reason: Any) -> None:
        self._reason = reason
        self._answered.set()

    def _wait(self) -> bool:
        assert self._answered.wait(30)
        return not self._reason.is_failure


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    accounts = tmp_path / "accounts"
    accounts.touch(0o600)
    for user in ("porch", "gate", "operator", "viewer"):
        subprocess.run(["mosquitto_passwd", "-b", str(accounts), user, user], check=True, timeout=30)
    # mosquitto reads its files before it drops its rights only where it starts as root.
    lines = (f"password_file {accounts}", f"acl_file {REPOSITORY / 'config/mosquitto/acl'}")
    with Broker(tmp_path, *lines, anonymous=False) as running:
        yield running


@pytest.mark.parametrize(
    ("user", "topic", "may"),
    [
        ("operator", f"{TREE}/settings/desired", True),
        ("operator", f"{TREE}/commands/ping", True),
        ("operator", f"{TREE}/settings/reported", False),
        ("operator", f"{TREE}/status", False),
        ("viewer", f"{TREE}/settings/desired", False),
        ("viewer", f"{TREE}/commands/restart", False),
        ("viewer", f"{TREE}/results/door", False),
        ("viewer", f"{TREE}/commands/watch", True),
        ("gate", f"{TREE}/settings/desired", False),
        ("gate", f"{TREE}/results/door", False),
        ("gate", f"{TREE}/commands/restart", False),
        ("gate", "edgebeat/v1/gate/results/door", True),
        ("gate", "edgebeat/v1/gate/settings/desired", False),
        ("porch", f"{TREE}/settings/reported", True),
    ],
)
def test_who_may_publish_what(broker: Broker, user: str, topic: str, may: bool) -> None:
    """A stolen device is no operator, and no other device."""
    with Account(broker.port, user) as account:
        assert account.may_write(topic) is may


def test_the_agent_works_with_it_and_only_the_operator_changes_it(broker: Broker, tmp_path: Path) -> None:
    """Nothing that the agent sends or hears is refused; what others ask for never arrives."""
    (tmp_path / "secret").write_text("porch\n")
    login = f'username = "porch"\npassword_file = "{tmp_path / "secret"}"'
    text = settings_text(url=broker.url, mqtt=login, stream="repeat = true", state=tmp_path / "state")
    everything = Subscriber(broker.port, f"{TREE}/#", username="operator", password="operator")
    with everything as subscriber, AgentProcess(tmp_path, text) as agent:
        subscriber.wait_for("settings/reported", version=0)
        subscriber.wait_for("results/door")
        for user in ("viewer", "gate"):
            with Account(broker.port, user) as account:
                assert not account.may_write(f"{TREE}/settings/desired", DESIRED)
        with Account(broker.port, "operator") as account:
            assert account.may_write(f"{TREE}/settings/desired", DESIRED)
        assert subscriber.wait_for("events/settings_applied").body["asked_by"] == "somebody"
        summary = agent.terminate()
    assert summary["delivery"]["dropped"]["refused"] == 0
    assert summary["delivery"]["sink"]["inbound"]["refused_topics"] == []
    assert summary["settings"]["version"] == 1
