"""Settings of what may be changed from afar, and how a change must prove itself."""

from __future__ import annotations

from pydantic import Field

from agent.settings.fields import Section
from agent.settings.scope import LocalOnly


class RemoteSettings(Section):
    """Changes that arrive over MQTT (docs/remote.md)."""

    settings: LocalOnly[bool] = True
    """Whether `settings/desired` is obeyed. Default true; false refuses every document, and the ones that were
    accepted before are not used."""
    probation_s: LocalOnly[float] = Field(default=60.0, ge=2.0, le=3600.0)
    """How long a change is watched before it counts as good, 2 to 3600 s; a change that makes the device worse is
    taken back within this time. Default 60: a camera that is opened anew has delivered by then, and a fleet moves on
    after a minute."""
    on_time_loss_max: LocalOnly[float] = Field(default=0.1, ge=0.0, le=1.0)
    """By how much the share of a stream's frames that end in time may fall after a change, 0 to 1. Default 0.1: more
    than the noise of a busy minute, less than anybody would want to lose."""
