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
    hang_s: float = Field(default=10.0, ge=1.0, le=600.0)
    """Seconds after its deadline (or its start, where it has none) at which an inference that ignores its abort
    counts as hung, 1 to 600, and never below ten times its warm-up run; the agent then restarts itself. Default 10:
    a machine that stalls for seconds comes back by itself."""
    lock_memory: bool = False
    """Keep the loaded models in memory (mlockall), so that an idle model is not paged out. Needs RLIMIT_MEMLOCK or
    CAP_IPC_LOCK; health says whether it holds. Default false: it takes memory from everything else."""


class SchedulerSettings(_Section):
    """Which frame runs next, and which is refused."""

    confidence: float = Field(default=0.9, gt=0.0, le=1.0)
    """Share of the recent runs whose service time a frame must have left, above 0 to 1; on a machine where even a
    fresh frame may miss, the share of what a fresh frame has. Default 0.9: of 0.3 to 0.9 it published most in
    simulation (docs/benchmarks.md)."""
    window_s: float = Field(default=2.0, ge=0.1, le=60.0)
    """How long a service time is remembered, 0.1 to 60 s. Default 2: a change of the clock frequency is learnt in
    that time."""
    probe_share: float = Field(default=0.2, gt=0.0, le=1.0)
    """Share of the time that runs may take which nobody expects to end in time, above 0 to 1; they find out when
    there is hope again. Default 0.2: learns soon, and leaves most to the other streams."""
    probe_interval_s: float = Field(default=0.5, ge=0.1, le=60.0)
    """Longest time between two such runs, 0.1 to 60 s. Default 0.5: a stream is back half a second after a slow
    spell; a model that cannot make a deadline of 250 ms is then tried for a third of the time."""
    min_share: float = Field(default=0.2, gt=0.0, le=1.0)
    """Share of the inference time that is divided evenly among waiting streams whatever their priority, above 0 to
    1. Default 0.2: high priority means most of the machine, and nobody starves."""


class DegradationSettings(_Section):
    """When the agent does less, and in which order."""

    steps: tuple[Literal["stride", "variant", "stream"], ...] = ("stride", "variant", "stream")
    """What may be done, in this order: `stride` (every second, then every third frame of live streams), `variant`
    (the lighter variants of the models, see docs/models.md), `stream` (pause streams whose priority is below the
    highest, lowest first). Empty: nothing. Default: all."""
    misses_max: float = Field(default=0.3, gt=0.0, le=1.0)
    """Share of a model's frames that may miss their deadline, above 0 to 1. Default 0.3: a third of the work in
    vain. A frame that a newer one replaces is no miss."""
    temperature_c_max: float | None = Field(default=None, ge=20.0, le=130.0)
    """Degrees Celsius of a thermal zone, 20 to 130. Default: each zone's own limit, or 80 where it states none."""
    frequency_ratio_min: float = Field(default=0.7, gt=0.0, le=1.0)
    """Highest clock frequency that the kernel allows, of the highest there is, above 0 to 1. Default 0.7: below it
    the kernel is cooling the device."""
    cpu_pressure_max: float = Field(default=90.0, gt=0.0, le=100.0)
    """Percent of 10 s in which a task waited for a CPU (PSI), above 0 to 100. Default 90: inference that uses every
    CPU it was given makes 50 by itself."""
    memory_pressure_max: float = Field(default=20.0, gt=0.0, le=100.0)
    """Percent of 10 s in which a task waited for memory (PSI), above 0 to 100. Default 20: far above any noise."""
    worse_after_s: float = Field(default=3.0, ge=1.0, le=600.0)
    """How long something must be bad before a step is taken, and between two steps, 1 to 600 s. Default 3: a hiccup
    is no reason."""
    better_after_s: float = Field(default=20.0, ge=1.0, le=3600.0)
    """How long everything must be good before a step is taken back, 1 to 3600 s; doubled, up to 10 minutes, each time
    it had to be taken again at once. Default 20: heat sinks are slow."""


class StateSettings(_Section):
    """Where the agent keeps what must survive a restart."""

    dir: Path = Path("/var/lib/edgebeat")
    """Folder for state. One that is named here is made; the default is used where it exists (the service's
    StateDirectory) and is no fault where it does not: messages then wait in memory only, and the marks of models
    that hung last until the agent ends. One agent a folder."""


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
    keep_warm_s: float | None = Field(default=None, ge=0.1, le=3600.0)
    """After so many seconds without a frame the model runs once on its golden sample, 0.1 to 3600, and again after
    the same time, so that the next frame finds caches, pages and clock as it needs them. Default: never; an idle
    device saves power."""


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
    stride: int = Field(default=1, ge=1, le=1000)
    """Of the captured frames, every n-th is processed, 1 to 1000; the others are counted as `skipped`. Default 1:
    every frame."""
    priority: int = Field(default=5, ge=0, le=9)
    """0 to 9: when there is too much to do, higher goes first, down to `scheduler.min_share` for the others; the
    lowest are paused first when the device is in need. Default 5: all alike."""
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
    scheduler: SchedulerSettings = SchedulerSettings()
    degradation: DegradationSettings = DegradationSettings()
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
