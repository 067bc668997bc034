"""The figures of health as Prometheus text, on loopback, where somebody asks for them (extra `metrics`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from agent.errors import ConfigError

ADDRESS = "127.0.0.1"
"""An exporter without authentication stays on the device; a scraper beside it forwards."""


class MetricsServer:
    """Answers GET /metrics with the figures of that moment; costs nothing between two.

    Args:
        port: on 127.0.0.1.
        snapshot: the whole summary, as in `health`.

    Raises:
        ConfigError: the extra is not installed, or the port is taken.
    """

    def __init__(self, port: int, snapshot: Callable[[], dict[str, Any]]) -> None:
        try:
            from prometheus_client import CollectorRegistry, start_http_server
        except ImportError as error:
            raise ConfigError("health.prometheus_port needs the extra: pip install 'edgebeat[metrics]'") from error
        self._snapshot = snapshot
        registry = CollectorRegistry()
        registry.register(self)
        try:
            self._server, self._thread = start_http_server(port, ADDRESS, registry)
        except OSError as error:
            raise ConfigError(f"health.prometheus_port: {ADDRESS}:{port}: {error.strerror}") from error
        self.port = int(self._server.server_address[1])

    def collect(self) -> Iterator[Any]:
        """Return the metrics; the registry calls it for each scrape, and once at registration (`describe`)."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        summary = self._snapshot()
        for name, kind, text, labels, values in families(summary):
            family = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
            metric = family(f"edgebeat_{name}", text, labels=labels)
            for key, value in values:
                metric.add_metric(key, value)
            yield metric

    def describe(self) -> list[Any]:
        """Return nothing: the figures exist once the agent runs."""
        return []

    def stop(self) -> None:
        """End the server."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


Family = tuple[str, str, str, list[str], list[tuple[list[str], float]]]


def families(summary: dict[str, Any]) -> Iterable[Family]:
    """Return name, type, text, labels and values of each metric of a summary."""
    streams, delivery, process = summary["streams"], summary["delivery"], summary["process"]
    frames = [
        ([name, outcome], float(count))
        for name, stream in streams.items()
        for outcome, count in stream["ledger"].items()
        if outcome not in ("captured", "in_flight")
    ]
    yield "frames", "counter", "Frames by outcome.", ["stream", "outcome"], frames
    captured = [([name], float(stream["ledger"]["captured"])) for name, stream in streams.items()]
    yield "frames_captured", "counter", "Frames that a source gave.", ["stream"], captured
    ages = [
        ([name, quantile], float(value))
        for name, stream in streams.items()
        for quantile, value in stream["age_ms"].items()
        if value is not None
    ]
    text = "Age of fresh results when they were sent, since the start."
    yield "result_age_milliseconds", "gauge", text, ["stream", "quantile"], ages
    classes = delivery["classes"].items()
    acknowledged = [([kind], float(figures["acknowledged"])) for kind, figures in classes]
    yield "messages_acknowledged", "counter", "Messages that arrived.", ["kind"], acknowledged
    emitted = [([kind], float(figures["emitted"])) for kind, figures in classes]
    yield "messages_emitted", "counter", "Messages accepted, or left by an earlier run.", ["kind"], emitted
    dropped = [
        ([kind, cause], float(count)) for kind, figures in classes for cause, count in figures["dropped"].items()
    ]
    yield "messages_dropped", "counter", "Messages given up.", ["kind", "cause"], dropped
    places = ("queued", "in_flight", "spooled")
    held = [([kind, place], float(figures[place])) for kind, figures in classes for place in places]
    yield "messages_held", "gauge", "Messages that have not come to an end.", ["kind", "place"], held
    yield "broker_connected", "gauge", "1 while the broker is connected.", [], [([], float(delivery["connected"]))]
    yield "resident_memory_megabytes", "gauge", "Of the agent.", [], [([], float(process["rss_mb"]))]
    yield "cpu_seconds", "counter", "Of the agent, user and system.", [], [([], float(process["cpu_s"]))]
    yield "uptime_seconds", "gauge", "Since the start.", [], [([], float(summary["uptime_s"]))]
