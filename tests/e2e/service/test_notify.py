"""What a service manager hears of a real agent, from the start to the end."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.agent_process import AgentProcess, settings_text
from tests.broker import Broker, Subscriber, needs_mosquitto
from tests.paths import MODELS
from tests.service_manager import Message, ServiceManager

WATCHED = {"WATCHDOG_USEC": "3000000"}


@needs_mosquitto
def test_from_start_to_stop(tmp_path: Path) -> None:
    """READY with the broker, pings with a status, two reloads to their ends, STOPPING."""
    with Broker(tmp_path) as broker, ServiceManager(tmp_path) as manager:
        text = settings_text(url=broker.url, stream="repeat = true")
        with AgentProcess(tmp_path, text, NOTIFY_SOCKET=manager.path, **WATCHED) as agent:
            assert manager.next()["STATUS"] == "loading and checking models"
            assert manager.wait_for("READY")["STATUS"].endswith("broker connected")
            manager.wait_for(lambda m: "WATCHDOG" in m and " fps, age " in m["STATUS"])
            agent.config.write_text(text + "max_fps = 5\n")
            agent.signal(signal.SIGHUP)
            manager.wait_for("RELOADING")
            manager.wait_for("READY")
            assert "SIGHUP: " in agent.log
            assert "streams.door.max_fps None -> 5.0" in agent.log
            agent.config.write_text("[mqtt")
            agent.signal(signal.SIGHUP)
            manager.wait_for("RELOADING")
            manager.wait_for("READY")
            assert f"SIGHUP: {agent.config}: nothing is changed; the settings in force stay" in agent.log
            agent.terminate()
        assert manager.rest()[-1] == {
            "STOPPING": "1",
            "STATUS": "stopping: SIGTERM",
            "EXTEND_TIMEOUT_USEC": "9000000",
        }


def test_a_broker_and_a_camera_that_are_away_cost_no_ping(tmp_path: Path) -> None:
    """READY comes after the first attempt; then pings go on, and the status tells."""

    def tells(message: Message) -> bool:
        return message.get("WATCHDOG") == "1" and message["STATUS"].startswith("door: no frame; broker away")

    with ServiceManager(tmp_path) as manager:
        text = settings_text(source="/dev/video99")
        with AgentProcess(tmp_path, text, NOTIFY_SOCKET=manager.path, **WATCHED) as agent:
            manager.wait_for("READY")
            for _ in range(3):
                manager.wait_for(tells)
            agent.terminate()


@needs_mosquitto
def test_a_restart_in_place_is_no_end(tmp_path: Path) -> None:
    """After a hang the agent replaces itself: NOTIFY_SOCKET survives, pings go on, nothing says STOPPING."""
    more = f'[limits]\nhang_s = 1\n[state]\ndir = "{tmp_path / "state"}"\n'
    with Broker(tmp_path) as broker, ServiceManager(tmp_path) as manager, Subscriber(broker.port) as subscriber:
        text = settings_text(url=broker.url, model=MODELS / "stuck", stream="repeat = true", more=more)
        with AgentProcess(tmp_path, text, NOTIFY_SOCKET=manager.path, **WATCHED) as agent:
            manager.wait_for("READY")
            assert (
                manager.wait_for(lambda m: m.get("STATUS", "").startswith("restarting: seen hung"))["WATCHDOG"] == "1"
            )
            manager.wait_for("READY")
            subscriber.wait_for("events/model_marked")
            manager.wait_for(lambda m: m.get("STATUS") == "no stream runs; broker connected")
            assert not any("STOPPING" in message for message in manager.heard)
            agent.terminate()
