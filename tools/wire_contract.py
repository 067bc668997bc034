"""The wire contract as models: docs/schemas/*.json and docs/asyncapi.json are written from them.

python -m tools.wire_contract
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from agent import __version__
from agent.core.ledger import Outcome
from agent.core.message import SEND_ORDER, Drop

DOCS = Path(__file__).resolve().parent.parent / "docs"


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class _OpenBody(BaseModel):
    """More fields may come with any version; readers ignore what they do not know."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)


class Status(_Body):
    """Birth, goodbye and will."""

    state: Literal["online", "offline"]
    boot: str
    """Identifies a run of the agent."""
    reason: str
    version: str


class Mask(_Body):
    """Where something is: outlines, or run lengths on a grid."""

    polygons: list[list[float]] | None = None
    """Outer outlines, x1, y1, x2, y2, ... each, in pixels of the source frame."""
    counts: list[int] | None = None
    """Lengths of runs outside and inside in turn, beginning with outside, column by column (COCO's order)."""
    size: list[int] | None = Field(default=None, min_length=2, max_length=2)
    """Rows and columns of the grid that `counts` run over."""
    box: list[float] | None = Field(default=None, min_length=4, max_length=4)
    """x1, y1, x2, y2 of what the grid covers, in pixels of the source frame."""


class Keypoint(_Body):
    """One named point in pixels of the source frame."""

    name: str
    x: float
    y: float
    score: float


class Detection(_Body):
    """One found object."""

    label: str
    class_id: int
    score: float = Field(ge=0, le=1)
    box: list[float] = Field(min_length=4, max_length=4)
    """x1, y1, x2, y2 in pixels of the source frame."""
    box_normalized: list[float] | None = Field(default=None, min_length=4, max_length=4)
    """The same in shares of its width and height, where the model's options ask for it."""
    mask: Mask | None = None
    keypoints: list[Keypoint] | None = None
    track_id: int | None = Field(default=None, ge=1)
    """The same for the same thing as long as it is followed; absent without a tracker, and at first sight."""
    zones: list[str] | None = None
    """Names of the zones that it is in."""


class Classification(_Body):
    """One class of a picture."""

    label: str
    class_id: int
    score: float


class Segment(_Body):
    """Everything of one class in the frame."""

    label: str
    class_id: int
    share: float = Field(ge=0, le=1)
    """Its part of the frame's area."""
    mask: Mask | None = None


class Pose(_Body):
    """The keypoints of one body."""

    score: float
    """Their mean."""
    keypoints: list[Keypoint]


class Text(_Body):
    """One line that was read."""

    text: str
    score: float
    """The mean probability of its characters."""


class Measurement(_Body):
    """One number that the model estimates."""

    name: str
    value: float
    unit: str


class Anomaly(_Body):
    """How unlike the normal a frame is."""

    score: float
    threshold: float
    is_anomaly: bool


class TensorValues(_Body):
    """One raw output, row-major: `texts` of a text output, `values` of all others."""

    name: str
    shape: list[int]
    values: list[float] | None = None
    texts: list[str] | None = None


class LineCounts(_Body):
    """Crossings of a line since the start, by the side that they ended on."""

    left: int
    right: int


class SourceSize(_Body):
    """Size of the source frame in pixels."""

    width: int
    height: int


class SourceWindow(_Body):
    """Size of the window of a signal, with the context that the model sees again."""

    samples: int
    channels: int


class Result(_OpenBody):
    """One prediction."""

    id: str
    """`{boot}-{seq}`."""
    boot: str
    seq: int = Field(ge=1)
    """Counts all messages of a boot; with `boot` it identifies this one."""
    stream: str
    captured_at: str = Field(json_schema_extra={"format": "date-time"})
    age_ms: float = Field(ge=0)
    """From capture to the moment of sending."""
    frame: int
    deadline_ms: float | None = None
    model: str
    model_version: str
    variant: str
    """`full`, or the lighter variant of the model that runs now."""
    task: str
    source: SourceSize | SourceWindow
    replay: Literal[True] | None = None
    """Present when it could not be sent in time."""
    late: Literal[True] | None = None
    """Present when inference ended after the deadline, on a stream with `on_late = "mark"`."""
    detections: list[Detection] | None = None
    classes: list[Classification] | None = None
    segments: list[Segment] | None = None
    poses: list[Pose] | None = None
    texts: list[Text] | None = None
    embeddings: list[TensorValues] | None = None
    measurements: list[Measurement] | None = None
    anomaly: Anomaly | None = None
    values: list[TensorValues] | None = None
    zones: dict[str, int] | None = None
    """Detections in each zone of the stream."""
    lines: dict[str, LineCounts] | None = None


class Event(_OpenBody):
    """A transition; further fields by type."""

    event: str
    """The last level of the topic."""
    boot: str
    seq: int = Field(ge=1)
    at: str = Field(json_schema_extra={"format": "date-time"})
    replay: Literal[True] | None = None


class Log(_Body):
    """A warning or an error of the agent."""

    boot: str
    seq: int = Field(ge=1)
    at: str = Field(json_schema_extra={"format": "date-time"})
    level: Literal["warning", "error", "critical"]
    logger: str
    thread: str
    message: str = Field(max_length=1000)
    suppressed: int | None = None
    """Records that were left out before this one."""
    replay: Literal[True] | None = None


class Response(_OpenBody):
    """The answer to a command; further fields by command."""

    id: str
    """Of the command; in MQTT 5 without an `id` in its body, the CorrelationData in hexadecimal."""
    command: str
    state: Literal["ok", "error"]
    code: str | None = None
    """Of an error, one word for programs."""
    message: str | None = None
    """Of an error, for people."""
    repeated: Literal[True] | None = None
    """The id was answered before: this is that answer, and nothing was done."""
    boot: str
    seq: int = Field(ge=1)
    at: str = Field(json_schema_extra={"format": "date-time"})


class Command(_OpenBody):
    """A request; further fields by command, as docs/mqtt.md lists them."""

    id: str | None = Field(default=None, min_length=1, max_length=64)
    """The client's own; needed where the message has no CorrelationData (MQTT 5)."""
    reply: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_.:@=-]{1,64}$")
    """The client, for an answer on `responses/{client}`, where the message has no ResponseTopic (MQTT 5)."""


class Quantiles(_Body):
    """Milliseconds since the start; null where nothing was recorded."""

    p50: float | None
    p95: float | None
    p99: float | None
    max: float | None


_counts: dict[str, Any] = {str(name): (int, ...) for name in ("captured", *Outcome, "in_flight")}
Ledger = create_model("Ledger", __base__=_OpenBody, __doc__="`captured` is the sum of the others.", **_counts)
_causes: dict[str, Any] = {str(cause): (int, ...) for cause in Drop}
Dropped = create_model("Dropped", __base__=_OpenBody, __doc__="Messages given up, by cause.", **_causes)


class Stream(_OpenBody):
    """One stream's figures."""

    ledger: Ledger
    age_ms: Quantiles


class MessageClass(_OpenBody):
    """The ledger of one kind of message."""

    emitted: int
    acknowledged: int
    queued: int
    in_flight: int
    spooled: int
    carried: int
    recovered: int
    replayed: int
    dropped: dict[str, int]


class Delivery(_OpenBody):
    """emitted = acknowledged + queued + in_flight + spooled + carried + all of dropped."""

    emitted: int
    acknowledged: int
    queued: int
    in_flight: int
    spooled: int
    carried: int
    """Handed in memory to the run that replaces this one."""
    recovered: int
    """Of those emitted, what an earlier run left on disk."""
    replayed: int
    dropped: Dropped
    classes: dict[Literal[SEND_ORDER], MessageClass]  # type: ignore[valid-type]
    is_exact: bool
    connected: bool


class Model(_OpenBody):
    """One model: what runs of it, or why it does not run."""

    variant: str | None = None
    """In use, of `variants`."""
    abort_overshoot_ms: dict[str, float | int | None] | None = None
    """From the deadline to the end of runs that were told to stop: p50, p95, p99, max and their count."""
    marked: dict[str, int | str] | None = None
    """It hung too often and is not loaded."""
    failed: list[str] | None = None
    """It could not be loaded again after a hang."""


class Degradation(_OpenBody):
    """What the device does less than it was asked for, and the readings that it is judged by."""

    level: int
    levels: int
    steps: list[dict[str, str | float]]
    misses: dict[str, float]
    """Share of frames that missed their deadline of late, by model."""
    temperature_c: float | None
    frequency_ratio: float | None
    cpu_pressure: float | None
    memory_pressure: float | None
    memory_ratio: float | None


class Control(_OpenBody):
    """What the broker asked of the device."""

    received: int
    waiting: int
    dropped: dict[str, int]
    """By cause."""


class Threads(_OpenBody):
    """Threads for inference: asked for, in force, and of one model."""

    asked: int | None
    in_force: int
    a_session: int


class Cores(_OpenBody):
    """CPUs: as asked for, and where the threads run."""

    asked: str | list[int]
    inference: list[int]
    others: list[int]


class Providers(_OpenBody):
    """What runs the models."""

    asked: list[str]
    absent: list[str]
    """Asked for, and not in this build of ONNX Runtime."""
    left_out: dict[str, dict[str, str]]
    """By model, the providers that do not work for it, each with the reason."""
    in_force: dict[str, list[str]]
    """By model, ONNX Runtime's names."""
    devices: list[dict[str, int]]
    """Used and total memory of each GPU, MiB."""


class TunedFor(_OpenBody):
    """When it was tuned, and for what."""

    at: str
    fps: float
    deadline_ms: float


class Session(_OpenBody):
    """How a model is run."""

    threads: int
    spinning: bool
    arena: bool
    first_variant: str
    """The heaviest that is loaded."""
    tuned: TunedFor | None
    """Null where nothing of it was tuned."""


class Engine(_OpenBody):
    """What the models were given of the device, as asked for and in force."""

    threads: Threads
    cores: Cores
    providers: Providers
    memory: dict[str, Any]
    """The limit and who set it, what each network takes, and the variants that are not loaded now; MiB."""
    cache: dict[str, float] | None
    """Compiled networks on disk; null where none are kept."""
    sessions: dict[str, Session]
    """By model."""


class RemoteSettings(_OpenBody):
    """Where the settings from afar stand, in short; `settings/reported` has all of it."""

    version: int = Field(ge=0)
    """Of the document in force; 0 for the settings of the device alone."""
    seen_version: int = Field(ge=0)
    """Of the last document that came."""
    state: Literal["applied", "restart_required", "rolled_back"]
    is_proving: bool
    """Whether what is in force is on probation now."""
    starts: int = Field(ge=0)
    """Runs since the last one that lived for the time of a probation."""


class Updates(_OpenBody):
    """The releases of one model; `model/state` tells what becomes of the last one."""

    seq: int = Field(ge=0)
    """The highest that was ever committed here: what comes must be above it."""
    serving: str
    """The release that serves, `{model}-{seq}-{digest}`; `settings` for the folder that the settings name."""
    on_trial: bool
    """Whether it is on probation now."""


class Health(_OpenBody):
    """Every figure of the agent."""

    stale_after_s: float
    """Without a new health message for so long, the device is ill."""
    boot: str
    seq: int = Field(ge=1)
    at: str = Field(json_schema_extra={"format": "date-time"})
    device: str
    uptime_s: float
    restarts: int
    """How often the agent replaced itself because an inference hung."""
    streams: dict[str, Stream]
    models: dict[str, Model]
    control: Control
    settings: RemoteSettings
    updates: dict[str, Updates]
    """By model, of those that ever had a release."""
    engine: Engine
    degradation: Degradation
    delivery: Delivery


class FieldProblem(_Body):
    """What is wrong with one value."""

    code: str
    """For programs; docs/remote.md lists them."""
    message: str
    got: str
    """The value as JSON, cut; empty where there is none."""


class RolledBack(_Body):
    """A document that was given up."""

    version: int
    check: Literal["streams", "on_time", "memory", "broker", "starts", "cannot_start", "not_kept", "operator"]
    figures: dict[str, Any]


class FileGivenUp(_Body):
    """The device's settings file, where it was read again and given up; what was before it is in force."""

    file: str
    check: Literal["streams", "on_time", "memory", "broker", "starts", "cannot_start", "not_kept", "operator", "hung"]
    figures: dict[str, Any]


class Reported(_OpenBody):
    """The settings in force, and what became of the document that was asked for."""

    boot: str
    seq: int = Field(ge=1)
    at: str = Field(json_schema_extra={"format": "date-time"})
    version: int = Field(ge=0)
    """Of the document in force; 0 for the settings of the device alone."""
    seen_version: int = Field(ge=0)
    """Of the last document that came."""
    state: Literal["applied", "rejected", "stale", "restart_required", "rolled_back"]
    proven: bool
    """Whether what is in force has passed its probation."""
    probation_s: float | None = None
    """What is left of it."""
    errors: dict[str, FieldProblem]
    """Of the last document, by path from its root; empty for the whole."""
    values: dict[str, dict[str, Any]]
    """Every value that may be changed from afar, as it is in force; streams and models by name."""
    accepted: dict[str, dict[str, Any]]
    """The values of the document in force, passwords in URLs replaced by `***`."""
    overridden: dict[str, str]
    """Accepted values that have no effect, and what on the device overrides them."""
    restart: list[str]
    """Accepted values that are in force from the next start on."""
    rolled_back: RolledBack | None = None
    file_given_up: FileGivenUp | None = None
    """Present until the file says something else, or is read again."""


class SignedRelease(_Body):
    """A signed manifest: Ed25519 over the raw payload."""

    payload: str
    """Base64 of the JSON that names the model, `seq` and every file."""
    keyid: str
    sig: str
    """Base64."""


class Desired(_Body):
    """What an operator asks for: a whole document, all of it or nothing."""

    schema_: Literal[1] = Field(alias="schema")
    version: int = Field(ge=1, le=2**53 - 1)
    """Above all that were accepted before."""
    values: dict[str, dict[str, Any]]
    """Settings by section, streams and models by name; `edgebeat settings schema` prints them."""
    model: SignedRelease | None = None
    """A release of a model (docs/updates.md)."""


class ModelState(_OpenBody):
    """What becomes of the last release of a model."""

    boot: str
    at: str = Field(json_schema_extra={"format": "date-time"})
    name: str
    """Of the model."""
    seq: int = Field(ge=1)
    """Of the release, not of this message."""
    phase: Literal[
        "downloading",
        "verifying",
        "qualifying",
        "canary",
        "probation",
        "committed",
        "rejected",
        "rolled_back",
    ]
    progress: float | None = Field(default=None, ge=0, le=1)
    """Share of the bytes that are there."""
    code: str = ""
    reason: str = ""
    figures: dict[str, Any] = {}
    """From the trial and the canary."""


MAY_BE_CBOR = ("result", "event")
"""With `mqtt.payload = "cbor"`; the schema is that of the decoded object."""

CHANNELS: dict[str, tuple[str, type[BaseModel], bool, int]] = {
    "status": ("status", Status, True, 1),
    "result": ("results/{stream}", Result, False, 1),
    "event": ("events/{type}", Event, False, 1),
    "health": ("health", Health, True, 0),
    "log": ("log", Log, False, 0),
    "command": ("commands/{name}", Command, False, 1),
    "response": ("responses/{client}", Response, False, 1),
    "reported": ("settings/reported", Reported, True, 1),
    "desired": ("settings/desired", Desired, True, 1),
    "state": ("model/state", ModelState, True, 1),
}
"""Name: topic below `{prefix}/{device}/`, body, retained, QoS."""

RECEIVED = frozenset({"command", "desired"})
"""Channels that the agent listens to; it sends on the others."""

_PARAMETERS = {
    "prefix": "mqtt.topic_prefix, by default `edgebeat/v1`",
    "device": "device.id",
    "stream": "the stream's name",
    "client": "who asked",
    "name": "of the command, such as `ping`",
    "type": "what happened, such as `source_lost`",
}


def schema(name: str) -> dict[str, Any]:
    """Return one body's JSON Schema, in the dialect that pydantic writes."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **CHANNELS[name][1].model_json_schema()}


def _forms(name: str) -> dict[str, str]:
    """Return the forms in which a body goes out, and their content types."""
    forms = {name: "application/json"}
    return {**forms, f"{name}_cbor": "application/cbor"} if name in MAY_BE_CBOR else forms


def asyncapi() -> dict[str, Any]:
    """Return the AsyncAPI 3 document; it refers to the schemas beside it."""
    channels, operations, messages = {}, {}, {}
    for name, (topic, body, is_retained, qos) in CHANNELS.items():
        address = f"{{prefix}}/{{device}}/{topic}"
        channels[name] = {
            "address": address,
            "messages": {key: {"$ref": f"#/components/messages/{key}"} for key in _forms(name)},
            "parameters": {
                key: {"description": text} for key, text in _PARAMETERS.items() if f"{{{key}}}" in address
            },
        }
        action = "receive" if name in RECEIVED else "send"
        operations[f"{action}_{name}"] = {
            "action": action,
            "channel": {"$ref": f"#/channels/{name}"},
            "bindings": {"mqtt": {"qos": qos, "retain": is_retained, "bindingVersion": "0.2.0"}},
        }
        for key, content_type in _forms(name).items():
            messages[key] = {
                "summary": (body.__doc__ or "").strip(),
                "contentType": content_type,
                "payload": {
                    "schemaFormat": "application/schema+json;version=2020-12",
                    "schema": {"$ref": f"schemas/{name}.json"},
                },
            }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Edgebeat",
            "version": __version__,
            "description": "What an agent sends and hears. docs/mqtt.md explains it.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages},
    }


def pages() -> dict[Path, str]:
    """Return every file and its text."""
    texts = {DOCS / "schemas" / f"{name}.json": schema(name) for name in CHANNELS}
    texts[DOCS / "asyncapi.json"] = asyncapi()
    return {path: json.dumps(value, indent=2) + "\n" for path, value in texts.items()}


def main() -> None:
    """Write them."""
    for path, text in pages().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main()
