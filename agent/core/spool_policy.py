"""What the spool keeps, for how long and how much; which message goes to disk when."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from agent.clock import NS_PER_MS, NS_PER_S
from agent.core.message import KEPT_KINDS, Message
from agent.interfaces import KeptMessage

WRITE_AFTER_NS = 800 * NS_PER_MS
"""A kept message that is unacknowledged for so long goes to disk, with all others that wait: at 100 messages a second
that makes batches of 80. With 200 ms for the write itself, a killed agent loses the results of 1 s at most."""
BATCH_MAX = 100
"""Messages that are read, or given up, at once: 100 at 1 kB are 100 kB."""
BATCH_BYTES_MAX = 1 << 20
"""A batch that is written ends above this."""
CLOCK_IS_SET_NS = 1_672_531_200 * NS_PER_S
"""2023-01-01 UTC, before the first release. A device without a battery starts in 1970: a stamp before this says
nothing about an age."""


@dataclass(frozen=True, slots=True)
class SpoolLimits:
    """How much is kept. The oldest result goes first, and an event only when no result is left.

    Attributes:
        bytes_max: of the file's pages in use.
        age_max_ns: since the capture.
    """

    bytes_max: int = 64 << 20
    age_max_ns: int = 72 * 3600 * NS_PER_S

    @property
    def expiry_s(self) -> int:
        """How long a message may live, ours and the broker's time together."""
        return self.age_max_ns // NS_PER_S

    def is_too_old(self, kept: KeptMessage, *, boot: str, now_ns: int, wall_ns: int) -> bool:
        """Return whether nobody wants a message any more; one of unknown age is kept."""
        return age_on_disk_ns(kept, boot=boot, now_ns=now_ns, wall_ns=wall_ns) > self.age_max_ns


GIVEN_UP_FIRST = KEPT_KINDS
"""`core.message.KINDS` is in this order."""


def age_on_disk_ns(kept: KeptMessage, *, boot: str, now_ns: int, wall_ns: int) -> int:
    """Return a message's age: of this run by the clock that does not step, of an earlier one by wall time.

    The monotonic clocks start anew with the device, so that an earlier run's age is as good as the device's wall
    clock; 0 where that was not set or has been put back.
    """
    if kept.boot == boot:
        return now_ns - kept.captured_at_ns
    if min(kept.captured_wall_ns, wall_ns) < CLOCK_IS_SET_NS:
        return 0
    return max(0, wall_ns - kept.captured_wall_ns)


def batches(messages: Sequence[KeptMessage]) -> Iterator[slice]:
    """Return the parts that are written together, one transaction each."""
    start = size_bytes = 0
    for index, message in enumerate(messages):
        size_bytes += len(message.body)
        if index + 1 - start == BATCH_MAX or size_bytes >= BATCH_BYTES_MAX:
            yield slice(start, index + 1)
            start, size_bytes = index + 1, 0
    if start < len(messages):
        yield slice(start, len(messages))


def due_ns(unwritten: list[Message], now_ns: int) -> int:
    """Return when the oldest unwritten message must go to disk; nothing that comes later is due earlier."""
    return min((message.accepted_at_ns for message in unwritten), default=now_ns) + WRITE_AFTER_NS
