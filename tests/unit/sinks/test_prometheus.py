"""Prometheus text: valid, on loopback, and the same figures as in health."""

from __future__ import annotations

import socket
import urllib.request
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent.core.outbox import Message, Outbox
from agent.errors import ConfigError
from agent.sinks.embedded import free_ports
from agent.sinks.prometheus import MetricsServer


def summary() -> dict[str, Any]:
    """Build what the daemon reports."""
    outbox = Outbox(1)
    for _ in range(3):
        outbox.put(Message("result", "results/door", {}, 0))
    ledger = {"captured": 7, "published": 5, "expired": 1, "in_flight": 1}
    ages = {"p50": 17.5, "p95": 20.0, "p99": None, "max": None}
    return {
        "uptime_s": 12.5,
        "streams": {"door": {"ledger": ledger, "age_ms": ages}},
        "delivery": {**outbox.snapshot(), "connected": True},
        "process": {"rss_mb": 130.5, "cpu_s": 3.25},
    }


def test_what_a_scrape_returns() -> None:
    """Read back by Prometheus' own parser."""
    (port,) = free_ports(1)
    server = MetricsServer(port, summary)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
    finally:
        server.stop()
    values = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert values["edgebeat_frames_total", "door", "published"] == 5
    assert values["edgebeat_frames_captured_total", "door"] == 7
    assert values["edgebeat_result_age_milliseconds", "door", "p50"] == 17.5
    assert ("edgebeat_result_age_milliseconds", "door", "p99") not in values
    assert values["edgebeat_messages_dropped_total", "queue_full", "result"] == 2
    assert values["edgebeat_messages_held", "queued", "result"] == 1
    assert values[("edgebeat_broker_connected",)] == 1


def test_a_port_that_is_taken_is_a_wrong_setting() -> None:
    """Exit code 78, with the address."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}: Address already in use"):
            MetricsServer(port, summary)
