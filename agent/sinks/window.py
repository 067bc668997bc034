"""What has been given to paho and is not yet acknowledged, or not yet on the wire."""

from __future__ import annotations

from agent.clock import NEVER_NS


class Window:
    """Bounds what is under way, in messages and in bytes.

    paho bounds neither: on a stalled socket 86,000 QoS 0 packets took 185 MiB there. A QoS 0 message is under way
    until its last byte went to the socket, one of QoS 1 until its PUBACK.

    Args:
        packets_max: the setting; the broker's ReceiveMaximum may lower it.
        bytes_max: topics and headers left out. The message that crosses it still goes.
    """

    def __init__(self, packets_max: int, bytes_max: int) -> None:
        self._packets_max = packets_max
        self._bytes_max = bytes_max
        self._limit = packets_max
        self._under_way: dict[int, tuple[int, int, bool]] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._under_way)

    def limit(self, receive_max: int) -> None:
        """Take over what the broker of a new connection allows."""
        self._limit = min(self._packets_max, receive_max)

    def room(self) -> int:
        """Return how many messages may be given to paho now."""
        return max(0, self._limit - len(self._under_way)) if self._bytes < self._bytes_max else 0

    def is_half_free(self) -> bool:
        """Return whether something is under way and as much again may follow it."""
        return 0 < len(self._under_way) <= self.room()

    def add(self, mid: int, size_bytes: int, now_ns: int, *, is_acknowledged: bool) -> None:
        """Note a message; `is_acknowledged` tells whether a PUBACK will follow."""
        self._under_way[mid] = (now_ns, size_bytes, is_acknowledged)
        self._bytes += size_bytes

    def remove(self, mid: int) -> bool:
        """Note the end of a message's way; return whether it is one whose PUBACK was awaited."""
        _, size_bytes, is_acknowledged = self._under_way.pop(mid, (0, 0, False))
        self._bytes -= size_bytes
        return is_acknowledged

    def oldest_ns(self) -> int:
        """Return since when the oldest has been under way, `NEVER_NS` for none: the age that shows a dead peer."""
        return next(iter(self._under_way.values()))[0] if self._under_way else NEVER_NS

    def clear(self) -> None:
        """Forget everything: the connection is gone."""
        self._under_way.clear()
        self._bytes = 0
