"""Home Assistant's side of the broker: the document, a birth, and the removal."""

from __future__ import annotations

from pathlib import Path

from tests.agent_process import AgentProcess, settings_text
from tests.broker import Broker, Publisher, Subscriber, needs_mosquitto

pytestmark = needs_mosquitto

CONFIG = "homeassistant/device/porch/config"


def test_the_device_is_announced_again_at_a_birth_and_taken_away_when_it_is_turned_off(tmp_path: Path) -> None:
    """Every topic that it names exists; nothing is left when the setting is gone."""
    on = "[home_assistant]\nenabled = true"
    with Broker(tmp_path) as broker, Publisher(broker.port) as home:
        with (
            Subscriber(broker.port, "homeassistant/#") as told,
            Subscriber(broker.port) as device,
            AgentProcess(tmp_path, settings_text(url=broker.url, stream="repeat = true", more=on)) as agent,
        ):
            first = told.wait_for(CONFIG)
            assert first.body["availability_topic"] == "edgebeat/v1/porch/status"
            device.wait_for("porch/status", state="online")
            health = device.wait_for("porch/health").body
            assert health["streams"]["door"]["published_fps"] >= 0
            assert health["models"]["seen"]["version"]
            home.send("homeassistant/status", b"online")
            assert told.wait_for(CONFIG).body == first.body
            assert agent.terminate()["control"]["home_assistant"]["births"] == 1
        with Subscriber(broker.port, CONFIG) as late:
            assert late.wait_for(CONFIG).retain
            with AgentProcess(tmp_path, settings_text(url=broker.url, stream="repeat = true")) as agent:
                agent.wait_for_log("taking the device away")
                assert late.messages.get(timeout=30).payload == b""
                agent.terminate()
        with Subscriber(broker.port, "homeassistant/#") as late:
            home.send("homeassistant/status", b"offline")
            # Nothing retained came before what was sent after the subscription.
            assert late.messages.get(timeout=30).topic == "homeassistant/status"
