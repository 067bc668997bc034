"""What one run of the agent leaves for the next when it replaces itself: nothing is lost on a restart.

The process image is replaced (execve) with the same process id, so that a service manager sees one service, and a
thread that hangs in native code is gone. What must survive lies in a file in memory (memfd_create) whose descriptor
is the only one that stays open: it needs no disk, which may be full or read-only.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn

from agent.core.outbox import Message
from agent.core.typed_array import for_disk, from_disk

VARIABLE = "EDGEBEAT_HANDOVER_FD"
"""Names the descriptor to the next run. No setting."""

BYTES_MAX = 16 << 20
"""Of messages: 2,000 of 8 kB, written in a second; the oldest beyond are dropped and counted."""


@dataclass(frozen=True, slots=True)
class Handover:
    """What the next run needs.

    Attributes:
        layers: of the device's settings, as they were read, so that a file that was broken meanwhile stops nobody;
            what was accepted from afar lies in the state folder.
        messages: accepted for delivery and not acknowledged.
        marks: see `marks.Marks`.
        layers_before: those before `layers`, which are not proven and may have to go; None where there are none.
        given_up: bodies of `events/settings_rolled_back` that the next run sends.
        costs: of the networks, see `engine.prepare.Workshop`.
        reason: of the restart.
        restarts: how many there were before the next run, this one included.
        end_ns: when `--duration` is over, None without one. The clock goes on over a restart.
        asked_at_ns: when the restart was asked for, on the agent's clock, which goes on over it.
        drained_at_ns: when this run had ended.
        messages_dropped: those that did not fit.
        commands: the answered ones, as `journal` writes them: where no state folder keeps them.
    """

    layers: dict[str, Any]
    messages: list[Message]
    marks: dict[str, Any]
    reason: str
    restarts: int
    end_ns: int | None
    asked_at_ns: int = 0
    drained_at_ns: int = 0
    messages_dropped: int = 0
    commands: list[dict[str, Any]] = field(default_factory=list)
    costs: dict[str, Any] = field(default_factory=dict)
    layers_before: dict[str, Any] | None = None
    given_up: list[dict[str, Any]] = field(default_factory=list)


def restart(handover: Handover) -> NoReturn:
    """Replace this process by a new run of the same command."""
    descriptor = os.memfd_create("edgebeat-handover")
    with os.fdopen(os.dup(descriptor), "wb") as stream:
        stream.writelines(_lines(handover))
    _close_at_exec(except_for=descriptor)
    os.environ[VARIABLE] = str(descriptor)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606  Our own command line.


def receive(environ: MutableMapping[str, str] = os.environ) -> Handover | None:
    """Return what the run before this one left, once; None for a first run, or when it cannot be read."""
    text = environ.pop(VARIABLE, "")
    if not text.isdigit():
        return None
    try:
        with os.fdopen(int(text), "rb") as stream:
            stream.seek(0)
            head, *rest = stream.read(2 * BYTES_MAX).splitlines()
        return Handover(**{**json.loads(head), "messages": [_message(json.loads(line)) for line in rest]})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _message(values: dict[str, Any]) -> Message:
    return Message(**{**values, "body": from_disk(values["body"])})


def _lines(handover: Handover) -> list[bytes]:
    """Return one line for everything but the messages, then one a message, as many of the newest as fit."""
    kept: list[bytes] = []
    room = BYTES_MAX
    for message in reversed(handover.messages):
        values = {field.name: getattr(message, field.name) for field in fields(message)}
        line = _encode({**values, "body": for_disk(message.body)})
        room -= len(line)
        if room < 0:
            break
        kept.append(line)
    head = {one.name: getattr(handover, one.name) for one in fields(handover) if one.name != "messages"}
    head["messages_dropped"] = handover.messages_dropped + len(handover.messages) - len(kept)
    return [_encode(head), *reversed(kept)]


def _encode(values: dict[str, Any]) -> bytes:
    return json.dumps(values, separators=(",", ":"), default=str).encode() + b"\n"


def _close_at_exec(*, except_for: int) -> None:
    """Let nothing else through: OpenCV opens cameras without O_CLOEXEC, and they would stay busy for ever."""
    numbers = [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]
    for number in numbers:
        if number > 2:
            with suppress(OSError):  # The descriptor of the listing itself is closed by now.
                os.set_inheritable(number, number == except_for)
