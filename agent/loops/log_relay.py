"""Warnings and errors as messages on `log`, so that the operator of a hundred boxes need not log in to each."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator

from agent.clock import Clock
from agent.core.message import Message
from agent.core.token_bucket import TokenBucket

PER_S = 1
BURST = 20
"""What starts or fails at once says a dozen lines; after that one a second, 300 bytes each."""
TEXT_MAX = 1000
"""Characters of a message; a trace stays on the device."""


class LogRelay(logging.Handler):
    """Hands records to egress at a limited rate; counts the rest into the next one. Any thread.

    Nothing may log while it holds egress' lock. Records cost one bounded append, as results do.

    Args:
        emit: `EgressLoop.emit`.
        clock: the agent's.
    """

    def __init__(self, emit: Callable[[Message], None], clock: Clock) -> None:
        super().__init__(logging.WARNING)
        self._emit = emit
        self._clock = clock
        self._bucket = TokenBucket(PER_S, BURST)
        self._suppressed = 0

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler.emit`; the base class holds this handler's lock."""
        now_ns = self._clock.now_ns()
        if self._bucket.next_ns(now_ns) > now_ns:
            self._suppressed += 1
            return
        self._bucket.spend(now_ns)
        body = {
            "level": record.levelname.lower(),
            "logger": record.name,
            "thread": record.threadName,
            "message": record.getMessage()[:TEXT_MAX],
            **({"suppressed": self._suppressed} if self._suppressed else {}),
        }
        self._suppressed = 0
        self._emit(Message(kind="log", topic="log", body=body, captured_at_ns=now_ns, qos=0))


@contextlib.contextmanager
def relaying(emit: Callable[[Message], None], clock: Clock) -> Iterator[None]:
    """Relay the agent's records for the length of the block."""
    relay, logger = LogRelay(emit, clock), logging.getLogger("agent")
    logger.addHandler(relay)
    try:
        yield
    finally:
        logger.removeHandler(relay)
