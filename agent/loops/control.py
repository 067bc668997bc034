"""One thread: everything that the broker asks of the device, one request after the other."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from agent.clock import NEVER_NS, NS_PER_S, Clock
from agent.core.inbound import InboundQueues
from agent.interfaces import Connected, Received, Receiver

log = logging.getLogger(__name__)

WAKE_AT_LEAST_NS = NS_PER_S
"""The receivers' timers are looked at once a second, whatever they say: a suspend stretches a wait."""


class ControlLoop:
    """Hands what came to its receivers, outside of the hot path.

    `hear` is one bounded append: a flood of requests, or a receiver that takes long, never holds egress up.

    Args:
        clock: the agent's.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._receivers: list[Receiver] = []
        self._queues = InboundQueues({})
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._has_connected = False
        self._is_stopping = False
        self._failed = 0
        self._due_ns: dict[str, int] = {}

    def add(self, receiver: Receiver) -> None:
        """Let a receiver take the messages of its topic. Before the thread starts."""
        self._receivers.append(receiver)
        self._queues = InboundQueues({known.topic: known.waiting_max for known in self._receivers})
        self._due_ns[receiver.topic] = 0

    def hear(self, event: Connected | Received) -> None:
        """Take what the sink reports; never waits. Any thread."""
        with self._lock:
            if isinstance(event, Connected):
                self._has_connected = True
            else:
                self._queues.put(event)
        self._wake.set()

    def wake(self) -> None:
        """Let every receiver's `turn` be called soon. Any thread."""
        with self._lock:
            self._due_ns = dict.fromkeys(self._due_ns, 0)
        self._wake.set()

    def run(self) -> None:
        """The thread's body."""
        while not self._is_stopping:
            self._wake.clear()
            now_ns = self._clock.now_ns()
            next_ns = min(self.step(), now_ns + WAKE_AT_LEAST_NS)
            self._clock.wait(self._wake, next_ns - now_ns)

    def stop(self) -> None:
        """End the thread after the call that it makes now. Any thread."""
        self._is_stopping = True
        self._wake.set()

    def step(self) -> int:
        """Give each receiver what came for it and its turn; return when the next is due. The loop's thread."""
        with self._lock:
            has_connected, self._has_connected = self._has_connected, False
        for receiver in self._receivers:
            if has_connected:
                self._guard(receiver, receiver.connected)
            # What waits now and not what comes meanwhile: a flood for one receiver must not starve the others.
            for _ in range(receiver.waiting_max):
                with self._lock:
                    message = self._queues.take(receiver.topic)
                if message is None or self._is_stopping:
                    break
                self._guard(receiver, lambda receiver=receiver, message=message: receiver.receive(message))  # type: ignore[misc]
            self._take_turn(receiver)
        with self._lock:
            return 0 if self._queues.waiting else min(self._due_ns.values(), default=NEVER_NS)

    def snapshot(self) -> dict[str, Any]:
        """Return the figures of what came in. Any thread."""
        with self._lock:
            dropped = {**self._queues.dropped, "failed": self._failed}
            return {"received": self._queues.received, "waiting": self._queues.waiting, "dropped": dropped}

    def _take_turn(self, receiver: Receiver) -> None:
        due_ns = NEVER_NS
        with self._lock:
            self._due_ns[receiver.topic] = NEVER_NS  # A `wake` that comes during the turn asks for another one.

        def turn() -> None:
            nonlocal due_ns
            due_ns = receiver.turn(self._clock.now_ns())

        self._guard(receiver, turn)
        with self._lock:
            self._due_ns[receiver.topic] = min(self._due_ns[receiver.topic], due_ns)

    def _guard(self, receiver: Receiver, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception:
            # What came from outside must never end the thread that could take it back.
            log.exception("%s: failed on a message or a turn; the other requests go on", receiver.topic)
            self._failed += 1
