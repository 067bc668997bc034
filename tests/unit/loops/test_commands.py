"""The receiver of commands: what is begun, remembered and answered."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from agent.clock import NS_PER_S
from agent.core.commands import Answered, Command, CommandError, CommandMemory, Pending
from agent.core.message import Message
from agent.interfaces import Received
from agent.loops.commands import PENDING_MAX, CommandReceiver
from agent.settings.fields import Section
from tests.fakes import ManualClock

BASE = "edgebeat/v1/porch"


class _Size(Section):
    size: int = 1


class Bench:
    """A receiver with two commands: `grow` answers at once, `wait` when the test says so."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.sent: list[Message] = []
        self.written: list[tuple[str, bool]] = []
        self.order: list[str] = []
        self.noted: list[tuple[str, Any]] = []
        self.waiting: list[Pending] = []
        self.memory = CommandMemory()
        registry = {
            "grow": Command(self._grow, _Size),
            "wait": Command(lambda pending, _: self.waiting.append(pending), _Size, timeout_s=5),
            "once": Command(lambda pending, _: pending.done({}, then=lambda: self.order.append("done")), _Size),
            "no": Command(self._refuse, _Size, is_audited=True),
            "change": Command(self._grow, _Size, is_audited=True),
        }
        self.receiver = CommandReceiver(
            registry,
            base=BASE,
            memory=self.memory,
            journal=self,
            emit=self._emit,
            wake=lambda: None,
            on_connection=lambda: None,
            note=lambda action, body: self.noted.append((action, body)),
            clock=self.clock,
        )

    def _grow(self, pending: Pending, asked: _Size) -> None:
        pending.done({"size": asked.size + 1})

    def _refuse(self, pending: Pending, asked: _Size) -> None:
        raise CommandError("tired", f"not {asked.size} more")

    def _emit(self, message: Message) -> None:
        self.sent.append(message)
        self.order.append("sent")

    def append(self, entry: Answered, known: Iterable[Answered], *, durable: bool) -> None:
        self.written.append((entry.key, durable))
        self.order.append("written")

    def ask(self, name: str, body: bytes, **more: Any) -> list[dict[str, Any]]:
        """Let the receiver take a command and its turn; return what was answered since."""
        before = len(self.sent)
        self.receiver.receive(Received(f"commands/{name}", body, **more))
        self.receiver.turn(self.clock.now_ns())
        return [dict(message.body) for message in self.sent[before:]]


def test_an_answer_goes_to_who_asked_with_what_it_is_known_by() -> None:
    """On its own topic, QoS 1, never retained."""
    bench = Bench()
    (answer,) = bench.ask("grow", b'{"size":4}', response_topic=f"{BASE}/responses/desk", correlation=b"\x07")
    assert answer == {"id": "07", "command": "grow", "state": "ok", "size": 5}
    message = bench.sent[0]
    assert (message.kind, message.topic, message.qos, message.retain) == ("response", "responses/desk", 1, False)
    assert message.correlation == "07"


def test_a_repeated_id_is_answered_and_not_done() -> None:
    """Also when another command uses it, and when the first is not answered yet."""
    bench = Bench()
    assert bench.ask("grow", b'{"id":"1","reply":"desk","size":4}')[0]["size"] == 5
    (again,) = bench.ask("grow", b'{"id":"1","reply":"desk","size":40}')
    assert (again["size"], again["repeated"]) == (5, True)
    assert bench.ask("once", b'{"id":"1","reply":"desk"}')[0]["code"] == "id_used"
    assert bench.ask("grow", b'{"id":"1","reply":"other","size":40}')[0]["size"] == 41
    assert bench.ask("wait", b'{"id":"2","reply":"desk"}') == []
    assert bench.ask("wait", b'{"id":"2","reply":"desk"}') == []
    assert len(bench.waiting) == 1
    assert bench.receiver.snapshot()["repeated"] == 3


def test_what_must_not_be_done_twice_is_on_disk_and_answered_before_it_is_done() -> None:
    """A restart that came again after a power cut would go on for ever."""
    bench = Bench()
    bench.ask("once", b'{"id":"1","reply":"desk"}')
    assert bench.order == ["written", "sent", "done"]
    assert bench.written == [("desk/1", True)]
    bench.ask("once", b'{"id":"1","reply":"desk"}')
    assert bench.order == ["written", "sent", "done", "sent"]


def test_errors_are_answered_and_counted() -> None:
    """A refusal before anything was begun leaves the id free."""
    bench = Bench()
    assert bench.ask("dance", b'{"id":"1","reply":"desk"}')[0]["code"] == "unknown_command"
    (wrong,) = bench.ask("grow", b'{"id":"1","reply":"desk","size":"big","color":"red"}')
    assert wrong["code"] == "bad_arguments"
    assert "size" in wrong["message"]
    assert "color" in wrong["message"]
    assert bench.ask("grow", b'{"id":"1","reply":"desk"}')[0]["state"] == "ok"
    assert bench.ask("no", b'{"id":"2","reply":"desk"}')[0]["code"] == "tired"
    (malformed,) = bench.ask("grow", b"{", response_topic=f"{BASE}/responses/desk", correlation=b"\x01")
    assert (malformed["code"], malformed["id"]) == ("malformed", "01")
    counts = bench.receiver.snapshot()
    assert (counts["refused"], counts["failed"], counts["done"]) == (3, 1, 1)


def test_nobody_is_answered_who_names_no_address() -> None:
    """The command is done all the same: `mosquitto_pub` waits for nothing."""
    bench = Bench()
    assert bench.ask("once", b'{"id":"1"}') == []
    assert bench.order == ["written", "done"]
    assert bench.ask("grow", b"{") == []


def test_retained_commands_and_foreign_addresses_are_dropped_and_counted() -> None:
    """Neither is answered."""
    bench = Bench()
    assert bench.ask("once", b'{"id":"1","reply":"desk"}', retain=True) == []
    assert bench.ask("once", b"", response_topic="edgebeat/v1/yard/responses/x", correlation=b"1") == []
    assert bench.order == []
    counts = bench.receiver.snapshot()
    assert (counts["retained"], counts["foreign_response_topic"]) == (1, 1)


def test_a_command_that_takes_too_long_is_given_up() -> None:
    """An answer that comes later changes nothing; the timer says when to look."""
    bench = Bench()
    bench.ask("wait", b'{"id":"1","reply":"desk"}')
    due_ns = bench.clock.now_ns() + 5 * NS_PER_S
    assert bench.receiver.turn(bench.clock.now_ns()) == due_ns
    bench.receiver.turn(due_ns)
    assert bench.sent[0].body["code"] == "timed_out"
    bench.waiting[0].done({})
    bench.receiver.turn(due_ns)
    assert len(bench.sent) == 1


def test_commands_that_wait_are_bounded() -> None:
    """The next one may be asked again later, with the same id."""
    bench = Bench()
    for number in range(PENDING_MAX):
        bench.ask("wait", b'{"id":"%d","reply":"desk"}' % number)
    assert bench.ask("grow", b'{"id":"x","reply":"desk"}')[0]["code"] == "busy"
    bench.waiting[0].done({})
    bench.receiver.turn(bench.clock.now_ns())
    assert bench.ask("grow", b'{"id":"x","reply":"desk"}')[0]["state"] == "ok"


def test_who_had_something_changed_is_in_the_audit() -> None:
    """Once, whatever is delivered again; not what was refused, nor what changes nothing."""
    bench = Bench()
    for _ in range(2):
        bench.ask("change", b'{"id":"1","reply":"desk","size":4}', user_properties=(("asked_by", "ada"),))
    bench.ask("no", b'{"id":"2","reply":"desk"}')
    bench.ask("grow", b'{"id":"3","reply":"desk"}')
    ((action, body),) = bench.noted
    assert action == "command"
    assert (body["command"], body["client"], body["asked_by"]) == ("change", "desk", "asked_by=ada")
    assert (body["arguments"], body["answer"]["size"]) == ({"size": 4}, 5)
