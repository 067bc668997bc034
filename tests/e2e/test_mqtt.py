"""The real agent, a real clip, a real broker, and a subscriber that knows nothing of the agent."""

from __future__ import annotations

import datetime
import signal
import subprocess
from pathlib import Path

import pytest

from tests.agent_process import AgentProcess, checked_summary, settings_text
from tests.broker import Broker, Message, Subscriber, needs_mosquitto
from tests.certificates import issue, make_authority
from tests.paths import CLIP_FRAMES, COCO_SSD
from tests.schemas import check_all

pytestmark = needs_mosquitto


def age_at_arrival_ms(message: Message) -> float:
    """Return the age by the receiver's own clock."""
    captured_at = datetime.datetime.fromisoformat(message.body["captured_at"])
    return message.arrived_wall_ns / 1e6 - captured_at.timestamp() * 1e3


def results_of(subscriber: Subscriber) -> list[Message]:
    """Return the results received so far."""
    return [message for message in subscriber.drain() if "/results/" in message.topic]


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_the_main_job(tmp_path: Path, protocol: str) -> None:
    """Clip in, predictions out: the cup, the person and the cat, each inside its deadline, every frame counted."""
    with Broker(tmp_path) as broker, Subscriber(broker.port) as subscriber:
        text = settings_text(url=broker.url, model=COCO_SSD, mqtt=f'protocol = "{protocol}"')
        with AgentProcess(tmp_path, text) as agent:
            birth = subscriber.wait_for("porch/status", state="online").body
            subscriber.wait_for("porch/status", state="offline", timeout_s=60)
            code, lines = agent.wait()
        assert code == 0
        summary = checked_summary(lines)
        results = results_of(subscriber)
        ledger = summary["streams"]["door"]["ledger"]
        # Every fourth frame may be lost to a busy test machine, never a kind of object.
        assert CLIP_FRAMES * 3 // 4 <= len(results) == ledger["published"]
        labels = {found["label"] for message in results for found in message.body["detections"]}
        assert {"cup", "person", "cat"} <= labels
        for message in results:
            assert message.topic == "edgebeat/v1/porch/results/door"
            assert message.qos == 1
            assert message.body["age_ms"] <= message.body["deadline_ms"] == 250
            assert "replay" not in message.body
            assert age_at_arrival_ms(message) >= message.body["age_ms"] - 2
            for found in message.body["detections"]:
                x1, y1, x2, y2 = found["box"]
                assert 0 <= x1 < x2 <= 640
                assert 0 <= y1 < y2 <= 480
        identities = [(message.body["boot"], message.body["seq"]) for message in results]
        assert len(set(identities)) == len(identities)
        assert {boot for boot, _ in identities} == {birth["boot"]} == {summary["boot"]}
        # A busy test machine may press the agent so that it tells of a step down.
        assert check_all(subscriber.drain()) - {"event", "log"} == {"status", "result", "health", "reported"}
        health = [message.body for message in subscriber.drain() if message.topic.endswith("/health")]
        assert health[-1]["streams"]["door"]["ledger"] == ledger


def test_status_is_retained_and_a_kill_is_told_by_the_will(tmp_path: Path) -> None:
    """Birth and goodbye are ours; after a SIGKILL the broker says offline."""
    with Broker(tmp_path) as broker:
        # 3.1.1 has no will delay: the broker tells at once.
        text = settings_text(url=broker.url, mqtt='protocol = "3.1.1"', stream="repeat = true")
        with Subscriber(broker.port) as subscriber, AgentProcess(tmp_path, text) as agent:
            subscriber.wait_for("porch/status", state="online")
            agent.signal(signal.SIGKILL)
            assert subscriber.wait_for("porch/status", state="offline").body["reason"] == "connection lost"
        with Subscriber(broker.port) as late:
            assert late.wait_for("porch/status").retain
        with Subscriber(broker.port) as subscriber, AgentProcess(tmp_path, text) as agent:
            subscriber.wait_for("porch/status", state="online")
            subscriber.wait_for("results/door")
            agent.terminate()
            assert subscriber.wait_for("porch/status", state="offline").body["reason"] == "SIGTERM"


def test_passwords(tmp_path: Path) -> None:
    """A wrong one is said once, not with each try; corrected in place, the agent comes in by itself."""
    accounts, secret = tmp_path / "accounts", tmp_path / "secret"
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(accounts), "porch", "right"], check=True, timeout=30)
    secret.write_text("wrong\n")
    with Broker(tmp_path, f"password_file {accounts}", anonymous=False) as broker:
        login = f'username = "porch"\npassword_file = "{secret}"'
        text = settings_text(url=broker.url, mqtt=login, stream="repeat = true")
        with AgentProcess(tmp_path, text) as agent:
            agent.wait_for_log("the broker refuses: Not authorized")
            with Subscriber(broker.port, username="porch", password="right") as subscriber:
                broker.wait_for_log("not authorised", 3)
                assert agent.log.count("the broker refuses") == 1
                secret.write_text("right\n")
                subscriber.wait_for("porch/status", state="online")
            summary = agent.terminate()
        assert summary["delivery"]["sink"]["failures"] >= 3


def test_tls(tmp_path: Path) -> None:
    """A broker with a certificate of our own authority; without the authority it is refused with the reason."""
    make_authority(tmp_path)
    issue(tmp_path, "server", "localhost")
    lines = (
        f"cafile {tmp_path / 'ca.pem'}",
        f"certfile {tmp_path / 'server.pem'}",
        f"keyfile {tmp_path / 'server.key'}",
    )
    with Broker(tmp_path, *lines) as broker:
        url = f"mqtts://localhost:{broker.port}"
        with AgentProcess(tmp_path, settings_text(url=url, stream="repeat = true")) as agent:
            agent.wait_for_log("certificate verify failed")
            agent.terminate()
        trusted = settings_text(url=url, mqtt=f'ca_file = "{tmp_path / "ca.pem"}"', stream="repeat = true")
        with AgentProcess(tmp_path, trusted) as agent:
            agent.wait_for_log("connected: mqtts://localhost")
            assert agent.terminate()["delivery"]["acknowledged"] > 0


def test_a_broker_limit_is_obeyed(tmp_path: Path) -> None:
    """A message above the broker's MaximumPacketSize is set aside; sent, it would close the connection for ever."""
    with Broker(tmp_path, "max_packet_size 700") as broker, Subscriber(broker.port) as subscriber:
        with AgentProcess(tmp_path, settings_text(url=broker.url, model=COCO_SSD, stream="repeat = true")) as agent:
            subscriber.wait_for("porch/status", state="online")
            agent.wait_for_log("not sent (oversize)")
            summary = agent.terminate()
        assert summary["delivery"]["dropped"]["oversize"] >= 1
        assert summary["delivery"]["sink"]["connects"] == 1
