"""Requests on their way in, with a real broker: to a device that listens, and to one that was away."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from agent.core.inbound import PAYLOAD_BYTES_MAX
from tests.agent_process import AgentProcess, settings_text
from tests.broker import Broker, Publisher, Subscriber, needs_mosquitto

pytestmark = needs_mosquitto


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_what_came_for_a_device_that_was_away_arrives(tmp_path: Path, protocol: str) -> None:
    """Trap 9: only with a session that outlives the connection; each connection subscribes anew."""
    text = settings_text(url="{url}", mqtt=f'protocol = "{protocol}"', stream="repeat = true")
    with Broker(tmp_path) as broker, Subscriber(broker.port) as subscriber, Publisher(broker.port) as publisher:
        text = text.replace("{url}", broker.url)
        with AgentProcess(tmp_path, text) as agent:
            subscriber.wait_for("porch/status", state="online")
            publisher.send("edgebeat/v1/porch/commands/nothing-1", b"{}")
            subscriber.wait_for_body("porch/health", lambda body: body["control"]["received"] >= 1)
            agent.signal(signal.SIGKILL)
            agent.wait()
        publisher.send("edgebeat/v1/porch/commands/nothing-2", b"{}")
        with AgentProcess(tmp_path, text) as agent:
            subscriber.wait_for_body("porch/health", lambda body: body["control"]["received"] >= 1)
            agent.terminate()


def test_what_is_too_large_is_dropped_and_counted(tmp_path: Path) -> None:
    """Above the contract's 64 KiB; above MaximumPacketSize the broker keeps it (trap 10)."""
    with Broker(tmp_path) as broker, Subscriber(broker.port) as subscriber, Publisher(broker.port) as publisher:
        with AgentProcess(tmp_path, settings_text(url=broker.url, stream="repeat = true")) as agent:
            subscriber.wait_for("porch/status", state="online")
            publisher.send("edgebeat/v1/porch/settings/desired", b"x" * 50_000_000)
            publisher.send("edgebeat/v1/porch/settings/desired", b"x" * (PAYLOAD_BYTES_MAX + 1))
            subscriber.wait_for_body(
                "porch/health", lambda body: body["delivery"]["sink"]["inbound"]["dropped"]["oversize"] == 1
            )
            summary = agent.terminate()
        assert summary["delivery"]["sink"]["inbound"]["received"] == 1
        assert summary["control"]["received"] == 1, "the document is refused by name"
