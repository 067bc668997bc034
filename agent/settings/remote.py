"""Settings of what others see and ask of the device: pictures, captures and Home Assistant."""

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


class CaptureSettings(Section):
    """The last seconds of frames and results, kept in memory for the command `capture`."""

    seconds: Restart[float] = Field(default=0.0, ge=0.0, le=60.0)
    """How far back a capture reaches, 0 to 60 s; 0 keeps nothing. Five frames a second of each stream are kept as
    JPEG, for 10 to 150 ms of CPU a second. Default 0: off."""
    max_mb: Restart[int] = Field(default=16, ge=1, le=128)
    """What is kept in memory, and one capture on disk, MiB, 1 to 128. Default 16: a minute of one stream."""


class HomeAssistantSettings(Section):
    """The device in Home Assistant, by MQTT discovery (Home Assistant 2024.11 or newer)."""

    enabled: Restart[bool] = False
    """Whether the device announces itself; when it is turned off, it is taken away at the next start. Default
    false: it writes outside of the device's own topics."""
    prefix: LocalOnly[TopicPrefix] = "homeassistant"
    """Home Assistant's discovery prefix. Default: its own default."""
