"""What an operator reads on `settings/reported` and `settings/desired`. Anybody may have sent it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.cli.payloads import UnreadableError, clean, parse_json

STATES = ("applied", "rejected", "stale", "restart_required", "rolled_back")
VERSION_MAX = 2**53 - 1
HIDDEN = "***@"
"""Stands in a report where user and password of a URL were."""


@dataclass(frozen=True, slots=True)
class Report:
    """One `settings/reported`.

    Attributes:
        body: all of it.
    """

    version: int
    seen_version: int
    state: str
    proven: bool
    probation_s: float
    body: Mapping[str, Any] = field(default_factory=dict)

    @property
    def accepted(self) -> dict[str, Any]:
        """The values of the document in force."""
        found = self.body.get("accepted")
        return found if isinstance(found, dict) else {}

    @property
    def values(self) -> dict[str, Any]:
        """Every value in force."""
        found = self.body.get("values")
        return found if isinstance(found, dict) else {}


def parse_report(payload: bytes) -> Report:
    """Read a report. Raises UnreadableError."""
    body = parse_json(payload)
    if not isinstance(body, dict) or body.get("state") not in STATES:
        raise UnreadableError("is no report of settings")
    left = body.get("probation_s", 0.0)
    return Report(
        version=_integer(body, "version"),
        seen_version=_integer(body, "seen_version"),
        state=str(body["state"]),
        proven=body.get("proven") is True,
        probation_s=float(left) if isinstance(left, int | float) and 0 <= left < 1e6 else 0.0,
        body=body,
    )


def parse_desired_version(payload: bytes) -> int:
    """Return the version of the document that lies at the broker; 0 where it cannot be read."""
    try:
        body = parse_json(payload)
        return _integer(body, "version") if isinstance(body, dict) else 0
    except UnreadableError:
        return 0


def problems(report: Report) -> list[str]:
    """Return one line for each error, or for what was taken back."""
    lines = []
    errors = report.body.get("errors")
    for path, error in errors.items() if isinstance(errors, dict) else ():
        if isinstance(error, dict):
            got = f", got {error.get('got')}" if error.get("got") else ""
            lines.append(clean(f"{path or 'document'}: {error.get('message')} ({error.get('code')}{got})", 400))
    taken_back, file = report.body.get("rolled_back"), report.body.get("file_given_up")
    if report.state == "rolled_back" and isinstance(taken_back, dict):
        lines.append(_failed(f"v{taken_back.get('version')}", taken_back))
    if isinstance(file, dict):
        lines.append(_failed(f"{file.get('file')} is not in use: it", file))
    return lines


def _failed(what: str, told: Mapping[str, Any]) -> str:
    figures = told.get("figures")
    text = ", ".join(f"{k} {v}" for k, v in figures.items()) if isinstance(figures, dict) else ""
    return clean(f"{what} failed the check {told.get('check')}: {text}", 400)


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested values with others laid over them."""
    result = dict(base)
    for key, value in changes.items():
        before = result.get(key)
        is_nested = isinstance(value, Mapping) and isinstance(before, Mapping)
        result[key] = merged(before, value) if is_nested else value  # type: ignore[arg-type]
    return result


def has_hidden(values: Any) -> bool:
    """Return whether a password was left out of values, so that they cannot be sent back as they are."""
    if isinstance(values, Mapping):
        return any(has_hidden(value) for value in values.values())
    return isinstance(values, str) and HIDDEN in values


def _integer(body: Mapping[str, Any], key: str) -> int:
    value = body.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= VERSION_MAX:
        raise UnreadableError(f"{key} is not a version")
    return value
