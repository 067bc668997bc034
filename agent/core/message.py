"""What waits to be sent, how each kind of it is treated, and why one may be given up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from agent.clock import NEVER_NS


class Drop(StrEnum):
    """Why a message was given up. The strings are the product's."""

    QUEUE_FULL = "queue_full"
    """The memory queue was full; this was the oldest of the kind that is given up first."""
    REFUSED = "refused"
    """The broker acknowledged it with a reason of 128 or above (not authorised, quota, ...)."""
    OVERSIZE = "oversize"
    """Larger than the broker's MaximumPacketSize: it would close the connection for ever."""
    UNENCODABLE = "unencodable"
    """Its body could not be encoded."""
    REPLACED = "replaced"
    """A newer state of the same retained topic took its place."""
    SPOOL_FULL = "spool_full"
    """The spool had reached its size; this was the oldest of the kind that is given up first."""
    TOO_OLD = "too_old"
    """It waited on disk for longer than anybody wants it."""
    SPOOL_LOST = "spool_lost"
    """The spool's file was damaged or taken away while this message was in it alone."""
    SHUTDOWN = "shutdown"
    """The agent ended before the broker acknowledged it, and no spool keeps it."""


@dataclass(frozen=True, slots=True)
class KindPolicy:
    """How messages of one kind are treated.

    Attributes:
        is_kept: it goes to disk when it waits, and survives a restart.
        is_written_ahead: it is on disk before it is published: not even a power cut loses it.
        waiting_max: messages of this kind that wait in memory at most, None for the common limit alone.
        is_carried: it goes to the run that replaces this one, where memory alone holds it.
    """

    is_kept: bool = False
    is_written_ahead: bool = False
    waiting_max: int | None = None
    is_carried: bool = True


KINDS: dict[str, KindPolicy] = {
    "log": KindPolicy(waiting_max=100),
    "image": KindPolicy(is_carried=False),
    "health": KindPolicy(),
    "discovery": KindPolicy(is_carried=False),
    "state": KindPolicy(),
    "result": KindPolicy(is_kept=True),
    "response": KindPolicy(waiting_max=32),
    "event": KindPolicy(is_kept=True, is_written_ahead=True),
}
"""Every kind, in the order in which they are given up: events outlive results, results outlive what a newer state or
a log line replaces. 100 log lines at 300 bytes are 30 kB; 32 answers 10 kB, and 6 MB where each holds a picture.
Pictures and discovery are states: a run that follows makes its own."""
SEND_ORDER = tuple(reversed(KINDS))
"""What goes first when several kinds wait."""
KEPT_KINDS = tuple(kind for kind, policy in KINDS.items() if policy.is_kept)


@dataclass(slots=True, eq=False)
class Message:
    """One message on its way to the sink.

    Nothing of it changes once the outbox has numbered it. Not `frozen`: that makes its construction three times as
    slow, and numbering it a second one, 15 us a result on the inference thread.

    Attributes:
        kind: a key of `KINDS`; how it is treated and the class it is counted under.
        topic: below the device's tree, such as `results/door`.
        body: encoded by egress at the moment of sending, which adds the age to results.
        captured_at_ns: `Clock.now_ns` of the frame's capture; of creation for the other kinds.
        deadline_ns: after this it is sent marked as a replay; `NEVER_NS` for none.
        seq: given by `Outbox.put`; counts its boot's messages, so that receivers drop duplicates by `boot` and `seq`.
        qos: never 2: receivers drop duplicates by themselves, and it takes twice the round trips.
        retain: it is a state: a newer one of the same topic replaces it while it waits.
        stream: whose result it is; empty for the other kinds.
        emitted_at_ns: when inference handed a result over; 0 for the other kinds.
        boot: of the run that made it; empty for this run.
        captured_wall_ns: the capture in wall time, fixed when the message went to disk; 0 before that.
        correlation: of an answer, as its request had it, in hexadecimal (MQTT 5).
        payload: sent as it is in the place of `body`; empty to remove a retained state. None for all that is encoded.
        content_type: of `payload`.
        expiry_s: of `payload`: when the broker may forget it (MQTT 5), None for never.
    """

    kind: str
    topic: str
    body: Mapping[str, Any]
    captured_at_ns: int
    deadline_ns: int = NEVER_NS
    seq: int = 0
    qos: Literal[0, 1] = 1
    retain: bool = False
    stream: str = ""
    emitted_at_ns: int = 0
    boot: str = ""
    captured_wall_ns: int = 0
    correlation: str = ""
    payload: bytes | None = None
    content_type: str = "application/json"
    expiry_s: int | None = None

    @property
    def identity(self) -> tuple[str, int]:
        """What receivers know it by."""
        return self.boot, self.seq

    @property
    def accepted_at_ns(self) -> int:
        """When it was handed to egress."""
        return self.emitted_at_ns or self.captured_at_ns
