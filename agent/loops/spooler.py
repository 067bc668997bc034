"""Moves messages between the outbox and the disk, and goes on from memory when the disk cannot.

Runs in the egress thread. The outbox's lock is never held while the disk is used.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agent.clock import NEVER_NS, NS_PER_S, Clock
from agent.core.kept import to_kept, to_message
from agent.core.message import KEPT_KINDS, KINDS, Drop, Message
from agent.core.outbox import Outbox
from agent.core.spool_policy import BATCH_MAX, GIVEN_UP_FIRST, SpoolLimits, batches, due_ns
from agent.errors import TransientError
from agent.interfaces import KeptMessage, Spool, SpoolDamagedError
from agent.loops.quiet_log import QuietLog

log = logging.getLogger(__name__)

RETRY_NS = 30 * NS_PER_S
"""Between two attempts on a disk that failed: a full one is not freed in a second, and each attempt wears it."""
DELETE_EVERY_NS = NS_PER_S
"""Acknowledged rows are deleted together: once a second, or in batches of `BATCH_MAX`."""
DELETIONS_MAX = 2_000
"""Acknowledged rows that could not be deleted; above it nothing more is read, or a disk that takes no deletion would
fill the memory with them (40 bytes each)."""
TIDY_EVERY_NS = 10 * NS_PER_S
"""Between two looks at what has grown too old, each followed by giving space back."""

Report = Callable[[str, Mapping[str, Any]], None]


class Spooler:
    """The egress thread's way to the disk. Never raises for a fault of the disk: it says so once, and goes on.

    Args:
        spool: None for a run that keeps nothing.
        outbox: guarded by `lock`.
        lock: egress'.
        limits: how much is kept, and how long.
        boot: identifies this run.
        clock: the agent's.
        report: sends an event.
    """

    def __init__(
        self,
        spool: Spool | None,
        outbox: Outbox,
        lock: threading.Lock,
        *,
        limits: SpoolLimits,
        boot: str,
        clock: Clock,
        report: Report,
    ) -> None:
        self._spool = spool
        self._outbox = outbox
        self._lock = lock
        self._limits = limits
        self._boot = boot
        self._clock = clock
        self._report = report
        self._faults = QuietLog(log, clock)
        self._is_usable = False
        self._has_been_open = False
        self._retry_at_ns = 0
        self._replaced_at_ns = -RETRY_NS
        self._due_ns = 0
        self._delete_at_ns = 0
        self._tidy_at_ns = 0
        self._written = 0
        self._failures = 0
        self._bytes_used = 0

    def turn(self, now_ns: int) -> None:
        """Write what is due, delete what has arrived, keep the limits. Once a turn of the loop."""
        if self._spool is None:
            return
        if not self._is_usable and now_ns >= self._retry_at_ns:
            self._open(self._spool)
        if self._is_usable and (self._outbox.has_unwritten_event or now_ns >= self._due_ns):
            self.write_held()
        pending = self._outbox.disk.pending_deletions
        if self._is_usable and pending and (pending >= BATCH_MAX or now_ns >= self._delete_at_ns):
            self._delete_at_ns = now_ns + DELETE_EVERY_NS
            self._try(self._delete)
        if self._is_usable and now_ns >= self._tidy_at_ns:
            self._tidy_at_ns = now_ns + TIDY_EVERY_NS
            self._try(self._tidy)

    def write_held(self) -> None:
        """Write everything that memory alone holds, where there is a disk that takes it."""
        if self._spool is None or not self._is_usable:
            return
        now_ns = self._clock.now_ns()
        with self._lock:
            self._outbox.expire(now_ns)
            unwritten = self._outbox.unwritten()
        self._due_ns = due_ns([], now_ns)
        if not unwritten:
            return
        is_ahead = any(KINDS[message.kind].is_written_ahead for message in unwritten)
        if not is_ahead and now_ns < (due := due_ns(unwritten, now_ns)):
            self._due_ns = due
            return
        self._try(lambda spool: self._write(spool, unwritten))

    def write_ahead(self, message: Message) -> None:
        """Write one message that must be on disk before it is sent, unless it is there already."""
        if self._spool is not None and self._is_usable and not self._outbox.disk.has(message):
            self._try(lambda spool: self._write(spool, [message]))

    def save_all(self) -> None:
        """Write everything, however young: the end is near."""
        if self._spool is None or not self._is_usable:
            return
        with self._lock:
            unwritten = self._outbox.unwritten()
        if unwritten:
            self._try(lambda spool: self._write(spool, unwritten))
        if self._is_usable:
            self._try(self._delete)

    def load(self) -> None:
        """Bring the oldest messages from the disk into memory, where `may_load`."""
        if self.may_load:
            self._try(self._load)

    @property
    def may_load(self) -> bool:
        """Whether the disk holds more that can be sent, and few wait in memory."""
        has_room = self._outbox.backlog < BATCH_MAX // 2 and self._outbox.disk.pending_deletions < DELETIONS_MAX
        return has_room and self.is_loading

    def set_aside(self, message: Message, reason: str) -> None:
        """Keep a message that can never be delivered for whoever looks into it."""
        if self._is_usable and KINDS[message.kind].is_kept:
            with contextlib.suppress(TypeError, ValueError):  # What cannot be encoded cannot be kept either.
                kept = self._kept(message)
                self._try(lambda spool: spool.set_aside(kept, reason))

    def close(self) -> None:
        """Let go of the file."""
        self._is_usable = False
        if self._spool is not None:
            self._spool.close()

    def next_wake_ns(self) -> int:
        """Return when `turn` must be called at the latest."""
        return self._due_ns if self._is_usable else NEVER_NS

    @property
    def is_loading(self) -> bool:
        """Whether the disk holds more that can be sent now."""
        return self._is_usable and self._outbox.disk.spooled > 0

    def state(self) -> dict[str, Any]:
        """Return figures for health. Any thread."""
        if self._spool is None:
            return {"state": "off"}
        return {
            "state": "ok" if self._is_usable else "failed",
            "place": self._spool.place,
            "bytes": self._bytes_used,
            "bytes_max": self._limits.bytes_max,
            "written": self._written,
            "failures": self._failures,
        }

    def _try(self, body: Callable[[Spool], None]) -> None:
        assert self._spool is not None
        try:
            body(self._spool)
        except SpoolDamagedError as error:
            self._replace(self._spool, str(error))
        except TransientError as error:
            self._fail(str(error))

    def _open(self, spool: Spool) -> None:
        self._try(self._reopen)
        if self._is_usable and self._faults.clear("spool"):
            log.info("spool: %s works again", spool.place)
            self._report("spool_back", {"place": spool.place})

    def _reopen(self, spool: Spool) -> None:
        counts = Counter(spool.open())
        with self._lock:
            deletions = {kind: self._outbox.disk.deletions(kind) for kind in KEPT_KINDS}
        for kind, rows in deletions.items():
            spool.delete(kind, rows)
        counts = Counter(spool.open()) if any(deletions.values()) else counts
        with self._lock:
            for kind, rows in deletions.items():
                self._outbox.disk.deleted(kind, rows)
            if +counts != +self._outbox.disk.rows:
                # At the start that is what an earlier run left. Later somebody else was at the file: what we
                # thought was there is lost, and what is there is taken over.
                self._outbox.disk_lost()
                self._outbox.recovered(counts)
        self._is_usable = True
        if not self._has_been_open and counts.total():
            log.info("spool: %d messages wait in %s", counts.total(), spool.place)
        self._has_been_open = True

    def _write(self, spool: Spool, messages: Sequence[Message]) -> None:
        kept, owners = [], []
        for message in messages:
            try:
                kept.append(self._kept(message))
            except (TypeError, ValueError):
                continue  # Its body cannot be encoded; the attempt to send it books that.
            owners.append(message)
        for part in batches(kept):
            durable = any(KINDS[message.kind].is_written_ahead for message in owners[part])
            rows = spool.write(kept[part], durable=durable)
            self._written += len(rows)
            with self._lock:
                self._outbox.written(zip(owners[part], rows, strict=True))
            self._bytes_used = spool.bytes_used()
            while self._bytes_used > self._limits.bytes_max and self._give_up_oldest(spool):
                self._bytes_used = spool.bytes_used()

    def _give_up_oldest(self, spool: Spool) -> bool:
        """Delete a batch of what goes first; return whether there was one."""
        return any(self._give_up(spool, kind, Drop.SPOOL_FULL, lambda _: True) for kind in GIVEN_UP_FIRST)

    def _give_up(self, spool: Spool, kind: str, cause: Drop, is_given_up: Callable[[KeptMessage], bool]) -> int:
        """Delete the oldest messages of a kind that are on disk alone; return how many, a batch at most."""
        with self._lock:
            busy = self._outbox.disk.busy_rows(kind)
        after, rows, idle = 0, [], 0
        while not idle:  # A batch that memory holds as a whole is passed over.
            oldest = spool.read(kind, after, BATCH_MAX)
            if not oldest:
                break
            after = oldest[-1][0]
            idle = sum(row not in busy for row, _ in oldest)
            rows = [row for row, kept in oldest if row not in busy and is_given_up(kept)]
        if rows:
            spool.delete(kind, rows)
            with self._lock:
                self._outbox.given_up_on_disk(kind, len(rows), cause)
            self._faults.warn(f"{kind}s on disk given up ({cause})", spool.place)
        return len(rows)

    def _delete(self, spool: Spool) -> None:
        for kind in KEPT_KINDS:
            with self._lock:
                rows = self._outbox.disk.deletions(kind)
            if rows:
                spool.delete(kind, rows)
                with self._lock:
                    self._outbox.disk.deleted(kind, rows)

    def _tidy(self, spool: Spool) -> None:
        moment = {"boot": self._boot, "now_ns": self._clock.now_ns(), "wall_ns": self._clock.wall_ns()}

        def is_too_old(kept: KeptMessage) -> bool:
            return self._limits.is_too_old(kept, **moment)  # type: ignore[arg-type]

        for kind in KEPT_KINDS:
            while self._give_up(spool, kind, Drop.TOO_OLD, is_too_old):
                pass
        spool.shrink()
        self._bytes_used = spool.bytes_used()

    def _load(self, spool: Spool) -> None:
        for kind in reversed(GIVEN_UP_FIRST):
            with self._lock:
                after = self._outbox.disk.after(kind)
                busy = self._outbox.disk.busy_rows(kind)
            stored = spool.read(kind, after, BATCH_MAX)
            messages = [(self._message(kept), row) for row, kept in stored if row not in busy]
            with self._lock:
                self._outbox.loaded(messages)
                # At the end it starts anew: what memory held in between may have come back.
                self._outbox.disk.has_read(kind, stored[-1][0] if stored else 0)
            if messages:
                return

    def _kept(self, message: Message) -> KeptMessage:
        return to_kept(message, self._boot, now_ns=self._clock.now_ns(), wall_ns=self._clock.wall_ns())

    def _message(self, kept: KeptMessage) -> Message:
        return to_message(kept, self._boot, now_ns=self._clock.now_ns(), wall_ns=self._clock.wall_ns())

    def _fail(self, reason: str) -> None:
        assert self._spool is not None
        self._is_usable = False
        self._failures += 1
        self._retry_at_ns = self._clock.now_ns() + RETRY_NS
        if self._faults.warn("spool", f"{reason}; messages wait in memory"):
            self._report("spool_failed", {"place": self._spool.place, "reason": reason})

    def _replace(self, spool: Spool, reason: str) -> None:
        now_ns = self._clock.now_ns()
        if now_ns - self._replaced_at_ns < RETRY_NS:
            self._fail(f"{reason}, again")  # The disk itself is ill: no new file each second.
            return
        self._replaced_at_ns = now_ns
        try:
            damaged = spool.replace()
        except TransientError as error:
            self._fail(f"{reason}; {error}")
            return
        self._failures += 1
        with self._lock:
            lost = self._outbox.disk.spooled
            self._outbox.disk_lost()
        log.error("spool: %s; it is set aside as %s and a new one begun; %d messages lost", reason, damaged, lost)
        self._report("spool_replaced", {"place": spool.place, "reason": reason, "set_aside": damaged, "lost": lost})
        try:
            spool.open()
        except TransientError as error:
            self._fail(str(error))
        else:
            self._is_usable = True
