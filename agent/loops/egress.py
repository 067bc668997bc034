"""One thread: encodes messages at the moment they leave, hands them to the sink and keeps the delivery book."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from agent.clock import NS_PER_MS, NS_PER_S, Clock, iso_utc
from agent.core.outbox import Drop, Message, Outbox
from agent.errors import TransientError
from agent.interfaces import Acknowledged, Connected, Disconnected, Packet, Sink
from agent.loops.quiet_log import QuietLog

log = logging.getLogger(__name__)

WAKE_AT_LEAST_NS = NS_PER_S
"""The loop looks around at least once a second, whatever it waits for."""

RecordSent = Callable[[str, int, int], None]


class EgressLoop:
    """Moves messages from the outbox to the sink.

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
    """

    def __init__(
        self,
        *,
        sink: Sink,
        outbox: Outbox,
        clock: Clock,
        boot: str,
        wake: threading.Event,
        record_sent: RecordSent,
        waits_for_room: bool,
    ) -> None:
        self._sink = sink
        self._outbox = outbox
        self._clock = clock
        self._boot = boot
        self._wake = wake
        self._record_sent = record_sent
        self._waits_for_room = waits_for_room
        self._lock = threading.Lock()
        self._has_room = threading.Condition(self._lock)
        self._faults = QuietLog(log, clock)
        self._is_connected = False
        self._stop_by_ns: int | None = None
        self._stop_reason = ""
        self.carries_over = False
        """Whether what cannot be sent at the end goes to the next run instead of being dropped."""
        self.carried: list[Message] = []
        """That, each with the identity that it may have been sent under."""
        self.broken: str | None = None
        """Why the sink can never work again (the reader of standard output went away), None while it can."""

    def emit(self, message: Message) -> None:
        """Accept a message: one bounded append. Any thread."""
        with self._lock:
            while self._waits_for_room and self._outbox.is_full and self._stop_by_ns is None:
                self._has_room.wait()
            self._outbox.put(message)
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
            now_ns = self._clock.now_ns()
            for event in self._sink.advance(now_ns):
                self._book(event)
            self._send_all()
            now_ns = self._clock.now_ns()
            if self._stop_by_ns is not None and (self._is_done() or now_ns >= self._stop_by_ns):
                break
            wait_ns = min(self._sink.next_wake_ns(now_ns) - now_ns, WAKE_AT_LEAST_NS)
            if self._stop_by_ns is not None:
                wait_ns = min(wait_ns, self._stop_by_ns - now_ns)
            self._clock.wait(self._wake, wait_ns)
        self._sink.close(self._stop_reason, max(NS_PER_S // 2, self._stop_by_ns - self._clock.now_ns()))
        self._is_connected = False
        self.give_up()

    def stop(self, reason: str, stop_by_ns: int) -> None:
        """Send what can be sent by that time, say goodbye and end. Any thread."""
        with self._lock:
            self._stop_reason = reason
            self._stop_by_ns = stop_by_ns
            self._has_room.notify_all()
        self._wake.set()

    def give_up(self) -> None:
        """Book everything that is still held as carried over or dropped at shutdown. Any thread, at the end."""
        with self._lock:
            if self.carries_over:
                self.carried += [
                    replace(message, body=self._identified(message)) for message in self._outbox.carry_over()
                ]
            self._outbox.close()

    def _identified(self, message: Message) -> dict[str, Any]:
        """Return a message's body with the identity that receivers tell duplicates by."""
        result = {"id": f"{self._boot}-{message.seq}"} if message.kind == "result" else {}
        return {**result, "boot": self._boot, "seq": message.seq, **message.body}

    def snapshot(self) -> dict[str, Any]:
        """Return the delivery ledger under its public names. Any thread."""
        with self._lock:
            book = self._outbox.snapshot()
            is_exact = self._outbox.is_exact()
        return {**book, "is_exact": is_exact, "connected": self._is_connected, "sink": dict(self._sink.state())}

    def _book(self, event: Connected | Disconnected | Acknowledged) -> None:
        if isinstance(event, Acknowledged):
            with self._has_room:
                message = self._outbox.settle(event.token, accepted=event.accepted)
                self._has_room.notify_all()
            if message is not None and not event.accepted:
                self._faults.warn(f"refused {message.topic}", event.reason)
        elif isinstance(event, Connected):
            self._is_connected = True
            self._faults.clear("broker")
            log.info("connected: %s", event.detail)
        else:
            self._is_connected = False
            with self._lock:
                self._outbox.connection_lost()
            self._faults.warn("broker", event.cause)

    def _send_all(self) -> None:
        while self.broken is None and self._sink.room() > 0:
            now_ns = self._clock.now_ns()
            with self._lock:
                taken = self._outbox.take(now_ns)
            if taken is None or not self._send(*taken, now_ns=now_ns):
                return

    def _send(self, message: Message, replay: bool, *, now_ns: int) -> bool:
        """Send or drop one message; return whether the sink can take the next.

        `now_ns` is the moment at which the outbox judged its deadline: the age that is published is that one.
        """
        try:
            payload = json.dumps(self._envelope(message, now_ns, replay=replay), separators=(",", ":")).encode()
        except (TypeError, ValueError) as error:
            self._drop(message, Drop.UNENCODABLE, str(error))
            return True
        if len(payload) > self._sink.packet_bytes_max():
            self._drop(
                message, Drop.OVERSIZE, f"{len(payload)} bytes, the broker takes {self._sink.packet_bytes_max()}"
            )
            return True
        try:
            token = self._sink.send(Packet(message.topic, payload, message.qos, message.retain))
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
        with self._has_room:
            if token is None:
                self._outbox.delivered(replay=replay)
                self._has_room.notify_all()
            else:
                self._outbox.handed_over(token, message, replay=replay)
        if message.kind == "result" and not replay and "late" not in message.body:
            self._record_sent(message.stream, now_ns - message.captured_at_ns, now_ns - message.emitted_at_ns)
        return True

    def _envelope(self, message: Message, now_ns: int, *, replay: bool) -> dict[str, Any]:
        """Return the message as it goes out, with its age at this moment."""
        age_ns = now_ns - message.captured_at_ns
        # Wall time is derived from the age, so that a step of the clock in between cannot make it lie.
        stamp = iso_utc(self._clock.wall_ns() - age_ns)
        if message.kind == "result":
            head = {
                "id": f"{self._boot}-{message.seq}",
                "boot": self._boot,
                "seq": message.seq,
                "stream": message.stream,
                "captured_at": stamp,
                "age_ms": round(age_ns / NS_PER_MS, 3),
            }
        else:
            head = {"boot": self._boot, "seq": message.seq, "at": stamp}
        return {**head, **message.body, **({"replay": True} if replay else {})}

    def _drop(self, message: Message, cause: Drop, reason: str) -> None:
        with self._has_room:
            self._outbox.drop(cause)
            self._has_room.notify_all()
        self._faults.warn(f"{message.topic} not sent ({cause})", reason)

    def _is_done(self) -> bool:
        with self._lock:
            is_empty = not self._outbox.queued and not self._outbox.in_flight
        # Without a connection there is nothing to wait for: what is held is counted as dropped.
        return is_empty or not self._is_connected or self.broken is not None
