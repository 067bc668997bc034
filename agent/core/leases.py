"""Who watches which stream, and until when."""

from __future__ import annotations

from agent.clock import NEVER_NS

STREAMS_MAX = 16
"""Watched at once: 16 pictures of 256 KiB are 4 MiB on their way."""
HOLDERS_MAX = 64


class Leases:
    """Leases end by themselves: a viewer that dies leaves nothing running. Not thread-safe."""

    def __init__(self) -> None:
        self._until_ns: dict[tuple[str, str], int] = {}

    def hold(self, stream: str, holder: str, until_ns: int) -> bool:
        """Give or renew a lease; False when there are too many."""
        is_new_stream = stream not in self.streams
        is_new = (stream, holder) not in self._until_ns
        if is_new and (len(self._until_ns) >= HOLDERS_MAX or (is_new_stream and len(self.streams) >= STREAMS_MAX)):
            return False
        self._until_ns[stream, holder] = until_ns
        return True

    def release(self, stream: str, holder: str) -> None:
        """End a lease early; none is no error."""
        self._until_ns.pop((stream, holder), None)

    def expire(self, now_ns: int) -> None:
        """End what is over."""
        self._until_ns = {key: until_ns for key, until_ns in self._until_ns.items() if until_ns > now_ns}

    @property
    def streams(self) -> frozenset[str]:
        """The streams that somebody watches."""
        return frozenset(stream for stream, _ in self._until_ns)

    def next_ns(self) -> int:
        """Return when the next lease ends, `NEVER_NS` for none."""
        return min(self._until_ns.values(), default=NEVER_NS)

    def __len__(self) -> int:
        return len(self._until_ns)
