"""The settings: every key with its unit, range and the reason for its default.

The text under each field is what `edgebeat check --schema` and docs/settings.md print. Loading, layers and
error texts are in `agent.cli.load`.
"""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

DEADLINE_MS_LIVE = 250.0
"""Default deadline in live mode: a person who watches calls 250 ms immediate."""


def _topic_level(value: str) -> str:
    if not re.fullmatch(r"[^\x00-\x20\x7f/+#$][^\x00-\x20\x7f/+#]*", value) or len(value.encode()) > 64:
        raise PydanticCustomError(
            "topic_level",
            "must be 1 to 64 bytes without spaces, control characters, '/', '+', '#' or a leading '$'",
        )
    return value


def _topic_prefix(value: str) -> str:
    levels = value.split("/")
    try:
        for level in levels:
            _topic_level(level)
    except PydanticCustomError:
        levels = []
    if not levels or len(value) > 128:
        raise PydanticCustomError(
            "topic_prefix",
            "must be topic levels joined by '/', such as 'edgebeat/v1', without wildcards or spaces, "
            "128 characters at most",
        )
    return value


def _broker_url(value: str) -> str:
    if value == "embedded":
        return value
    example = "write it as mqtt://host:1883, mqtts://host:8883, ws://host:80/mqtt, wss://..., or 'embedded'"
    try:
        parts = urlsplit(value)
        port_is_right = parts.port is None or 0 < parts.port < 65536
    except ValueError:
        raise PydanticCustomError("broker_url", "is not a URL: {example}", {"example": example}) from None
    if parts.scheme not in ("mqtt", "mqtts", "ws", "wss") or not port_is_right:
        raise PydanticCustomError("broker_url", "is not a broker's URL: {example}", {"example": example})
    if not re.fullmatch(r"[A-Za-z0-9.\-_:]{1,253}", parts.hostname or ""):
        raise PydanticCustomError("broker_url", "names no valid host: {example}", {"example": example})
    if parts.username or parts.password:
        raise PydanticCustomError("broker_url", "must not hold credentials: use mqtt.username and mqtt.password_file")
    return value


def _host_as_device_id() -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname().split(".")[0])[:64] or "device"


TopicLevel = Annotated[str, AfterValidator(_topic_level)]


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool_as_number(cls, value: Any, field: ValidationInfo) -> Any:
        """Refuse `threads = true`, which Python would take for 1."""
        annotation = cls.model_fields[field.field_name or ""].annotation
        if isinstance(value, bool) and bool not in (annotation, *get_args(annotation)):
            raise PydanticCustomError("bool_as_number", "is no true or false")
        return value


class DeviceSettings(_Section):
    """Who this device is."""

    id: TopicLevel = Field(default_factory=_host_as_device_id)
    """Name of the device in every topic, 1 to 64 bytes, one topic level. Default: the host's name."""


class MqttSettings(_Section):
    """The broker and what is held for it."""

    url: Annotated[str, AfterValidator(_broker_url)] = "mqtt://127.0.0.1:1883"
    """Broker: mqtt://, mqtts://, ws://, wss://, or `embedded`, which starts a broker on loopback (extra
    `demo`; for trials, not for a fleet). Default: a broker on this device."""
    topic_prefix: Annotated[str, AfterValidator(_topic_prefix)] = "edgebeat/v1"
    """First levels of every topic. Default: the product and the version of its contract."""
    protocol: Annotated[
        Literal["5", "3.1.1"], BeforeValidator(lambda value: str(value) if value in (5, "5") else value)
    ] = "5"
    """MQTT version, 5 or "3.1.1". Default 5: it tells why a broker refuses, and its limits."""
    username: str | None = None
    """User name at the broker. Default: none."""
    password_file: Path | None = None
    """File whose first line is the password; read again at each connection, so it may be changed in place."""
    ca_file: Path | None = None
    """PEM file of the authority that signed the broker's certificate. Default: the system's authorities."""
    cert_file: Path | None = None
    """PEM client certificate, read again at each connection. Needs `key_file`."""
    key_file: Path | None = None
    """PEM key of `cert_file`."""
    keepalive_s: int = Field(default=30, ge=5, le=3600)
    """Seconds between pings, 5 to 3600. Default 30: a silent peer is noticed within a minute; a dead TCP
    connection under load within 5 s by TCP_USER_TIMEOUT."""
    queue_messages: int = Field(default=2000, ge=10, le=20_000)
    """Messages held in memory while the broker is slow or away, 10 to 20,000; then the oldest is dropped and
    counted. Default 2000: about 2 MB, or 200 s of results at 10 a second."""
    in_flight_max: int = Field(default=64, ge=1, le=1000)
    """Messages sent and not yet acknowledged, 1 to 1000; the broker's ReceiveMaximum lowers it. Default 64:
    more than a round trip needs at 1,000 messages a second over 50 ms."""
    reconnect_max_s: float = Field(default=30.0, ge=1.0, le=600.0)
    """Longest wait between two attempts to connect, 1 to 600 s; waits double up to it with full jitter.
    Default 30: a fleet of hundreds does not press a broker that returns."""

    @model_validator(mode="after")
    def _pairs(self) -> MqttSettings:
        if (self.cert_file is None) != (self.key_file is None):
            raise PydanticCustomError("client_certificate", "cert_file and key_file go together: set both or none")
        return self


class LimitsSettings(_Section):
    """What the agent may take of the device."""

    threads: int | None = Field(default=None, ge=1, le=256)
    """Threads for inference, 1 to 256; never more than the CPUs that affinity and cgroup quota allow. Default:
    all of those."""
    memory_mb: int | None = Field(default=None, ge=64, le=1_048_576)
    """Resident memory that the agent may take, MiB, 64 to 1,048,576. Above it health reports `over_limit` and
    an event is sent. Default: none."""


class StateSettings(_Section):
    """Where the agent keeps what must survive a restart."""

    dir: Path = Path("/var/lib/edgebeat")
    """Folder for state. One that is named here is made; the default is used where it exists (the service's
    StateDirectory) and is no fault where it does not: messages then wait in memory only. One agent a folder."""


class SpoolSettings(_Section):
    """What waits on disk, in `state.dir`, while the broker is slow or away."""

    max_mb: int = Field(default=64, ge=0, le=65_536)
    """Size on disk, MiB, 0 to 65,536; then the oldest results are dropped and counted, and events when no result is
    left. SQLite's log takes up to 4 MiB more. 0 keeps everything in memory. Default 64: some 100,000 results, or 3
    hours at 10 a second."""
    max_hours: float = Field(default=72.0, gt=0, le=8760)
    """Age at which a result or an event is given up, hours, above 0 to 8760; the broker is told to forget it then
    too (MQTT 5). Default 72: a long weekend."""
    replay_per_s: int = Field(default=200, ge=1, le=10_000)
    """Old messages a second that follow a return of the broker, 1 to 10,000; fresh ones go first. Default 200: an
    hour at 10 a second in three minutes, without pressing the broker."""


class HealthSettings(_Section):
    """How often the agent reports on itself."""

    period_s: float = Field(default=30.0, ge=1.0, le=3600.0)
    """Seconds between two health messages, 1 to 3600. Default 30: 3 kB a minute a device."""
    prometheus_port: int | None = Field(default=None, ge=1, le=65_535)
    """Port on 127.0.0.1 where the same figures are Prometheus text (extra `metrics`). Default: none."""


class LogSettings(_Section):
    """What goes to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level that is written. Default `info`: transitions, never a line a frame."""
    format: Literal["text", "json"] = "text"
    """`text`, with levels that the journal understands when it reads them, or `json`, an object a line. Default
    `text`."""


class ModelSettings(_Section):
    """One model that streams may use."""

    name: TopicLevel
    """Name by which streams refer to it; required."""
    path: Path
    """A model folder with `model.toml`, or an .onnx file in such a folder; relative to the working folder."""


class StreamSettings(_Section):
    """One source, the model that looks at it, and how old its results may be."""

    name: TopicLevel
    """Name of the stream, one topic level; results go to `results/{name}`. Required."""
    source: str = Field(min_length=1, max_length=2048)
    """/dev/video0 (or a by-id path, or a number), rtsp://..., http://..., or a video file. Required."""
    model: str
    """Name of a model under `models`. Required."""
    mode: Literal["live", "every_frame"] = "live"
    """`live`: the clock paces, the newest frame wins. `every_frame`: every frame of a file is processed and the
    source waits. Default `live`: a device watches the present."""
    deadline_ms: float | None = Field(default=None, gt=0, le=600_000)
    """Age at which a result is worthless, ms, above 0 to 600,000. Default: 250 in live mode (what a person
    calls immediate), none in every_frame mode."""
    max_fps: float | None = Field(default=None, gt=0, le=1000)
    """Frames a second that are processed at most, above 0 to 1000; the others are counted as `skipped`.
    Default: every frame the model can take."""
    on_late: Literal["drop", "mark"] = "drop"
    """What becomes of a result after its deadline: `drop` it, or publish it with `"late": true`. Default
    `drop`: the promise."""
    queue_frames: int | None = Field(default=None, ge=1, le=64)
    """Frames that wait for the model, 1 to 64. Default: 1 in live mode (a newer frame replaces it), 4 in
    every_frame mode (the source then waits). More than 1 in live mode keeps their order and drops the oldest.
    A 1080p frame takes 6.2 MB."""
    repeat: bool = False
    """Start a video file again at its end. Default false: the stream ends with the file."""
    width: int | None = Field(default=None, ge=16, le=16_384)
    """Width to ask a camera for, pixels. Default: the camera's own."""
    height: int | None = Field(default=None, ge=16, le=16_384)
    """Height to ask a camera for, pixels. Default: the camera's own."""
    fps: float | None = Field(default=None, gt=0, le=1000)
    """Frame rate to ask a camera for, or at which a file is paced in live mode. Default: their own."""
    annotated_image: Path | None = None
    """JPEG file that shows the last prediction drawn on its frame, replaced at most once a second. Default:
    none."""

    @property
    def budget_ms(self) -> float | None:
        """The deadline in force, ms after capture; None for none."""
        if self.deadline_ms is None and self.mode == "live":
            return DEADLINE_MS_LIVE
        return self.deadline_ms


class Settings(BaseSettings):
    """Everything an agent is told."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        validate_default=True,
    )

    device: DeviceSettings = DeviceSettings()
    mqtt: MqttSettings = MqttSettings()
    limits: LimitsSettings = LimitsSettings()
    state: StateSettings = StateSettings()
    spool: SpoolSettings = SpoolSettings()
    health: HealthSettings = HealthSettings()
    log: LogSettings = LogSettings()
    models: tuple[ModelSettings, ...] = Field(default=(), max_length=16)
    """The models, at most 16."""
    streams: tuple[StreamSettings, ...] = Field(default=(), max_length=64)
    """The streams, at most 64."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take only what `agent.cli.load` merged.

        The library's own sources replace a list as a whole and do not tell where a value came from; ours reach
        into `streams.0` and keep every origin.
        """
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)


def reference_problems(values: dict[str, Any]) -> list[tuple[tuple[str | int, ...], str]]:
    """Return what is wrong between sections of unvalidated settings, as (path, text).

    It works on raw values so that one `check` reports these beside the errors of single fields.
    """
    problems: list[tuple[tuple[str | int, ...], str]] = []
    names: dict[str, list[Any]] = {"models": [], "streams": []}
    sections = {name: entries if isinstance(entries := values.get(name), list | tuple) else () for name in names}
    for section, seen in names.items():
        for index, entry in enumerate(sections[section]):
            name = entry.get("name") if isinstance(entry, dict) else None
            if name is not None and name in seen:
                problems.append(((section, index, "name"), f"{name!r} is used twice: give each its own name"))
            seen.append(name)
    for index, stream in enumerate(sections["streams"]):
        model = stream.get("model") if isinstance(stream, dict) else None
        if isinstance(model, str) and model not in names["models"]:
            known = ", ".join(repr(name) for name in names["models"] if name) or "none"
            problems.append((("streams", index, "model"), f"{model!r} is not under [[models]]: known are {known}"))
    if not values.get("streams"):
        problems.append((("streams",), "is empty: add a [[streams]] section with name, source and model"))
    return problems
