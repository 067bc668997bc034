"""Settings of model updates: whom the device trusts, and what an update may take."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from agent.settings.fields import Section
from agent.settings.scope import LocalOnly


class UpdatesSettings(Section):
    """Models that arrive over the network (docs/updates.md)."""

    keys_file: LocalOnly[Path | None] = None
    """File with the public keys whose signature a manifest needs, a line of `name base64` each; others must not be
    able to write to it. Default: none, and no update is taken."""
    hosts: LocalOnly[tuple[str, ...]] = Field(default=(), max_length=16)
    """Names of the hosts that files may come from, at most 16. Default: none."""
    ca_file: LocalOnly[Path | None] = None
    """PEM file of the authority that signed these hosts' certificates. Default: the system's authorities."""
    max_mb: LocalOnly[int] = Field(default=512, ge=1, le=4096)
    """Size of one release, MiB, 1 to 4096. Default 512: far above any network that runs on such a device."""
    give_up_hours: LocalOnly[float] = Field(default=24.0, gt=0.0, le=720.0)
    """How long a download is tried while the server or the network is away, hours, above 0 to 720. Default 24: a day
    at a mobile link."""
    qualification_s: LocalOnly[float] = Field(default=180.0, ge=5.0, le=900.0)
    """How long the child process that tries a release may take to load, warm, verify and time every variant, seconds,
    5 to 900. Default 180: a network of 100 MB on a slow SD card takes a minute; an endless loop ends here."""
    canary_frames: LocalOnly[int] = Field(default=20, ge=0, le=1000)
    """Live frames that a new model sees in the pauses of the old one before it serves, 0 to 1000. Default 20: a
    second or two, enough to see it fail on what the camera shows."""
    probation_s: LocalOnly[float] = Field(default=120.0, ge=2.0, le=86_400.0)
    """How long a new model is watched before it counts as good, 2 to 86,400 s; one that makes the device worse is
    taken back within this time. Default 120: two minutes of frames."""
