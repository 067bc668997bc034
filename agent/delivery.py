"""Builds delivery from the settings: the loop that sends, its sink and spool, and metrics where somebody asks."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from agent.clock import NS_PER_S, Clock
from agent.core.backoff import Backoff
from agent.core.envelope import Encoding
from agent.core.message import KEPT_KINDS
from agent.core.outbox import Outbox
from agent.core.spool_policy import SpoolLimits
from agent.errors import ConfigError
from agent.interfaces import Sink, Spool
from agent.loops.egress import EgressLoop, Hear, Keeping, RecordSent
from agent.settings import Settings
from agent.sinks.embedded import EmbeddedBroker
from agent.sinks.stdout import StdoutSink
from agent.spool.sqlite import SqliteSpool
from agent.wake import Wake

log = logging.getLogger(__name__)


def build_keeping(settings: Settings) -> Keeping:
    """Return what is kept of messages that wait; nothing is opened yet."""
    limits = SpoolLimits(settings.spool.max_mb << 20, int(settings.spool.max_hours * 3600 * NS_PER_S))
    return Keeping(_build_spool(settings, limits), limits, settings.spool.replay_per_s)


def build_encodings(settings: Settings) -> Mapping[str, Encoding]:
    """Return how the kinds that are not JSON go out: what programs store may be CBOR, never what people read.

    Raises:
        ConfigError: the extra is not installed.
    """
    if settings.mqtt.payload == "json":
        return {}
    try:
        from agent.core.cbor import CBOR  # An extra; 10 ms and 1.4 MB where somebody asks.
    except ImportError as error:
        raise ConfigError("mqtt.payload: 'cbor' needs the extra: pip install 'edgebeat[cbor]'") from error
    return dict.fromkeys(KEPT_KINDS, CBOR)


def _build_spool(settings: Settings, limits: SpoolLimits) -> Spool | None:
    folder = settings.state.dir
    is_named = "dir" in settings.state.model_fields_set
    if not limits.bytes_max:
        return None
    if not is_named and not folder.is_dir():
        # A trial at a desk has no such folder; a service does, and there it is worth a word.
        log.info("spool: %s does not exist: messages wait in memory only", folder)
        return None
    return SqliteSpool(folder, KEPT_KINDS, is_made=is_named, bytes_max=limits.bytes_max)


def build_egress(
    settings: Settings,
    topics: tuple[Sequence[str], Sequence[str]] | None,
    *,
    boot: str,
    version: str,
    embedded: EmbeddedBroker | None,
    record_sent: RecordSent,
    hear: Hear,
    clock: Clock,
) -> EgressLoop:
    """Return the loop that sends.

    Args:
        settings: valid.
        topics: to hear at the broker, those that it must and those that it may refuse; None for standard output.
        boot: identifies this run.
        version: of Edgebeat.
        embedded: the broker of this process, where `mqtt.url` asks for it.
        record_sent: see `EgressLoop`.
        hear: see `EgressLoop`.
        clock: the agent's.
    """
    wake = Wake()
    is_broker = topics is not None
    return EgressLoop(
        sink=StdoutSink() if topics is None else _build_sink(settings, topics, boot, version, embedded, clock, wake),
        outbox=Outbox(settings.mqtt.queue_messages),
        clock=clock,
        boot=boot,
        wake=wake,
        record_sent=record_sent,
        waits_for_room=not is_broker,
        keeping=build_keeping(settings) if is_broker else Keeping(),
        hear=hear,
        encodings=build_encodings(settings) if is_broker else {},
    )


def _build_sink(
    settings: Settings,
    topics: tuple[Sequence[str], Sequence[str]],
    boot: str,
    version: str,
    embedded: EmbeddedBroker | None,
    clock: Clock,
    wake: Wake,
) -> Sink:
    from agent.sinks.mqtt import MqttSink  # paho takes 9 MiB; not needed for standard output.

    mqtt = settings.mqtt
    if embedded is not None:
        mqtt = mqtt.model_copy(update={"url": embedded.url(mqtt.protocol)})
        log.info("embedded broker: %s", mqtt.url)
    return MqttSink(
        mqtt,
        device=settings.device.id,
        boot=boot,
        version=version,
        clock=clock,
        wake=wake,
        backoff=Backoff(cap_ns=int(mqtt.reconnect_max_s * NS_PER_S)),
        subscriptions=topics[0],
        optional_subscriptions=topics[1],
    )


@contextlib.contextmanager
def metrics_server(port: int, snapshot: Callable[[], dict[str, Any]]) -> Iterator[None]:
    """Serve metrics on loopback for the length of the block.

    Raises:
        ConfigError: the extra is not installed, or the port is taken.
    """
    from agent.sinks.prometheus import MetricsServer  # An extra; nothing of it is loaded where nobody asks.

    server = MetricsServer(port, snapshot)
    try:
        yield
    finally:
        server.stop()
