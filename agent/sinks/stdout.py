"""Results on standard output, one JSON object a line; everything else stays off it."""

from __future__ import annotations

import sys
from collections.abc import Hashable, Mapping
from typing import Any, TextIO

from agent.clock import NEVER_NS
from agent.interfaces import Connected, Packet, SinkEvent


class StdoutSink:
    """See `interfaces.Sink`. Always connected; a slow reader of the pipe slows the run."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._is_announced = False

    def advance(self, now_ns: int) -> list[SinkEvent]:
        """See `Sink.advance`."""
        del now_ns
        if self._is_announced:
            return []
        self._is_announced = True
        return [Connected("standard output")]

    def room(self) -> int:
        """See `Sink.room`."""
        return 1

    def payload_bytes_max(self, _packet: Packet, /) -> int:
        """See `Sink.payload_bytes_max`."""
        return sys.maxsize

    def send(self, packet: Packet) -> Hashable | None:
        """See `Sink.send`. Raises BrokenPipeError when the reader went away."""
        if packet.topic.startswith("results/"):
            self._stream.write(packet.payload.decode() + "\n")
            # A line at a time, so that a reader of a live stream sees each result at its age.
            self._stream.flush()
        return None

    def flush(self) -> None:
        """See `Sink.flush`: nothing is held back."""

    def next_wake_ns(self, now_ns: int) -> int:
        """See `Sink.next_wake_ns`."""
        del now_ns
        return NEVER_NS

    def close(self, reason: str, timeout_ns: int) -> None:
        """See `Sink.close`."""

    def state(self) -> Mapping[str, Any]:
        """See `Sink.state`."""
        return {"kind": "stdout"}
