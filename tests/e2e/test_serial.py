"""A sensor on a serial line, a pty here, and the whole agent."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

from tests.agent_process import AgentProcess, settings_text
from tests.broker import Broker, Subscriber, needs_mosquitto
from tests.paths import MOTION, WATCH_GRU
from tests.schemas import check_all
from tests.senders import Feeder, SerialPair

PENDULUM_ROWS = 8 * 50
"""The recording's first exercise."""


def watch(pair: SerialPair) -> Callable[[int], None]:
    """Return what writes the next line of JSON, as a watch on the line would."""
    with MOTION.open() as file:
        rows = list(csv.DictReader(file))[:PENDULUM_ROWS]
    lines = cycle(
        json.dumps({name: float(value) for name, value in row.items() if name != "t"}).encode() for row in rows
    )
    return lambda _: pair.write(next(lines) + b"\r\n")


@needs_mosquitto
def test_a_watch_on_a_line_that_falls_silent_and_is_pulled_out(tmp_path: Path) -> None:
    """Its exercise is told; a silence and a line that is gone are losses, what comes after the silence a return."""
    pair = SerialPair()
    with Broker(tmp_path) as broker, Subscriber(broker.port) as subscriber:
        text = settings_text(
            url=broker.url,
            model=WATCH_GRU,
            source=f"serial:{pair.device}",
            stream="silence_s = 3\ndeadline_ms = 5000",
        )

        def wait_for_pendulum() -> None:
            subscriber.wait_for_body("results/door", lambda body: body["classes"][0]["label"] == "pendulum")

        with AgentProcess(tmp_path, text) as agent:
            with Feeder(watch(pair), interval_ms=20):
                wait_for_pendulum()
            lost = subscriber.wait_for("events/source_lost").body
            assert lost["reason"] == f"{pair.device}: said nothing for 3 s"
            with Feeder(watch(pair), interval_ms=20):
                subscriber.wait_for("events/source_back")
                wait_for_pendulum()
            pair.close()
            lost = subscriber.wait_for("events/source_lost").body
            assert lost["reason"].startswith(f"{pair.device}: lost")
            summary = agent.terminate()
        assert {"result", "event"} <= check_all(subscriber.drain())
    assert summary["streams"]["door"]["source_losses"] >= 2
    assert summary["streams"]["door"]["ledger"]["published"] > 0
