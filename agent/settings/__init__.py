"""The settings: every key with its unit, range and the reason for its default.

The text under each field is what `edgebeat check --schema` and docs/settings.md print. Loading, layers and
error texts are in `agent.layers`.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from agent.settings.delivery import (
    DeviceSettings,
    HealthSettings,
    LogSettings,
    MqttSettings,
    SpoolSettings,
    StateSettings,
)
from agent.settings.engine import EngineSettings
from agent.settings.limits import DegradationSettings, LimitsSettings, SchedulerSettings
from agent.settings.probation import RemoteSettings
from agent.settings.remote import CaptureSettings, HomeAssistantSettings, ImageSettings
from agent.settings.samples import SamplesSettings
from agent.settings.streams import DEADLINE_MS_LIVE, ModelSettings, StreamSettings
from agent.settings.updates import UpdatesSettings

__all__ = [
    "DEADLINE_MS_LIVE",
    "CaptureSettings",
    "DegradationSettings",
    "DeviceSettings",
    "EngineSettings",
    "HealthSettings",
    "HomeAssistantSettings",
    "ImageSettings",
    "LimitsSettings",
    "LogSettings",
    "ModelSettings",
    "MqttSettings",
    "RemoteSettings",
    "SamplesSettings",
    "SchedulerSettings",
    "Settings",
    "SpoolSettings",
    "StateSettings",
    "StreamSettings",
    "reference_problems",
]


class Settings(BaseModel):
    """Everything an agent is told."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
    )

    device: DeviceSettings = DeviceSettings()
    mqtt: MqttSettings = MqttSettings()
    limits: LimitsSettings = LimitsSettings()
    engine: EngineSettings = EngineSettings()
    scheduler: SchedulerSettings = SchedulerSettings()
    degradation: DegradationSettings = DegradationSettings()
    state: StateSettings = StateSettings()
    spool: SpoolSettings = SpoolSettings()
    health: HealthSettings = HealthSettings()
    log: LogSettings = LogSettings()
    images: ImageSettings = ImageSettings()
    capture: CaptureSettings = CaptureSettings()
    home_assistant: HomeAssistantSettings = HomeAssistantSettings()
    remote: RemoteSettings = RemoteSettings()
    models: tuple[ModelSettings, ...] = Field(default=(), max_length=16)
    """The models, at most 16."""
    updates: UpdatesSettings = UpdatesSettings()
    streams: tuple[StreamSettings, ...] = Field(default=(), max_length=64)
    """The streams, at most 64."""


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
