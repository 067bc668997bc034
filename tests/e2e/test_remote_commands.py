"""Commands over a real broker, in both versions of the protocol."""

from __future__ import annotations

import base64
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.agent_process import AgentProcess, settings_text
from tests.broker import Broker, Publisher, Subscriber, needs_mosquitto, wait_until
from tests.paths import REPOSITORY
from tests.schemas import validator

pytestmark = needs_mosquitto

BASE = "edgebeat/v1/porch"


def text_of(broker: Broker, tmp_path: Path, protocol: str = "5", more: str = "") -> str:
    """Return settings of an agent that runs for as long as it is asked things."""
    mqtt = f'protocol = "{protocol}"'
    # A busy test machine must not keep frames from being published.
    stream = "repeat = true\ndeadline_ms = 10000"
    return settings_text(url=broker.url, mqtt=mqtt, stream=stream, more=more, state=tmp_path / "state")


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_what_is_asked_is_answered_once(tmp_path: Path, protocol: str) -> None:
    """Ping; unknown, malformed and wrong; a retained one; each answer is valid by the published schema."""
    with (
        Broker(tmp_path) as broker,
        Subscriber(broker.port) as subscriber,
        Publisher(broker.port, protocol) as desk,
        AgentProcess(tmp_path, text_of(broker, tmp_path, protocol)) as agent,
    ):
        subscriber.wait_for("porch/status", state="online")
        answers = [
            desk.ask("ping", "1"),
            desk.ask("dance", "2"),
            desk.ask("ping", "3", surprise=1),
            desk.ask("watch", "4", stream="door", duration_s=3600),
            desk.ask("watch", "5", stream="roof"),
            desk.ask("self-test", "6"),
        ]
        desk.send(f"{BASE}/commands/ping", b'{"id":"7","reply":"desk"}', retain=True)
        if protocol == "3.1.1":
            # It has no retain-as-published: a device that listens takes a retained command for one that is not.
            assert desk.answer("7")["state"] == "ok"
        desk.send(f"{BASE}/commands/ping", b'{"id":"8","id":"8","reply":"desk"}')
        answers.append(desk.ask("ping", "9"))
        for answer in answers:
            validator("response").validate(answer)
        assert answers[0]["state"] == answers[6]["state"] == "ok"
        assert answers[0]["streams"] == ["door"]
        codes = [answer.get("code") for answer in answers]
        assert codes[1:5] == ["unknown_command", "bad_arguments", "bad_arguments", "unknown_stream"]
        assert "duration_s" in answers[3]["message"]
        assert answers[5]["passed"], answers[5]
        assert answers[5]["models"]["seen"]["run_ms"] > 0
        summary = agent.terminate()
    counts = summary["control"]["commands"]
    assert counts["retained"] == (protocol == "5")
    assert counts["refused"] == 4
    assert summary["control"]["dropped"] == {"replaced": 0, "unclaimed": 0, "failed": 0}


def test_a_retained_command_is_dropped_at_each_connection(tmp_path: Path) -> None:
    """It would be obeyed for ever; the operator is told."""
    with Broker(tmp_path) as broker, Publisher(broker.port, "3.1.1") as desk:
        desk.send(f"{BASE}/commands/restart", b'{"id":"1","reply":"desk"}', retain=True)
        with AgentProcess(tmp_path, text_of(broker, tmp_path, "3.1.1")) as agent:
            agent.wait_for_log("a retained command is dropped")
            assert desk.ask("ping", "2")["state"] == "ok"
            summary = agent.terminate()
    assert summary["control"]["commands"]["retained"] == 1
    assert summary["restarts"] == 0


def test_an_answer_never_leaves_the_tree_of_the_device(tmp_path: Path) -> None:
    """A ResponseTopic elsewhere would write with the device's rights."""
    with Broker(tmp_path) as broker, Subscriber(broker.port, "#") as subscriber, Publisher(broker.port) as desk:
        with AgentProcess(tmp_path, text_of(broker, tmp_path)) as agent:
            subscriber.wait_for("porch/status", state="online")
            for topic in ("edgebeat/v1/yard/responses/x", f"{BASE}/settings/desired", f"{BASE}/responses/a/b"):
                properties = Properties(PacketTypes.PUBLISH)
                properties.ResponseTopic = topic
                properties.CorrelationData = b"1"
                desk.send(f"{BASE}/commands/ping", b"", properties=properties)
            desk.ask("ping", "2")
            summary = agent.terminate()
        topics = {message.topic for message in subscriber.drain()}
    assert summary["control"]["commands"]["foreign_response_topic"] == 3
    assert {topic for topic in topics if "responses" in topic} == {f"{BASE}/responses/desk"}
    assert f"{BASE}/settings/desired" not in topics


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_repeated_id_is_answered_from_memory_also_after_a_restart(tmp_path: Path, protocol: str) -> None:
    """At least once on the wire, once in effect: a restart that is delivered again restarts nothing."""
    with (
        Broker(tmp_path) as broker,
        Subscriber(broker.port) as subscriber,
        Publisher(broker.port, protocol) as desk,
        AgentProcess(tmp_path, text_of(broker, tmp_path, protocol)) as agent,
    ):
        birth = subscriber.wait_for("porch/status", state="online").body
        first = desk.ask("ping", "one")
        again = desk.ask("ping", "one")
        assert again["repeated"]
        assert again["uptime_s"] == first["uptime_s"]
        assert desk.ask("snapshot", "one", stream="door")["code"] == "id_used"
        assert desk.ask("restart", "two", reason="a new lens")["restarting"]
        subscriber.wait_for("porch/status", state="offline")
        assert subscriber.wait_for("porch/status", state="online").body["boot"] != birth["boot"]
        restarted = subscriber.wait_for("events/restarted").body
        assert restarted["reason"] == "restart command of desk: a new lens"
        assert desk.ask("restart", "two")["repeated"]
        assert desk.ask("ping", "one")["uptime_s"] == first["uptime_s"]
        summary = agent.terminate()
    assert summary["restarts"] == 1
    assert summary["control"]["commands"]["repeated"] == 2


def test_pictures_come_only_while_somebody_watches(tmp_path: Path) -> None:
    """The lease is given and ends by itself; nothing stays at the broker; each picture is within its bound."""
    with (
        Broker(tmp_path) as broker,
        Subscriber(broker.port, f"{BASE}/status") as status,
        Subscriber(broker.port, f"{BASE}/image/#") as images,
        Publisher(broker.port) as desk,
        AgentProcess(tmp_path, text_of(broker, tmp_path, more="[images]\ninterval_s = 0.2\nmax_kb = 16")) as agent,
    ):
        status.wait_for("porch/status", state="online")
        answer = desk.ask("snapshot", "s1", stream="door")
        jpeg = base64.b64decode(answer["image"])
        assert len(jpeg) <= 64 << 10
        decoded = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
        assert decoded is not None
        assert desk.ask("snapshot", "s1", stream="door")["code"] == "not_kept"
        assert images.messages.empty()
        lease = desk.ask("watch", "w1", stream="door", duration_s=120)
        assert lease["topic"] == "image/door"
        assert lease["duration_s_max"] == 120
        for _ in range(3):
            picture = images.messages.get(timeout=30)
            assert picture.topic == f"{BASE}/image/door"
            assert 0 < len(picture.payload) <= 16 << 10
        desk.ask("watch", "w2", stream="door", duration_s=0.5)
        while picture.payload:
            picture = images.messages.get(timeout=30)
        with Subscriber(broker.port, f"{BASE}/image/#") as late:
            desk.ask("ping", "p")
            assert late.messages.empty()
        desk.ask("watch", "w3", stream="door", duration_s=120)
        assert images.messages.get(timeout=30).payload
        summary = agent.terminate()
        # A clean end takes the picture away although the lease had time left.
        pictures = images.drain()
    assert pictures[-1].payload == b""
    assert summary["control"]["images"]["removed"] == 2
    book = summary["delivery"]["classes"]["image"]
    assert book["emitted"] == summary["control"]["images"]["sent"] + 2


def test_a_capture_lies_in_the_state_folder(tmp_path: Path) -> None:
    """The last seconds, for a bug report; where it is off the sender is told how to turn it on."""
    more = "[capture]\nseconds = 10"
    with (
        Broker(tmp_path) as broker,
        Subscriber(broker.port) as subscriber,
        Publisher(broker.port) as desk,
        AgentProcess(tmp_path, text_of(broker, tmp_path, more=more)) as agent,
    ):
        subscriber.wait_for("results/door")
        subscriber.wait_for("results/door")
        answer = desk.ask("capture", "1")
        folder = Path(answer["folder"])
        assert folder.parent == tmp_path / "state" / "captures"
        assert len(list(folder.glob("*.jpg"))) == answer["frames"] >= 1
        agent.terminate()
    with (
        Broker(tmp_path) as broker,
        Subscriber(broker.port) as subscriber,
        Publisher(broker.port) as desk,
        AgentProcess(tmp_path, text_of(broker, tmp_path)) as agent,
    ):
        subscriber.wait_for("porch/status", state="online")
        assert desk.ask("capture", "2")["code"] == "off"
        agent.terminate()


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_watch_takes_a_lease_and_keeps_the_newest_picture(tmp_path: Path, protocol: str) -> None:
    """`edgebeat watch --images` as its users run it; when it ends, nothing is sent any more."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    with (
        Broker(tmp_path) as broker,
        Subscriber(broker.port, f"{BASE}/image/#") as images,
        AgentProcess(tmp_path, text_of(broker, tmp_path, protocol)) as agent,
    ):
        command = [sys.executable, "-m", "agent", "watch", "--mqtt", broker.url, "--protocol", protocol]
        with subprocess.Popen(
            [*command, "--images", str(folder), "--duration", "60"], cwd=REPOSITORY, stdout=subprocess.DEVNULL
        ) as watching:
            file = folder / "porch-door.jpg"
            wait_until(file.is_file, "a picture")
            watching.send_signal(signal.SIGINT)
            assert watching.wait(60) == 0
        assert cv2.imread(str(file)) is not None
        while images.messages.get(timeout=30).payload:
            pass
        summary = agent.terminate()
    assert summary["control"]["images"]["leases"] == 0
    assert summary["control"]["commands"]["failed"] == 0


@pytest.mark.timeout(300)  # Four processes import everything, beside the agent.
def test_the_device_is_tuned_from_afar_while_it_serves(tmp_path: Path) -> None:
    """The stream goes on, the same request is answered from memory, and the next start uses what was found."""
    more = "[limits]\nthreads = 1\n[engine]\narena = true"
    with (
        Broker(tmp_path) as broker,
        Subscriber(broker.port) as subscriber,
        Publisher(broker.port) as desk,
        AgentProcess(tmp_path, text_of(broker, tmp_path, more=more)) as agent,
    ):
        subscriber.wait_for("porch/status", state="online")
        desk.begin("tune", "1", seconds=1, fps=0.01)
        answer = desk.answer("1", timeout_s=200)
        validator("response").validate(answer)
        assert answer["state"] == "ok", answer
        assert answer["target"] == {"fps": 0.01, "deadline_ms": 10000.0}
        assert (answer["is_kept"], answer["candidates_count"]) == (True, 1)
        assert answer["candidates"][0]["way"] == answer["taken"] == "full, 1 thread"
        assert desk.ask("tune", "1", seconds=1, fps=0.01)["repeated"] is True
        assert desk.ask("tune", "2", model="other")["code"] == "no_model"
        subscriber.drain()
        subscriber.wait_for("porch/results/door")
        assert desk.ask("restart", "3")["state"] == "ok"
        event = subscriber.wait_for("porch/events/model_tuned", model="seen")
        assert event.body["tuned"]["fps"] == 0.01
        summary = agent.terminate()
    assert summary["engine"]["sessions"]["seen"]["tuned"]["deadline_ms"] == 10000.0
    assert (tmp_path / "state/tuned.json").is_file()
