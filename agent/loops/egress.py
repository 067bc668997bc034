"""One thread: encodes messages at the moment they leave, hands them to the sink and keeps the delivery book."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from agent.clock import NS_PER_MS, NS_PER_S, Clock
from agent.core.envelope import JSON, Encoding, envelope
from agent.core.message import KINDS, Drop, Message
from agent.core.outbox import Outbox
from agent.core.pulse import Pulse
from agent.core.spool_policy import SpoolLimits
from agent.core.token_bucket import TokenBucket
from agent.errors import TransientError
from agent.interfaces import Acknowledged, Connected, Noticed, Packet, Received, Sink, SinkEvent, Spool
from agent.loops.quiet_log import QuietLog
from agent.loops.spooler import Spooler
from agent.wake import Wake

log = logging.getLogger(__name__)

WAKE_AT_LEAST_NS = NS_PER_S
"""The loop looks around at least once a second, whatever it waits for."""

REPLAY_BURST = 50
"""Replays that may follow each other at once after a rest: a short outage is made good at once, and a fresh result
waits for 50 sends, 5 ms, at most."""

REPLAY_PAUSE_NS = 5 * NS_PER_MS
"""Between two turns for the sake of replays: at most 200 a second, each sends what the rate allows."""

HOLD_NS_MAX = 200 * NS_PER_MS
"""What the kernel may hold a message that is kept together with those behind it, whatever keeps us from letting go
(tcp(7), TCP_CORK). One whose deadline comes earlier leaves at once."""

RecordSent = Callable[[str, int, int], None]
Hear = Callable[[Connected | Received], None]


@dataclass(frozen=True, slots=True)
class Keeping:
    """What is kept while the sink is slow or away, and how fast it follows.

    Attributes:
        spool: None to keep messages in memory only.
        limits: of the spool.
        replay_per_s: old messages a second; fresh ones are never held back. None for no limit.
    """

    spool: Spool | None = None
    limits: SpoolLimits = field(default_factory=SpoolLimits)
    replay_per_s: int | None = None


class EgressLoop:
    """Moves messages from the outbox to the sink, and to the disk while the sink cannot.

    Args:
        sink: called by this loop's thread alone.
        outbox: guarded by this loop's lock.
        clock: the agent's.
        boot: identifies this run of the agent in every message.
        wake: set by `emit`, and by the sink when something happened; never held while the sink is called.
        record_sent: called for each live result that was handed to the sink, with its stream, its age and how long
            it took from inference to here, both in ns.
        waits_for_room: `emit` blocks while the outbox is full instead of dropping the oldest: for standard
            output, where the reader's pace is the run's pace. Never for a broker.
        keeping: of what waits.
        hear: called with each message that came and each connection that was made; never waits.
        encodings: of kinds that are not JSON.
    """

    def __init__(
        self,
        *,
        sink: Sink,
        outbox: Outbox,
        clock: Clock,
        boot: str,
        wake: Wake,
        record_sent: RecordSent,
        waits_for_room: bool,
        keeping: Keeping = Keeping(),
        hear: Hear = lambda _: None,
        encodings: Mapping[str, Encoding] = MappingProxyType({}),
    ) -> None:
        self._sink = sink
        self._outbox = outbox
        self._clock = clock
        self._boot = boot
        self._wake = wake
        self._record_sent = record_sent
        self._waits_for_room = waits_for_room
        self._hear = hear
        self._encodings = {kind: encodings.get(kind, JSON) for kind in KINDS}
        self._lock = threading.Lock()
        self._has_room = threading.Condition(self._lock)
        self._faults = QuietLog(log, clock)
        self._spooler = Spooler(
            keeping.spool, outbox, self._lock, limits=keeping.limits, boot=boot, clock=clock, report=self.report
        )
        self._expiry_s = keeping.limits.expiry_s
        per_s = keeping.replay_per_s
        self._bucket = None if per_s is None else TokenBucket(per_s, min(REPLAY_BURST, per_s))
        self._flushes_spool = False
        self._is_connected = False
        self._turns = 0
        self.contacted = threading.Event()
        """Set when the sink was reached for the first time, or could not be."""
        self._stop_by_ns: int | None = None
        self._stop_reason = ""
        self.carries_over = False
        """Whether what cannot be sent at the end goes to the next run instead of being dropped."""
        self.carried: list[Message] = []
        """That, each with the identity that it may have been sent under."""
        self.broken: str | None = None
        """Why the sink can never work again (the reader of standard output went away), None while it can."""

    @property
    def is_connected(self) -> bool:
        """Whether the sink takes messages now. Any thread."""
        return self._is_connected

    def emit(self, message: Message) -> None:
        """Accept a message: one bounded append. Any thread."""
        with self._lock:
            while self._waits_for_room and self._outbox.is_full and self._stop_by_ns is None:
                self._has_room.wait()
            self._outbox.put(message)
        # The loop clears it before it looks: set already means that it will look again.
        if not self._wake.is_set():
            self._wake.set()

    def report(self, event: str, body: Mapping[str, Any]) -> None:
        """Send an event. Any thread."""
        now_ns = self._clock.now_ns()
        self.emit(
            Message(kind="event", topic=f"events/{event}", body={"event": event, **body}, captured_at_ns=now_ns)
        )

    def run(self) -> None:
        """The thread's body: until `stop`, then until all is acknowledged or the time is over."""
        while True:
            self._wake.clear()
            self.turn()
            now_ns = self._clock.now_ns()
            if self._stop_by_ns is not None and (self._is_done() or now_ns >= self._stop_by_ns):
                break
            self._clock.wait(self._wake, self._next_wake_ns(now_ns) - now_ns)
        # Before the goodbye, which a stalled broker may stretch: whoever kills us then finds it on disk.
        self._spooler.save_all()
        self._sink.close(self._stop_reason, max(NS_PER_S // 2, self._stop_by_ns - self._clock.now_ns()))
        self._is_connected = False
        self.give_up()
        self._spooler.close()

    def turn(self) -> None:
        """Look around once: book what happened, write what waits too long, send what may go."""
        now_ns = self._clock.now_ns()
        for event in self._sink.advance(now_ns):
            self._book(event)
            self.contacted.set()
        self._turns += 1
        self._spooler.turn(now_ns)
        self._send_all()
        self._sink.flush()

    def pulse(self) -> Pulse:
        """Return the heartbeat: one turn a second at least, unless a reader sets the pace. Any thread."""
        return Pulse(self._turns, not self._waits_for_room)

    def stop(self, reason: str, stop_by_ns: int, *, flushes_spool: bool = False) -> None:
        """Send what can be sent by that time, say goodbye and end. Any thread.

        Args:
            reason: for the goodbye.
            stop_by_ns: the end of all patience.
            flushes_spool: whether what is on disk is sent too, instead of waiting for the next run.
        """
        with self._lock:
            self._stop_reason = reason
            self._stop_by_ns = stop_by_ns
            self._flushes_spool = flushes_spool
            self._has_room.notify_all()
        self._wake.set()

    def give_up(self) -> None:
        """Book everything that is still held as carried over or dropped at shutdown. Any thread, at the end."""
        with self._lock:
            if self.carries_over:
                held = self._outbox.carry_over()
                self.carried += [replace(message, boot=message.boot or self._boot) for message in held]
            self._outbox.close()

    def snapshot(self) -> dict[str, Any]:
        """Return the delivery ledger under its public names. Any thread."""
        with self._lock:
            book = self._outbox.snapshot()
            is_exact = self._outbox.is_exact()
        return {
            **book,
            "is_exact": is_exact,
            "connected": self._is_connected,
            "spool": self._spooler.state(),
            "sink": dict(self._sink.state()),
        }

    def _book(self, event: SinkEvent) -> None:
        if isinstance(event, Acknowledged):
            with self._lock:
                message = self._outbox.settle(event.token, accepted=event.accepted)
                self._tell_room()
            if message is not None and not event.accepted:
                self._set_aside(message, f"refused {message.topic}", event.reason)
        elif isinstance(event, Connected):
            self._is_connected = True
            self._faults.clear("broker")
            log.info("connected: %s", event.detail)
            self._hear(event)
        elif isinstance(event, Received):
            self._hear(event)
        elif isinstance(event, Noticed):
            self.report(event.name, event.body)
        else:
            self._is_connected = False
            with self._lock:
                self._outbox.connection_lost()
            self._faults.warn("broker", event.cause)

    def _send_all(self) -> None:
        while self.broken is None and (room := self._sink.room()) > 0:
            now_ns = self._clock.now_ns()
            with self._lock:
                taken = self._outbox.take(now_ns, replays=False)
            if taken is None:
                taken = self._take_replay(room, now_ns)
            if taken is None or not self._send(*taken, now_ns=now_ns):
                return

    def _take_replay(self, room: int, now_ns: int) -> tuple[Message, bool] | None:
        """Return an old message, now that no fresh one waits."""
        if not self._may_replay(room, now_ns):
            return None
        if (self._stop_by_ns is None or self._flushes_spool) and self._spooler.may_load:
            self._sink.flush()  # Nothing that was sent waits for the disk.
            self._spooler.load()
        with self._lock:
            taken = self._outbox.take(now_ns)
        if taken is not None and taken[1] and self._bucket is not None:
            self._bucket.spend(now_ns)
        return taken

    def _may_replay(self, room: int, now_ns: int) -> bool:
        """Return whether an old message may go: at the rate, and in half of the window; the rest is for the fresh."""
        if self._stop_by_ns is not None or self._bucket is None:
            return True
        return self._bucket.next_ns(now_ns) <= now_ns and self._outbox.in_flight <= room

    def _next_wake_ns(self, now_ns: int) -> int:
        wakes = [self._sink.next_wake_ns(now_ns), now_ns + WAKE_AT_LEAST_NS, self._spooler.next_wake_ns()]
        if self._stop_by_ns is not None:
            wakes.append(self._stop_by_ns)
        if self._bucket is not None and self._is_connected and (self._outbox.backlog or self._spooler.is_loading):
            wakes.append(max(self._bucket.next_ns(now_ns), now_ns + REPLAY_PAUSE_NS))
        return min(wakes)

    def _send(self, message: Message, replay: bool, *, now_ns: int) -> bool:
        """Send or drop one message; return whether the sink can take the next.

        `now_ns` is the moment at which the outbox judged its deadline: the age that is published is that one.
        """
        if KINDS[message.kind].is_written_ahead:
            self._sink.flush()
            self._spooler.write_ahead(message)
        try:
            packet = self._packet(message, now_ns, replay=replay)
        except (TypeError, ValueError) as error:
            self._drop(message, Drop.UNENCODABLE, str(error))
            return True
        limit = self._sink.payload_bytes_max(packet)
        if len(packet.payload) > limit:
            self._drop(message, Drop.OVERSIZE, f"{len(packet.payload)} bytes, the broker takes {limit}")
            return True
        try:
            token = self._sink.send(packet)
        except TransientError as error:
            with self._lock:
                self._outbox.give_back(message)
            self._faults.warn("sending", str(error))
            return False
        except BrokenPipeError:
            with self._lock:
                self._outbox.give_back(message)
                self._stop_by_ns = now_ns
                self._has_room.notify_all()
            self.broken = "the reader of standard output went away"
            return False
        with self._lock:
            if token is None:
                self._outbox.delivered(replay=replay, kind=message.kind)
                self._tell_room()
            else:
                self._outbox.handed_over(token, message, replay=replay)
        if not replay and message.deadline_ns - now_ns < HOLD_NS_MAX:
            self._sink.flush()
        if message.kind == "result" and not replay and "late" not in message.body:
            self._record_sent(message.stream, now_ns - message.captured_at_ns, now_ns - message.emitted_at_ns)
        return True

    def _packet(self, message: Message, now_ns: int, *, replay: bool) -> Packet:
        if message.payload is not None:
            head = (message.topic, message.payload, message.qos, message.retain)
            return Packet(*head, message.content_type, message.expiry_s)
        body = envelope(message, self._boot, now_ns=now_ns, wall_ns=self._clock.wall_ns(), replay=replay)
        expiry_s = None
        if KINDS[message.kind].is_kept:
            # One lifetime, here and at the broker: its clock does not know how long a message waited here.
            expiry_s = max(1, self._expiry_s - (now_ns - message.captured_at_ns) // NS_PER_S)
        content_type, encode = self._encodings[message.kind]
        correlation = bytes.fromhex(message.correlation) if message.correlation else b""
        return Packet(message.topic, encode(body), message.qos, message.retain, content_type, expiry_s, correlation)

    def _drop(self, message: Message, cause: Drop, reason: str) -> None:
        with self._lock:
            self._outbox.drop(message, cause)
            self._tell_room()
        self._set_aside(message, f"{message.topic} not sent ({cause})", reason)

    def _tell_room(self) -> None:
        """Wake who waits in `emit`; the lock is held. For a broker nobody does."""
        if self._waits_for_room:
            self._has_room.notify_all()

    def _set_aside(self, message: Message, what: str, reason: str) -> None:
        """Say that a message can never be delivered, and keep it for whoever looks into it."""
        # Only what is said is kept: a broker that refuses everything must not wear the disk.
        if self._faults.warn(what, reason):
            self._spooler.set_aside(message, f"{what}: {reason}")

    def _is_done(self) -> bool:
        with self._lock:
            is_empty = not self._outbox.queued and not self._outbox.in_flight
        if self._flushes_spool and self._spooler.is_loading:
            is_empty = False
        # Without a connection there is nothing to wait for: what is held goes to disk, or is counted as dropped.
        return is_empty or not self._is_connected or self.broken is not None
