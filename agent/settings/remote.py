"""Settings of what others see and ask of the device: pictures and Home Assistant."""

from __future__ import annotations

from pydantic import Field

from agent.settings.fields import Section, TopicPrefix
from agent.settings.scope import LocalOnly, Restart


class ImageSettings(Section):
    """Pictures on `image/{stream}`, for whoever holds a watch lease (docs/mqtt.md)."""

    interval_s: Restart[float] = Field(default=1.0, ge=0.2, le=3600.0)
    """Least time between two pictures of a stream, 0.2 to 3600 s. Default 1: 2 to 30 ms of CPU, and 40 to 256 kB, a
    second for each stream that is watched."""
    max_kb: Restart[int] = Field(default=256, ge=8, le=256)
    """Largest picture, KiB, 8 to 256; quality and size are lowered until it fits. Default 256: what the contract
    allows."""
    on_find: LocalOnly[bool] = False
    """Also send a picture when a label is found that the result before did not have. It stays at the broker, for
    everybody who may read there. Default false: pictures leave the device only while somebody watches."""


class HomeAssistantSettings(Section):
    """The device in Home Assistant, by MQTT discovery (Home Assistant 2024.11 or newer)."""

    enabled: Restart[bool] = False
    """Whether the device announces itself; when it is turned off, it is taken away at the next start. Default
    false: it writes outside of the device's own topics."""
    prefix: LocalOnly[TopicPrefix] = "homeassistant"
    """Home Assistant's discovery prefix. Default: its own default."""
