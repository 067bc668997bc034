"""Faults of the broker: inference never waits for it, ages hold, every message is accounted for."""

from __future__ import annotations

import http.server
import threading
from pathlib import Path

from tests.agent_process import AgentProcess, checked_summary, settings_text
from tests.broker import Broker, Subscriber, needs_mosquitto
from tests.paths import MODELS

pytestmark = needs_mosquitto


def fresh_ages_hold(subscriber: Subscriber) -> None:
    """Check that nothing that looks fresh is older than its deadline."""
    for message in subscriber.drain():
        if "/results/" in message.topic and "replay" not in message.body:
            assert message.body["age_ms"] <= message.body["deadline_ms"]


def test_broker_absent_at_start(tmp_path: Path) -> None:
    """The agent runs, says it once, and reports when the broker comes; what waited arrives marked."""
    broker = Broker(tmp_path)
    # The first back-off takes 200 ms at least, so that results of 50 ms grow old before the second try.
    text = settings_text(url=broker.url, stream="repeat = true\nfps = 50\ndeadline_ms = 50")
    with AgentProcess(tmp_path, text) as agent:
        agent.wait_for_log("cannot connect")
        with broker, Subscriber(broker.port) as subscriber:
            subscriber.wait_for("porch/status", state="online")
            subscriber.wait_for("results/door", replay=True)
            assert agent.log.count("cannot connect") == 1
            summary = agent.terminate()
            fresh_ages_hold(subscriber)
    assert summary["delivery"]["replayed"] > 0
    assert summary["streams"]["door"]["ledger"]["published"] > 0


def test_broker_killed_in_mid_stream(tmp_path: Path) -> None:
    """Killed and started again: results go on, the books are exact, and every result arrives at least once."""
    # The back-off takes 200 ms at least, so that results of 50 ms grow old before the broker is back.
    text = "repeat = true\nfps = 50\ndeadline_ms = 50"
    with Broker(tmp_path) as broker, AgentProcess(tmp_path, settings_text(url=broker.url, stream=text)) as agent:
        with Subscriber(broker.port) as before:
            before.wait_for("results/door")
            broker.kill()
        agent.wait_for_log("the connection was lost")
        broker.start()
        with Subscriber(broker.port) as after:
            after.wait_for("results/door", replay=True)
            captured = after.wait_for("porch/health").body["streams"]["door"]["ledger"]["captured"]
            after.wait_for("results/door")
            summary = agent.terminate()
            fresh_ages_hold(after)
    assert captured > 0
    assert summary["delivery"]["sink"]["connects"] == 2
    dropped = summary["delivery"]["dropped"]
    assert sum(dropped.values()) == dropped["replaced"]  # Older health states; no result.


def test_broker_frozen_at_shutdown(tmp_path: Path) -> None:
    """A stalled socket does not hold the stop; what was unacknowledged is counted."""
    with Broker(tmp_path) as broker, Subscriber(broker.port) as subscriber:
        text = settings_text(url=broker.url, mqtt="in_flight_max = 4", stream="repeat = true\nfps = 50")
        with AgentProcess(tmp_path, text, "--duration", "2") as agent:
            subscriber.wait_for("results/door")
            broker.freeze()
            try:
                code, lines = agent.wait(timeout_s=2 + 5)
            finally:
                broker.thaw()
    assert code == 0
    assert checked_summary(lines)["delivery"]["dropped"]["shutdown"] > 0


def test_broker_that_is_none(tmp_path: Path) -> None:
    """Something else answers on that port: said, and tried again without end."""

    class Silent(http.server.BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Silent)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        text = settings_text(url=f"mqtt://127.0.0.1:{server.server_address[1]}", model=MODELS / "tiny")
        with AgentProcess(tmp_path, text, "--duration", "3") as agent:
            agent.wait_for_log("mqtt://127.0.0.1")
            code, _ = agent.wait()
            assert code == 0
            assert "Traceback" not in agent.log
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
