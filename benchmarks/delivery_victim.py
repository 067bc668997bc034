"""An egress loop under load with a spool and no broker worth the name: made to be killed at any moment.

python -m benchmarks.delivery_victim FOLDER BOOT [SECONDS] [mute]

`mute`: the broker acknowledges nothing, and every event that it was given is told on standard output.
"""

from __future__ import annotations

import json
import random
import sys
import threading
from collections import deque
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

from agent.clock import NS_PER_MS, NS_PER_S, SystemClock
from agent.core.message import KEPT_KINDS, Message
from agent.core.outbox import Outbox
from agent.core.spool_policy import SpoolLimits
from agent.interfaces import Acknowledged, Connected, Disconnected, Packet, SinkEvent
from agent.loops.egress import EgressLoop, Keeping
from agent.spool.sqlite import SqliteSpool
from agent.wake import Wake

RESULTS_PER_TURN = 5
"""A turn every 5 ms: 1,000 results a second, and an event in each tenth turn."""
BYTES_MAX = 2 << 20
"""Small, so that giving up the oldest is among what a kill interrupts."""


class FickleSink:
    """Connects and disconnects every quarter of a second, and acknowledges most of what it gets, late."""

    def __init__(self, seed: str) -> None:
        self._rng = random.Random(seed)
        self._is_up = False
        self._flip_at_ns = 0
        self._sent: deque[int] = deque()
        self._token = 0

    def advance(self, now_ns: int) -> list[SinkEvent]:
        """See `interfaces.Sink`."""
        events: list[SinkEvent] = []
        while self._sent and self._rng.random() < 0.8:
            events.append(Acknowledged(self._sent.popleft(), accepted=self._rng.random() < 0.99, reason="quota"))
        if now_ns >= self._flip_at_ns:
            self._flip_at_ns = now_ns + NS_PER_S // 4
            self._is_up = not self._is_up
            self._sent.clear()
            events.append(Connected("fickle") if self._is_up else Disconnected("fickle"))
        return events

    def room(self) -> int:
        """See `interfaces.Sink`."""
        return max(0, 64 - len(self._sent)) if self._is_up else 0

    def payload_bytes_max(self, _packet: Packet, /) -> int:
        """See `interfaces.Sink`."""
        return 1 << 20

    def send(self, packet: Packet) -> Hashable | None:
        """See `interfaces.Sink`."""
        del packet
        self._token += 1
        self._sent.append(self._token)
        return self._token

    def flush(self) -> None:
        """See `interfaces.Sink`."""

    def next_wake_ns(self, now_ns: int) -> int:
        """See `interfaces.Sink`."""
        return now_ns + NS_PER_MS

    def close(self, reason: str, timeout_ns: int) -> None:
        """See `interfaces.Sink`."""

    def state(self) -> Mapping[str, Any]:
        """See `interfaces.Sink`."""
        return {}


class MuteSink(FickleSink):
    """Takes everything, acknowledges nothing, and says which events it was given."""

    def advance(self, now_ns: int) -> list[SinkEvent]:
        """See `interfaces.Sink`."""
        return [event for event in super().advance(now_ns) if not isinstance(event, Acknowledged)]

    def send(self, packet: Packet) -> Hashable | None:
        """See `interfaces.Sink`."""
        if packet.topic.startswith("events/"):
            body = json.loads(packet.payload)
            sys.stdout.write(f"{body['boot']}-{body['seq']}\n")
            sys.stdout.flush()
        return super().send(packet)


def main() -> int:
    """Run until somebody kills us, or for the given seconds."""
    folder, boot = Path(sys.argv[1]), sys.argv[2]
    clock, never = SystemClock(), threading.Event()
    end_ns = clock.now_ns() + int(float(sys.argv[3] if len(sys.argv) > 3 else 60) * NS_PER_S)
    loop = EgressLoop(
        sink=MuteSink(boot) if sys.argv[4:] == ["mute"] else FickleSink(boot),
        outbox=Outbox(2000),
        clock=clock,
        boot=boot,
        wake=Wake(),
        record_sent=lambda *_: None,
        waits_for_room=False,
        keeping=Keeping(
            SqliteSpool(folder, KEPT_KINDS, is_made=True, bytes_max=BYTES_MAX), SpoolLimits(BYTES_MAX), 1000
        ),
    )
    thread = threading.Thread(target=loop.run)
    thread.start()
    sys.stdout.write("running\n")
    sys.stdout.flush()
    turn = 0
    while clock.now_ns() < end_ns:
        turn += 1
        for number in range(RESULTS_PER_TURN):
            now_ns = clock.now_ns()
            body = {"made": f"{boot} {turn} {number}", "detections": [{"label": "cat", "box": [1.0, 2.0, 3.0, 4.0]}]}
            loop.emit(Message("result", "results/door", body, now_ns, now_ns + 50 * NS_PER_MS, stream="door"))
        if turn % 10 == 0:
            loop.report("source_lost", {"made": f"{boot} {turn}"})
        clock.wait(never, 5 * NS_PER_MS)
    loop.stop("end", clock.now_ns() + NS_PER_S)
    thread.join()
    return 0 if loop.snapshot()["is_exact"] else 1


if __name__ == "__main__":
    sys.exit(main())
