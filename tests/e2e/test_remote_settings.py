"""Settings over a real broker: applied, refused, kept over restarts, taken back."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.agent_process import AgentProcess, settings_text
from tests.broker import Broker, Publisher, Subscriber, needs_mosquitto
from tests.schemas import check_all

pytestmark = needs_mosquitto

DESIRED, REPORTED = "edgebeat/v1/porch/settings/desired", "porch/settings/reported"
STREAM = "repeat = true\nfps = 20"
PROVING = "[remote]\nprobation_s = 3"


class Site:
    """A broker, one who sees everything, and an operator."""

    def __init__(self, folder: Path, broker: Broker, subscriber: Subscriber, publisher: Publisher) -> None:
        self.folder = folder
        self.broker = broker
        self.subscriber = subscriber
        self._publisher = publisher

    def agent(self, *, stream: str = STREAM, more: str = PROVING, arguments: tuple[str, ...] = ()) -> AgentProcess:
        """Start the agent with a state folder of its own."""
        text = settings_text(url=self.broker.url, stream=stream, more=more, state=self.folder / "state")
        return AgentProcess(self.folder, text, *arguments)

    def ask(self, version: int, values: Any, **more: Any) -> None:
        """Publish a document, retained."""
        self.send(json.dumps({"schema": 1, "version": version, "values": values, **more}).encode())

    def send(self, payload: bytes) -> None:
        """Publish bytes, retained."""
        self._publisher.send(DESIRED, payload, retain=True)

    def reported(self, is_wanted: Callable[[Any], bool], timeout_s: float = 30) -> Any:
        """Wait for a report that fits and return it."""
        return self.subscriber.wait_for_body(REPORTED, is_wanted, timeout_s).body


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Broker(tmp_path) as broker, Subscriber(broker.port) as subscriber, Publisher(broker.port) as publisher:
        yield Site(tmp_path, broker, subscriber, publisher)


def test_a_live_change_is_applied_kept_proven_and_told(site: Site) -> None:
    """The next results carry the new deadline; a kill later the agent starts on it; each step is reported."""
    with site.agent() as agent:
        first = site.reported(lambda body: body["state"] == "applied")
        assert first["version"] == 0
        assert first["values"]["streams"]["door"]["deadline_ms"] is None
        site.ask(41, {"streams": {"door": {"deadline_ms": 900}}, "health": {"period_s": 2}})
        applied = site.reported(lambda body: body["version"] == 41)
        assert applied["state"] == "applied"
        assert applied["values"]["streams"]["door"]["deadline_ms"] == 900.0
        assert applied["probation_s"] > 0
        told = site.subscriber.wait_for("events/settings_applied").body
        assert told["changes"]["streams.door.deadline_ms"] == [None, 900.0]
        site.subscriber.wait_for("results/door", deadline_ms=900.0)
        site.reported(lambda body: body["version"] == 41 and body["proven"])
        agent.signal(signal.SIGKILL)
        agent.wait()
    with site.agent() as agent:
        assert site.reported(lambda body: True)["version"] == 41
        site.subscriber.wait_for("results/door", deadline_ms=900.0)
        agent.terminate()
    check_all(site.subscriber.drain())
