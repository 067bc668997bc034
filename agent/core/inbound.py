"""What the device hears: the topics that it subscribes to, and the bounded queues of what came."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping

from agent.interfaces import Received

COMMANDS = "commands/+"
DESIRED = "settings/desired"
SUBSCRIPTIONS = (COMMANDS, DESIRED)
"""Below the device's tree, with QoS 1."""

PAYLOAD_BYTES_MAX = 65_536
"""The contract's limit for a document of settings, checked before anything is parsed; a command takes below 1 kB."""


def matches(pattern: str, topic: str) -> bool:
    """Return whether a topic is one of a pattern in which `+` stands for one level."""
    wanted, found = pattern.split("/"), topic.split("/")
    return len(wanted) == len(found) and all(w in ("+", f) for w, f in zip(wanted, found, strict=True))


class InboundQueues:
    """One queue a receiver, so that a flood for one takes nothing from another. Not thread-safe.

    Args:
        limits: messages that may wait, by the receiver's topic pattern; the first that matches takes a message.
    """

    def __init__(self, limits: Mapping[str, int]) -> None:
        self._queues: dict[str, deque[Received]] = {
            pattern: deque(maxlen=waiting_max) for pattern, waiting_max in limits.items()
        }
        self.received = 0
        self.dropped: Counter[str] = Counter(replaced=0, unclaimed=0)
        """`replaced`: the oldest that waited gave way to a newer one; `unclaimed`: nobody takes its topic."""

    def put(self, message: Received) -> bool:
        """Queue a message; return whether there is a receiver for it."""
        self.received += 1
        for pattern, queue in self._queues.items():
            if matches(pattern, message.topic):
                self.dropped["replaced"] += len(queue) == queue.maxlen
                queue.append(message)
                return True
        self.dropped["unclaimed"] += 1
        return False

    def take(self, pattern: str) -> Received | None:
        """Return the oldest message of one receiver, None when none waits."""
        queue = self._queues[pattern]
        return queue.popleft() if queue else None

    @property
    def waiting(self) -> int:
        """Messages that wait."""
        return sum(map(len, self._queues.values()))
