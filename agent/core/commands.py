"""Commands as they come over the wire: who asks for what, where the answer goes, and what was answered before."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import BaseModel

from agent.core.located_json import UnreadableError, parse
from agent.interfaces import Received

PAYLOAD_BYTES_MAX = 4096
"""A command takes 200 bytes."""
ID_CHARS_MAX = 64
CORRELATION_BYTES_MAX = 64
"""It is kept with the answer, and goes back with it."""
REMEMBERED_MAX = 256
REPLY_BYTES_KEPT_MAX = 2048
"""A larger answer, such as a picture, is not kept: 256 x 2 kB = 512 kB."""

_CLIENT = re.compile(r"[A-Za-z0-9_.:@=-]{1,64}")


class CommandError(Exception):
    """A command cannot be done; the sender gets code and text.

    Attributes:
        code: one word for programs.
        text: names the thing, the value and what would be right.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


@dataclass(frozen=True, slots=True)
class Address:
    """Where an answer goes: `responses/{client}`, and what the sender knows it by. No client: nobody waits for it."""

    client: str = ""
    id: str = ""
    correlation: bytes = b""


@dataclass(frozen=True, slots=True)
class Request:
    """One well-formed command.

    Attributes:
        name: of the command.
        address: of the answer; its `id` is never empty.
        arguments: the other fields of its body, not yet judged.
        asked_by: the user properties of the message, as text for the log and the audit.
    """

    name: str
    address: Address
    arguments: Mapping[str, Any]
    asked_by: str = ""

    @property
    def key(self) -> str:
        """What it is remembered by: ids are the client's own."""
        return f"{self.address.client}/{self.address.id}"


class Pending(Protocol):
    """A command that was begun and owes its answer, once. Any thread."""

    @property
    def request(self) -> Request:
        """What was asked."""

    def done(self, figures: Mapping[str, Any], *, then: Callable[[], None] | None = None) -> None:
        """Answer.

        Args:
            figures: for the answer's body.
            then: what is done after the answer was remembered on disk and handed to egress, in the control thread;
                for what must not be done twice (a restart): an answer that came back from memory starts nothing.
        """

    def failed(self, error: CommandError) -> None:
        """Answer that it could not be done."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command of the registry.

    Attributes:
        run: begins it; answers at once or later, and may raise CommandError. The control thread.
        arguments: what its body may hold beside `id` and `reply`.
        timeout_s: after so long without an answer the sender is told so.
        is_audited: whether it changes something, so that it must be known later who asked.
    """

    run: Callable[[Pending, Any], None]
    arguments: type[BaseModel]
    timeout_s: float = 10.0
    is_audited: bool = False


def read_address(message: Received, base: str) -> Address:
    """Return where MQTT 5 says that the answer goes.

    Args:
        message: a command.
        base: the device's tree.

    Raises:
        CommandError: outside of the device's tree, where an answer would be a way to write with our rights.
    """
    if not message.response_topic:
        return Address()
    prefix = f"{base}/responses/"
    client = message.response_topic.removeprefix(prefix)
    if not message.response_topic.startswith(prefix) or not _CLIENT.fullmatch(client):
        raise CommandError("foreign_response_topic", f"answers go to {prefix}<client> only")
    if len(message.correlation) > CORRELATION_BYTES_MAX:
        raise CommandError("malformed", f"CorrelationData is longer than {CORRELATION_BYTES_MAX} bytes")
    return Address(client, message.correlation.hex(), message.correlation)


def read_request(message: Received, address: Address) -> Request:
    """Return what is asked.

    Args:
        message: a command.
        address: what `read_address` found; without a client the body may name one, as in MQTT 3.1.1.

    Raises:
        CommandError: the body is not what it should be. `answer_to` finds who is told.
    """
    body = _read_body(message.payload)
    asked = body.pop("id", address.id)
    if not isinstance(asked, str) or not 0 < len(asked) <= ID_CHARS_MAX or not asked.isprintable():
        raise CommandError("no_id", f"needs an 'id' of 1 to {ID_CHARS_MAX} characters, or CorrelationData")
    client = _read_client(body, address)
    return Request(
        name=message.topic.rpartition("/")[2],
        address=Address(client, asked, address.correlation),
        arguments=body,
        asked_by=", ".join(f"{key[:32]}={value[:64]}" for key, value in message.user_properties),
    )


def answer_to(message: Received, address: Address) -> Address:
    """Return whom to tell that a command is malformed, as far as it says; no client where it does not."""
    try:
        body = _read_body(message.payload)
        asked = body.get("id", address.id)
        is_usable = isinstance(asked, str) and asked.isprintable()
        return Address(_read_client(body, address), asked[:ID_CHARS_MAX] if is_usable else "", address.correlation)
    except CommandError:
        return address


def _read_body(payload: bytes) -> dict[str, Any]:
    try:
        body = parse(payload or b"{}", PAYLOAD_BYTES_MAX)
    except UnreadableError as error:
        raise CommandError("malformed", f"the body: {error}") from None
    if not isinstance(body, dict):
        raise CommandError("malformed", "the body is no JSON object")
    return body


def _read_client(body: dict[str, Any], address: Address) -> str:
    named = body.pop("reply", "")
    if address.client:
        return address.client
    if not isinstance(named, str) or (named and not _CLIENT.fullmatch(named)):
        raise CommandError("malformed", "'reply' must be 1 to 64 letters, digits or _ . : @ = -")
    return named


@dataclass(frozen=True, slots=True)
class Answered:
    """What was answered to a command."""

    key: str
    name: str
    body: Mapping[str, Any]
    at: str = ""
    asked_by: str = ""


class CommandMemory:
    """The last commands with their answers: one that comes twice is answered twice and done once.

    Args:
        entries: of earlier runs, the oldest first.
    """

    def __init__(self, entries: Iterable[Answered] = ()) -> None:
        self._entries: dict[str, Answered] = {}
        for entry in entries:
            self.add(entry)

    def get(self, key: str) -> Answered | None:
        """Return what was answered to a request's key, None for one that is new."""
        return self._entries.get(key)

    def add(self, entry: Answered) -> Answered:
        """Remember an answer in the place of the oldest; return it as it is kept."""
        if len(json.dumps(entry.body)) > REPLY_BYTES_KEPT_MAX:
            entry = Answered(entry.key, entry.name, _NOT_KEPT, entry.at, entry.asked_by)
        self._entries.pop(entry.key, None)
        self._entries[entry.key] = entry
        while len(self._entries) > REMEMBERED_MAX:
            del self._entries[next(iter(self._entries))]
        return entry

    def entries(self) -> list[Answered]:
        """Return what is remembered, the oldest first."""
        return list(self._entries.values())


_NOT_KEPT = {
    "state": "error",
    "code": "not_kept",
    "message": "was answered before, and the answer was too large to be kept: ask again with a new id",
}
