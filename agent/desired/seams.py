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


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the receiver needs of the agent.

    Attributes:
        emit: hands a message to egress.
        report: sends an event.
        read: looks at streams, memory and broker.
        restart: ends this run so that another starts on what is kept; with the reason.
        clock: the agent's.
    """

    emit: Callable[[Message], None]
    report: Callable[[str, Mapping[str, Any]], None]
    read: Callable[[], Readings]
    restart: Callable[[str], None]
    clock: Clock
