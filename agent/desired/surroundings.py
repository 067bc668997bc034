"""What the receiver of settings needs of the rest of the agent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from agent.clock import Clock
from agent.core.field_errors import FieldError
from agent.core.message import Message
from agent.core.probation import Readings
from agent.core.reconcile import Record
from agent.errors import ConfigError
from agent.layers import Layers
from agent.settings import Settings


class Applier(Protocol):
    """Brings the running agent to new settings."""

    def apply(self, settings: Settings) -> None:
        """Change what differs.

        Raises:
            ConfigError: it cannot be used, and nothing was changed.
        """


class Models(Protocol):
    """Takes releases of models."""

    def check(self, body: Mapping[str, Any]) -> FieldError | None:
        """Return why a signed manifest is refused, None when this device takes it."""

    def offer(self, body: Mapping[str, Any], asked_by: str) -> None:
        """Ask for its release; never waits."""

    def announce(self) -> None:
        """Send the state of releases again."""


class Store(Protocol):
    """See `accepted.AcceptedStore`."""

    def save(self, record: Record) -> None:
        """Write the record. Raises OSError."""


def no_file() -> Layers:
    """The default of `Surroundings.reread`."""
    raise ConfigError("this run has no settings file to read again")


def _nobody_asks() -> None:
    """The default of `Surroundings.reloaded`."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the receiver needs of the agent.

    Attributes:
        emit: hands a message to egress.
        report: sends an event.
        read: looks at streams, memory and broker.
        restart: ends this run so that another starts on what is kept; with the reason.
        clock: the agent's.
        reread: reads the settings file again; raises ConfigError.
        reloaded: told when what `SettingsReceiver.request_reload` asked for is over, however it ended.
    """

    emit: Callable[[Message], None]
    report: Callable[[str, Mapping[str, Any]], None]
    read: Callable[[], Readings]
    restart: Callable[[str], None]
    clock: Clock
    reread: Callable[[], Layers] = no_file
    reloaded: Callable[[], None] = _nobody_asks
