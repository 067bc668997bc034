"""What an operator sees beside results: log lines as JSON, warnings on `log`, and metrics on loopback."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

from agent.sinks.embedded import free_ports
from tests.agent_process import AgentProcess, settings_text
from tests.broker import Broker, Subscriber, needs_mosquitto

pytestmark = needs_mosquitto


def test_logs_and_metrics(tmp_path: Path) -> None:
    """A state folder that cannot be used gives one warning, here, on `log`, and in JSON on standard error."""
    (port,) = free_ports(1)
    (tmp_path / "state").write_text("no folder")
    with Broker(tmp_path) as broker, Subscriber(broker.port, "edgebeat/v1/porch/log") as subscriber:
        text = settings_text(url=broker.url, state=tmp_path / "state", stream="repeat = true")
        text = text.replace("period_s = 1\n", f'period_s = 1\nprometheus_port = {port}\n[log]\nformat = "json"\n')
        with AgentProcess(tmp_path, text) as agent:
            relayed = subscriber.wait_for("porch/log", level="warning").body
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                assert b'edgebeat_frames_captured_total{stream="door"}' in answer.read()
            agent.terminate()
    lines = [json.loads(line) for line in agent.log.splitlines()]
    assert relayed["message"].startswith("spool: ")
    assert relayed["message"] in {line["message"] for line in lines if line["level"] == "warning"}


def test_a_metrics_port_that_is_taken_is_a_wrong_setting(tmp_path: Path) -> None:
    """Refused before anything starts, exit code 78."""
    with Broker(tmp_path) as broker:
        text = settings_text().replace("period_s = 1\n", f"period_s = 1\nprometheus_port = {broker.port}\n")
        with AgentProcess(tmp_path, text) as agent:
            code, _ = agent.wait()
    assert code == 78
    assert f"health.prometheus_port: 127.0.0.1:{broker.port}: Address already in use" in agent.log
