"""The receiver of `commands/{name}`: judges, begins, remembers and answers. The control thread."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from pydantic import ValidationError

from agent.clock import NEVER_NS, NS_PER_S, Clock, iso_utc
from agent.core.commands import (
    Address,
    Answered,
    Command,
    CommandError,
    CommandMemory,
    Request,
    answer_to,
    read_address,
    read_request,
)
from agent.core.inbound import COMMANDS
from agent.core.message import Message
from agent.interfaces import Received
from agent.loops.quiet_log import QuietLog

log = logging.getLogger(__name__)

ASKED_BY_CHARS_MAX = 200
PENDING_MAX = 8
"""Commands begun and not answered; a snapshot waits for a frame."""


class Journal(Protocol):
    """Where answers outlive the agent; see `agent.journal`."""

    def append(self, entry: Answered, known: Iterable[Answered], *, durable: bool) -> None:
        """Write one answer."""


class _Pending:
    """See `core.commands.Pending`."""

    def __init__(self, request: Request, by_ns: int, settle: Callable[[_Pending], None]) -> None:
        self._request = request
        self._settle = settle
        self.by_ns = by_ns
        self.body: Mapping[str, Any] | None = None
        self.then: Callable[[], None] | None = None

    @property
    def request(self) -> Request:
        """See `Pending.request`."""
        return self._request

    def done(self, figures: Mapping[str, Any], *, then: Callable[[], None] | None = None) -> None:
        """See `Pending.done`."""
        self._end({"state": "ok", **figures}, then)

    def failed(self, error: CommandError) -> None:
        """See `Pending.failed`."""
        self._end(error_body(error), None)

    def _end(self, body: Mapping[str, Any], then: Callable[[], None] | None) -> None:
        if self.body is None:
            self.body, self.then = body, then
            self._settle(self)


class CommandReceiver:
    """See `interfaces.Receiver`.

    Args:
        registry: every command by its name.
        base: the device's tree, `{prefix}/{device}`.
        memory: of what was answered.
        journal: where that outlives the agent.
        emit: hands an answer to egress.
        wake: lets the control thread call `turn` soon.
        on_connection: called with each connection that was made.
        note: writes who had something done to the audit.
        clock: the agent's.
    """

    topic = COMMANDS
    waiting_max = 32

    def __init__(
        self,
        registry: Mapping[str, Command],
        *,
        base: str,
        memory: CommandMemory,
        journal: Journal,
        emit: Callable[[Message], None],
        wake: Callable[[], None],
        on_connection: Callable[[], None],
        note: Callable[[str, Mapping[str, Any]], None],
        clock: Clock,
    ) -> None:
        self._registry = registry
        self._base = base
        self._memory = memory
        self._journal = journal
        self._emit = emit
        self._wake = wake
        self._on_connection = on_connection
        self._note = note
        self._clock = clock
        self._faults = QuietLog(log, clock)
        self._pending: dict[str, _Pending] = {}
        self._settled: deque[_Pending] = deque()
        self._counts = Counter(done=0, failed=0, repeated=0, retained=0, refused=0, foreign_response_topic=0)

    def connected(self) -> None:
        """See `Receiver.connected`."""
        self._on_connection()

    def receive(self, message: Received) -> None:
        """See `Receiver.receive`."""
        if message.retain:
            # It would come again at each connection, for ever.
            self._counts["retained"] += 1
            self._faults.warn(message.topic, "a retained command is dropped: publish it without the retain flag")
            return
        address = Address()
        try:
            address = read_address(message, self._base)
            request = read_request(message, address)
        except CommandError as error:
            self._counts["foreign_response_topic" if error.code == "foreign_response_topic" else "refused"] += 1
            self._faults.warn(message.topic, f"refused ({error.code}): {error.text}")
            if error.code != "foreign_response_topic":
                self._answer(message.topic, answer_to(message, address), error_body(error))
            return
        self._begin(message.topic, request)

    def turn(self, now_ns: int) -> int:
        """See `Receiver.turn`: send what was answered, give up what takes too long."""
        for pending in [*self._pending.values()]:
            if now_ns >= pending.by_ns:
                pending.failed(CommandError("timed_out", "there was no answer in time"))
        while self._settled:
            self._conclude(self._settled.popleft())
        return min((pending.by_ns for pending in self._pending.values()), default=NEVER_NS)

    def snapshot(self) -> dict[str, Any]:
        """Return figures for health. Any thread."""
        return {**self._counts, "pending": len(self._pending)}

    def export(self) -> list[Answered]:
        """Return what is remembered, for a run that replaces this one. Any thread, after the loop's end."""
        return self._memory.entries()

    def _begin(self, topic: str, request: Request) -> None:
        before = self._memory.get(request.key)
        if before is not None:
            self._repeat(topic, request, before)
        elif request.key in self._pending:
            self._counts["repeated"] += 1  # Its answer comes when it is done.
        else:
            self._start(topic, request)

    def _repeat(self, topic: str, request: Request, before: Answered) -> None:
        self._counts["repeated"] += 1
        if before.name == request.name:
            self._answer(topic, request.address, {**before.body, "repeated": True})
            return
        error = CommandError("id_used", f"id {request.address.id!r} was used for {before.name!r}: take a new one")
        self._answer(topic, request.address, error_body(error))

    def _start(self, topic: str, request: Request) -> None:
        pending = None
        try:
            command = self._find(request.name)
            arguments = command.arguments.model_validate(request.arguments)
            by_ns = self._clock.now_ns() + int(command.timeout_s * NS_PER_S)
            pending = self._pending[request.key] = _Pending(request, by_ns, self._settle)
            command.run(pending, arguments)
        except CommandError as error:
            self._refuse(topic, request, pending, error)
        except ValidationError as invalid:
            problems = [f"{'.'.join(map(str, entry['loc']))}: {entry['msg']}" for entry in invalid.errors()[:8]]
            self._refuse(topic, request, pending, CommandError("bad_arguments", "; ".join(problems)))
        except Exception:
            if pending is not None:
                pending.failed(CommandError("failed", "the agent has a bug here; its log tells more"))
            raise

    def _find(self, name: str) -> Command:
        command = self._registry.get(name)
        if command is None:
            known = ", ".join(sorted(self._registry))
            raise CommandError("unknown_command", f"{name[:64]!r} is unknown: known are {known}")
        if len(self._pending) >= PENDING_MAX:
            raise CommandError("busy", f"{PENDING_MAX} commands wait for their end: ask again later")
        return command

    def _refuse(self, topic: str, request: Request, pending: _Pending | None, error: CommandError) -> None:
        if pending is not None:
            pending.failed(error)
            return
        # Nothing was begun, so nothing is remembered: the same id may be tried again.
        self._counts["refused"] += 1
        self._faults.warn(topic, f"refused ({error.code}): {error.text}")
        self._answer(topic, request.address, error_body(error))

    def _settle(self, pending: _Pending) -> None:
        self._settled.append(pending)
        self._wake()

    def _conclude(self, pending: _Pending) -> None:
        request = pending.request
        if self._pending.pop(request.key, None) is None:
            return  # It came too late.
        assert pending.body is not None
        self._counts["done" if pending.body["state"] == "ok" else "failed"] += 1
        at = iso_utc(self._clock.wall_ns())
        kept = self._memory.add(Answered(request.key, request.name, pending.body, at, request.asked_by))
        self._journal.append(kept, self._memory.entries(), durable=pending.then is not None)
        if pending.body["state"] == "ok" and self._registry[request.name].is_audited:
            self._note("command", _noted(request, pending.body))
        log.info("command %s of %s: %s", request.name, _who(request), pending.body["state"])
        self._answer(f"commands/{request.name}", request.address, pending.body)
        if pending.then is not None:
            pending.then()

    def _answer(self, topic: str, address: Address, body: Mapping[str, Any]) -> None:
        if not address.client:
            return
        name = topic.rpartition("/")[2][:64]
        self._emit(
            Message(
                kind="response",
                topic=f"responses/{address.client}",
                body={"id": address.id, "command": name, **body},
                captured_at_ns=self._clock.now_ns(),
                correlation=address.correlation.hex(),
            )
        )


def error_body(error: CommandError) -> dict[str, Any]:
    """Return the fields of an answer that is an error."""
    return {"state": "error", "code": error.code, "message": error.text}


def _noted(request: Request, answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return a line of the audit; what a command brings forth, such as a rollback, has lines of its own."""
    who = {"client": request.address.client, "asked_by": request.asked_by[:ASKED_BY_CHARS_MAX]}
    return {"command": request.name, **who, "arguments": dict(request.arguments), "answer": dict(answer)}


def _who(request: Request) -> str:
    asked_by = f" ({request.asked_by})" if request.asked_by else ""
    return (request.address.client or "nobody who waits") + asked_by
