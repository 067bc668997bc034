"""The command `rollback`: back to the settings or the release of before, because somebody asks for it."""

from __future__ import annotations

from typing import Literal, Protocol

from pydantic import Field

from agent.core.commands import CommandError, Pending, Request
from agent.loops.update_seams import WayBack
from agent.settings.fields import Section

VERSION_MAX = 2**53 - 1
ASKED_BY_CHARS_MAX = 64


class Rollback(Section):
    """Arguments of `rollback`."""

    what: Literal["settings", "model"]
    model: str = Field(default="", max_length=64)
    """The release of which model; may be left out where the device has one."""
    version: int | None = Field(default=None, ge=1, le=VERSION_MAX)
    """Of the document, or `seq` of the release, that is meant: anything else stays. None for whatever is there."""


class Settings(Protocol):
    """Gives documents up; see `desired.receiver.SettingsReceiver`. The control thread."""

    def way_back(self) -> tuple[int, int] | None:
        """Return the version in force and the one that follows it, 0 for the device's own settings."""

    def give_up(self, version: int, asked_by: str) -> bool:
        """Go back; False when another version is in force."""


class Models(Protocol):
    """Gives releases up; see `updating.Updates`. The control thread."""

    def way_back(self, model: str, asked_by: str) -> WayBack | None:
        """Return what giving up the newest release means. Raises KeyError with the names that are known."""

    def give_up(self, way: WayBack) -> None:
        """Ask for it; never waits."""


class RollbackCommand:
    """Goes back one step.

    Its answer says what is about to be done, and is on disk before that: a command that is delivered again after a
    power cut does not go back one step more. How it ended is told where any other way back is.

    Args:
        settings: None where the device hears of none.
        models: see `Models`.
    """

    def __init__(self, settings: Settings | None, models: Models) -> None:
        self._settings = settings
        self._models = models

    def run(self, pending: Pending, asked: Rollback) -> None:
        """See `core.commands.Command.run`."""
        if asked.what == "settings":
            self._settings_back(pending, asked)
        else:
            self._model_back(pending, asked)

    def _settings_back(self, pending: Pending, asked: Rollback) -> None:
        settings = self._settings
        way = None if settings is None else settings.way_back()
        if settings is None or way is None:
            raise CommandError("nothing_to_roll_back", "the settings are those of the device already")
        version, to_version = way
        _require(asked, version, f"settings v{version} are in force")
        by = _who(pending.request)

        def then() -> None:
            settings.give_up(version, by)

        pending.done({"what": "settings", "version": version, "to_version": to_version}, then=then)

    def _model_back(self, pending: Pending, asked: Rollback) -> None:
        try:
            way = self._models.way_back(asked.model, _who(pending.request))
        except KeyError as error:
            text = f"{asked.model!r} is no model of this device" if asked.model else "name the 'model'"
            raise CommandError("unknown_model", f"{text}: known are {error.args[0]}") from None
        if way is None:
            raise CommandError("nothing_to_roll_back", "the model is the one that the settings name already")
        _require(asked, way.seq, f"release {way.seq} is the newest here")

        def then() -> None:
            self._models.give_up(way)

        figures = {"what": "model", "model": way.model, "seq": way.seq, "to_seq": way.to_seq}
        pending.done(figures, then=then)


def _require(asked: Rollback, version: int, found: str) -> None:
    if asked.version not in (None, version):
        raise CommandError("not_in_force", f"{found}, not {asked.version}: nothing was changed")


def _who(request: Request) -> str:
    named = request.asked_by.removeprefix("asked_by=") or request.address.client or "unknown"
    return "".join(char if char.isprintable() else "?" for char in named)[:ASKED_BY_CHARS_MAX]
