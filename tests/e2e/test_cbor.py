"""`mqtt.payload = "cbor"` from the real agent over a real broker to readers that are none of ours."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from agent import delivery
from agent.errors import ConfigError
from agent.settings import Settings
from tests.agent_process import AgentProcess, settings_text
from tests.broker import Broker, Subscriber, needs_mosquitto
from tests.paths import MODELS, REPOSITORY
from tests.schemas import check_all


@needs_mosquitto
def test_results_and_events_in_cbor(tmp_path: Path) -> None:
    """Content types, the same schemas, tensors of the model's own type, and `edgebeat watch` reads them."""
    with Broker(tmp_path) as broker, Subscriber(broker.port) as subscriber:
        text = settings_text(
            url=broker.url,
            model=MODELS / "letterbox",
            mqtt='payload = "cbor"',
            stream="repeat = true\nfps = 20\ndeadline_ms = 5000",
            more='[[streams]]\nname = "gone"\nsource = "rtsp://127.0.0.1:9/none"\nmodel = "seen"',
        )
        command = [sys.executable, "-m", "agent", "watch", "--json", "--mqtt", broker.url, "--duration", "60"]
        with (
            subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as watch,
            AgentProcess(tmp_path, text) as agent,
        ):
            subscriber.wait_for("events/source_lost")
            result = subscriber.wait_for("results/door")
            assert watch.stdout is not None
            seen = (json.loads(line) for line in watch.stdout)
            watched = next(record for record in seen if record["topic"].endswith("results/door"))
            watch.terminate()
            agent.terminate()
        (tensor,) = watched["payload"]["values"]
        assert tensor["shape"] == result.body["values"][0]["shape"]
        assert np.size(tensor["values"]) == np.prod(tensor["shape"])
        assert {"result", "event", "health", "status"} <= check_all(subscriber.drain())
        types = {message.topic.split("/")[3]: message.content_type for message in subscriber.drain()}
    assert (types["results"], types["events"], types["health"]) == ("application/cbor",) * 2 + ("application/json",)


def test_cbor_without_its_extra_is_said_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 78 with what to install."""
    monkeypatch.delitem(sys.modules, "agent.core.cbor", raising=False)
    monkeypatch.setitem(sys.modules, "cbor2", None)
    settings = Settings.model_validate({"mqtt": {"payload": "cbor"}, "models": [], "streams": []})
    with pytest.raises(ConfigError, match="edgebeat\\[cbor\\]"):
        delivery.build_encodings(settings)
