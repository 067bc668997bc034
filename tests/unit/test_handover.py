"""What one run leaves for the next."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

from agent.core.outbox import Message, Outbox
from agent.handover import BYTES_MAX, VARIABLE, Handover, _lines, receive
from tests.paths import REPOSITORY

MESSAGE = Message("event", "events/x", {"boot": "b", "seq": 7, "text": "ä"}, captured_at_ns=5, seq=7)

PROGRAM = """
import os, sys
from agent.core.outbox import Message
from agent.handover import Handover, receive, restart
before = receive()
if before is None:
    leaked = os.open(sys.argv[1], os.O_RDONLY)
    os.set_inheritable(leaked, True)
    message = Message("event", "events/x", {"boot": "b"}, captured_at_ns=5, seq=7)
    restart(Handover({"a": 1}, [message], {"m": {}}, "hung", 1, 12345678901234567, asked_at_ns=3, drained_at_ns=4))
def is_open(number):
    try:
        return os.readlink(f"/proc/self/fd/{number}") == sys.argv[1]
    except OSError:
        return False
print(any(is_open(number) for number in range(3, 100)), before.end_ns, before.messages[0].topic, before.reason,
      receive() is None, before.asked_at_ns, before.drained_at_ns)
"""


def test_a_restart_hands_over_and_leaves_nothing_open(tmp_path: Path) -> None:
    """The process image is replaced: what was left arrives once, and a descriptor that a library leaked is closed."""
    leaked = tmp_path / "camera"
    leaked.write_text("")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(leaked)], capture_output=True, text=True, cwd=REPOSITORY, check=True
    )
    assert done.stdout.split() == ["False", "12345678901234567", "events/x", "hung", "True", "3", "4"]


def memory_file(text: str) -> dict[str, str]:
    """Return an environment whose handover holds a text."""
    descriptor = os.memfd_create("test")
    os.write(descriptor, text.encode())
    return {VARIABLE: str(descriptor)}


def test_a_first_run_has_nothing_before_it() -> None:
    """No variable, or one that somebody set by hand."""
    assert receive({}) is None
    assert receive({VARIABLE: "nonsense"}) is None
    assert receive({VARIABLE: "987654"}) is None


def test_what_cannot_be_read_is_no_handover() -> None:
    """Damaged or from another version: the run starts from its settings file."""
    for text in ("", "{", "[]", '{"layers": {}}', "{}\n{}", "\n\n"):
        assert receive(memory_file(text)) is None


def test_messages_come_back_as_they_were() -> None:
    """Deadlines and capture times hold over a restart: the clock goes on."""
    values = {"layers": {}, "marks": {}, "reason": "", "restarts": 1, "end_ns": None}
    environ = memory_file(f"{json.dumps(values)}\n{json.dumps(asdict(MESSAGE))}\n")
    before = receive(environ)
    assert isinstance(before, Handover)
    assert asdict(before.messages[0]) == asdict(MESSAGE)
    assert environ == {}


def test_the_newest_messages_are_kept_when_not_all_fit() -> None:
    """Settings and marks come first; what is left out is counted."""
    messages = [replace(MESSAGE, seq=number, body={"text": "x" * 100_000}) for number in range(300)]
    lines = _lines(Handover({"a": 1}, messages, {}, "hung", 1, None))
    before = receive(memory_file(b"".join(lines).decode()))
    assert before is not None
    assert before.layers == {"a": 1}
    assert before.messages_dropped == 300 - len(before.messages) > 0
    assert [message.seq for message in before.messages] == list(range(before.messages_dropped, 300))
    assert sum(map(len, lines)) <= BYTES_MAX + 1000


def test_carried_messages_stay_in_the_book() -> None:
    """Queued, retained and unacknowledged ones leave as carried; the equation holds."""
    outbox = Outbox(10)
    for index in range(3):
        outbox.put(Message("result", f"results/{index}", {}, 0))
    outbox.put(Message("health", "health", {}, 0, retain=True))
    taken = outbox.take(0)
    assert taken is not None
    outbox.handed_over("token", taken[0], replay=False)
    assert len(outbox.carry_over()) == 4
    assert outbox.snapshot()["carried"] == 4
    assert outbox.is_exact()
    assert (outbox.queued, outbox.in_flight) == (0, 0)
