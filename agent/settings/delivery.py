"""Settings of what leaves the device: identity, broker, spool, health, log, state folder."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from agent.settings.fields import BrokerUrl, ProtocolVersion, Section, TopicLevel, TopicPrefix
from agent.settings.scope import Live, LocalOnly, Restart


def _host_as_device_id() -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname().split(".")[0])[:64] or "device"


class DeviceSettings(Section):
    """Who this device is."""

    id: LocalOnly[TopicLevel] = Field(default_factory=_host_as_device_id)
    """Name of the device in every topic, 1 to 64 bytes, one topic level. Default: the host's name."""


class MqttSettings(Section):
    """The broker and what is held for it."""

    url: LocalOnly[BrokerUrl] = "mqtt://127.0.0.1:1883"
    """Broker: mqtt://, mqtts://, ws://, wss://, or `embedded`, which starts a broker on loopback (extra
    `demo`; for trials, not for a fleet). Default: a broker on this device."""
    topic_prefix: LocalOnly[TopicPrefix] = "edgebeat/v1"
    """First levels of every topic. Default: the product and the version of its contract."""
    protocol: LocalOnly[ProtocolVersion] = "5"
    """MQTT version, 5 or "3.1.1". Default 5: it tells why a broker refuses, and its limits."""
    payload: LocalOnly[Literal["json", "cbor"]] = "json"
    """Form of results and events: `json`, or `cbor` (RFC 8949, extra `cbor`), whose raw tensors are bytes (RFC 8746)
    of their own type. Everything else stays JSON: people and Home Assistant read it. Default `json`: any tool."""
    username: LocalOnly[str | None] = None
    """User name at the broker. Default: none."""
    password_file: LocalOnly[Path | None] = None
    """File whose first line is the password; read again at each connection, so it may be changed in place."""
    ca_file: LocalOnly[Path | None] = None
    """PEM file of the authority that signed the broker's certificate. Default: the system's authorities."""
    cert_file: LocalOnly[Path | None] = None
    """PEM client certificate, read again at each connection. Needs `key_file`."""
    key_file: LocalOnly[Path | None] = None
    """PEM key of `cert_file`."""
    keepalive_s: LocalOnly[int] = Field(default=30, ge=5, le=3600)
    """Seconds between pings, 5 to 3600. Default 30: a silent peer is noticed within a minute; a dead TCP
    connection under load within 5 s by TCP_USER_TIMEOUT."""
    queue_messages: LocalOnly[int] = Field(default=2000, ge=10, le=20_000)
    """Messages held in memory while the broker is slow or away, 10 to 20,000; then the oldest is dropped and
    counted. Default 2000: about 2 MB, or 200 s of results at 10 a second."""
    in_flight_max: LocalOnly[int] = Field(default=64, ge=1, le=1000)
    """Messages sent and not yet acknowledged, 1 to 1000; the broker's ReceiveMaximum lowers it. Default 64:
    more than a round trip needs at 1,000 messages a second over 50 ms."""
    reconnect_max_s: LocalOnly[float] = Field(default=30.0, ge=1.0, le=600.0)
    """Longest wait between two attempts to connect, 1 to 600 s; waits double up to it with full jitter.
    Default 30: a fleet of hundreds does not press a broker that returns."""

    @model_validator(mode="after")
    def _pairs(self) -> MqttSettings:
        if (self.cert_file is None) != (self.key_file is None):
            raise PydanticCustomError("client_certificate", "cert_file and key_file go together: set both or none")
        return self


class StateSettings(Section):
    """Where the agent keeps what must survive a restart."""

    dir: LocalOnly[Path] = Path("/var/lib/edgebeat")
    """Folder for state. One that is named here is made; the default is used where it exists (the service's
    StateDirectory) and is no fault where it does not: messages then wait in memory only, and the marks of models
    that hung last until the agent ends. One agent a folder."""


class SpoolSettings(Section):
    """What waits on disk, in `state.dir`, while the broker is slow or away."""

    max_mb: Restart[int] = Field(default=64, ge=0, le=65_536)
    """Size on disk, MiB, 0 to 65,536; then the oldest results are dropped and counted, and events when no result is
    left. SQLite's log takes up to 4 MiB more. 0 keeps everything in memory. Default 64: some 100,000 results, or 3
    hours at 10 a second."""
    max_hours: Restart[float] = Field(default=72.0, gt=0, le=8760)
    """Age at which a result or an event is given up, hours, above 0 to 8760; the broker is told to forget it then
    too (MQTT 5). Default 72: a long weekend."""
    replay_per_s: Restart[int] = Field(default=200, ge=1, le=10_000)
    """Old messages a second that follow a return of the broker, 1 to 10,000; fresh ones go first. Default 200: an
    hour at 10 a second in three minutes, without pressing the broker."""


class HealthSettings(Section):
    """How often the agent reports on itself."""

    period_s: Live[float] = Field(default=30.0, ge=1.0, le=3600.0)
    """Seconds between two health messages, 1 to 3600. Default 30: 3 kB a minute a device."""
    prometheus_port: LocalOnly[int | None] = Field(default=None, ge=1, le=65_535)
    """Port on 127.0.0.1 where the same figures are Prometheus text (extra `metrics`). Default: none."""


class LogSettings(Section):
    """What goes to standard error."""

    level: Live[Literal["debug", "info", "warning", "error"]] = "info"
    """Least level that is written. Default `info`: transitions, never a line a frame."""
    format: LocalOnly[Literal["text", "json"]] = "text"
    """`text`, with levels that the journal understands when it reads them, or `json`, an object a line. Default
    `text`."""
