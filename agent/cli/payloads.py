"""What a viewer reads of the messages below a prefix. Anybody may have sent them, so nothing is believed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PAYLOAD_BYTES_MAX = 1 << 20
"""A payload above this is not parsed. A result takes 1 kB, health 5 kB; 1 MiB parses in 10 ms."""
CBOR_FIRST_BYTES = range(0xA0, 0xC0)
"""Of a map in CBOR; no JSON begins so."""
TEXT_CHARS_MAX = 120
"""A reason or a label is cut here, so that no device can fill the screen or the memory."""
LABELS_SHOWN = 3
NOTHING = "nothing found"


class UnreadableError(ValueError):
    """A payload is not what its topic promises."""


@dataclass(frozen=True, slots=True)
class Status:
    """A device came or went.

    Attributes:
        state: "online" or "offline".
        reason: why, as the device says it; empty where it says nothing.
        version: of Edgebeat on the device.
        boot: identifies the run; a new one means that the agent was started again.
    """

    state: str
    reason: str
    version: str
    boot: str


@dataclass(frozen=True, slots=True)
class Result:
    """One prediction.

    Attributes:
        age_ms: of its frame when the message was sent; None where the message does not say.
        is_replay: it was sent after its deadline because it had been accepted; it is history, not the present.
        is_late: it finished after its deadline and the stream asks for such results.
        labels: of everything found, the surest first.
        text: one line for people, such as "cat 0.91, person 0.66".
    """

    age_ms: float | None
    is_replay: bool
    is_late: bool
    labels: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Health:
    """What a device reports of itself; None for what it does not say.

    Attributes:
        rss_mb: resident memory, MiB.
        dropped: messages given up, of every cause.
        stale_after_s: after so many seconds without a word, something is wrong.
        steps: what it does less than it was asked for, such as "stride 2".
        marked: models that hung and are not loaded.
    """

    rss_mb: float | None
    dropped: int | None
    stale_after_s: float | None
    steps: tuple[str, ...] = ()
    marked: tuple[str, ...] = ()


def parse_json(payload: bytes) -> Any:
    """Return the value of a payload that is strict JSON in UTF-8.

    Raises:
        UnreadableError: it is not, or it is too large or too deep.
    """
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise UnreadableError(f"{len(payload)} bytes are more than {PAYLOAD_BYTES_MAX}")
    try:
        # Decoded first: given bytes, json.loads would guess at UTF-16 and UTF-32.
        return json.loads(payload.decode("utf-8"), parse_constant=_refuse_constant, parse_float=_finite_float)
    except RecursionError:
        raise UnreadableError("nested too deeply") from None
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are its children.
        raise UnreadableError(str(error)) from error


def parse_payload(payload: bytes) -> Any:
    """Return the value of a payload that is JSON or CBOR; the first byte tells which.

    Raises:
        UnreadableError: it is neither, or too large or too deep, or CBOR where the extra is not installed.
    """
    if not payload or payload[0] not in CBOR_FIRST_BYTES:
        return parse_json(payload)
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise UnreadableError(f"{len(payload)} bytes are more than {PAYLOAD_BYTES_MAX}")
    try:
        from agent.core.cbor import decode  # An extra.
    except ImportError:
        raise UnreadableError("CBOR, which needs the extra: pip install 'edgebeat[cbor]'") from None
    try:
        return decode(payload)
    except ValueError as error:
        raise UnreadableError(str(error)) from error


def parse_status(payload: bytes) -> Status:
    """Read `status`. Raises UnreadableError."""
    body = _parse_object(payload)
    state = body.get("state")
    if state not in ("online", "offline"):
        raise UnreadableError("state is neither online nor offline")
    return Status(str(state), _text(body, "reason"), _text(body, "version"), _text(body, "boot"))


def parse_result(payload: bytes) -> Result:
    """Read `results/{stream}`. Raises UnreadableError."""
    body = _parse_object(payload)
    found = _found(body)
    labels = tuple(label for label, _ in found)
    parts = [f"{label} {score:.2f}" for label, score in found[:LABELS_SHOWN]]
    if len(found) > LABELS_SHOWN:
        parts.append(f"+{len(found) - LABELS_SHOWN}")
    if not ("detections" in body or "classes" in body):
        parts = [f"a result of task {_text(body, 'task') or 'unknown'}"]
    return Result(
        age_ms=_number(body, "age_ms"),
        is_replay=_flag(body, "replay"),
        is_late=_flag(body, "late"),
        labels=labels,
        text=", ".join(parts) or NOTHING,
    )


def parse_health(payload: bytes) -> Health:
    """Read `health`. Raises UnreadableError."""
    body = _parse_object(payload)
    dropped = _mapping(_mapping(body, "delivery"), "dropped")
    counts = [_number(dropped, cause) for cause in dropped]
    return Health(
        rss_mb=_number(_mapping(body, "process"), "rss_mb"),
        dropped=int(sum(count or 0 for count in counts)) if counts else None,
        stale_after_s=_number(body, "stale_after_s"),
        steps=_steps(_mapping(body, "degradation")),
        marked=tuple(clean(name, 40) for name, model in _mapping(body, "models").items() if _is_marked(model)),
    )


def parse_event(payload: bytes) -> str:
    """Read `events/{type}` and return its figures as one line. Raises UnreadableError."""
    body = _parse_object(payload)
    envelope = {"boot", "seq", "at", "event"}
    return clean(
        ", ".join(f"{key} {value}" for key, value in body.items() if key not in envelope and _is_scalar(value))
    )


def clean(text: str, chars_max: int = TEXT_CHARS_MAX) -> str:
    """Return text that is safe on a terminal: no control characters, no lone surrogates, not too long."""
    cut = text if len(text) <= chars_max else text[: chars_max - 1] + "…"
    return "".join(char if char.isprintable() else "?" for char in cut)


def _parse_object(payload: bytes) -> Mapping[str, Any]:
    body = parse_payload(payload)
    if not isinstance(body, dict):
        raise UnreadableError("is no object")
    return body


def _found(body: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Return every label with its score, the surest first."""
    entries = body.get("detections", body.get("classes", []))
    if not isinstance(entries, list):
        raise UnreadableError("detections or classes is not a list")
    found = []
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("label"), str):
            raise UnreadableError("a detection without a label")
        score = _number(entry, "score")
        if score is None:
            raise UnreadableError("a detection without a score")
        found.append((clean(entry["label"], 40), score))
    return sorted(found, key=lambda pair: -pair[1])


def _steps(degradation: Mapping[str, Any]) -> tuple[str, ...]:
    steps = degradation.get("steps", [])
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise UnreadableError("steps is not a list of objects")
    return tuple(_text(step, "step") for step in steps)


def _is_marked(model: object) -> bool:
    return isinstance(model, dict) and ("marked" in model or "failed" in model)


def _mapping(body: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = body.get(key, {})
    if not isinstance(value, dict):
        raise UnreadableError(f"{key} is not an object")
    return value


def _number(body: Mapping[str, Any], key: str) -> float | None:
    value = body.get(key)
    if value is None:
        return None
    # An integer of 400 digits is valid JSON and no float.
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e15:
        raise UnreadableError(f"{key} is not a number of a sane size")
    return float(value)


def _flag(body: Mapping[str, Any], key: str) -> bool:
    value = body.get(key, False)
    if not isinstance(value, bool):
        raise UnreadableError(f"{key} is neither true nor false")
    return value


def _text(body: Mapping[str, Any], key: str) -> str:
    value = body.get(key, "")
    if not isinstance(value, str):
        raise UnreadableError(f"{key} is not text")
    return clean(value)


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, str | int | float)


def _refuse_constant(name: str) -> float:
    raise UnreadableError(f"{name} is not JSON")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise UnreadableError(f"{clean(text, 20)} is out of range")
    return value
