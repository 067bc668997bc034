"""Builds what delivery needs of the settings: the spool and its limits, and the metrics where they are asked for."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from agent.clock import NS_PER_S
from agent.core.envelope import Encoding
from agent.core.message import KEPT_KINDS
from agent.core.spool_policy import SpoolLimits
from agent.errors import ConfigError
from agent.interfaces import Spool
from agent.loops.egress import Keeping
from agent.settings import Settings
from agent.spool.sqlite import SqliteSpool

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
