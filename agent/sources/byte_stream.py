"""Samples from a stream of bytes: standard input, a serial line, a recorder's pipe."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

from agent.clock import Clock
from agent.core.samples import Codec, Lines, RawCodec, SenderTime
from agent.errors import PermanentError, TransientError
from agent.frame import Block
from agent.interfaces import SignalForm

WAIT_S = 0.25
"""A look for `interrupt` between two waits for bytes; a stop may take so long."""


class Piece(NamedTuple):
    """Bytes in their order; `follows` is False where some were lost before them."""

    data: bytes
    follows: bool = True


class Transport(Protocol):
    """Where bytes come from. One capture thread calls everything."""

    name: str
    """For people."""

    def open(self) -> None:
        """See `Source.open`."""

    def read(self, timeout_s: float) -> Piece | None:
        """Return the next bytes, none of them at the end of a finite stream; None when nothing came in time.

        Raises:
            TransientError: the stream is lost.
        """

    def close(self) -> None:
        """See `Source.close`."""


class ByteStreamSource:
    """See `interfaces.SampleSource`.

    Args:
        transport: where the bytes come from.
        clock: stamps them when they arrive.
        new_codec: reads a line, or raw numbers; a new one for each opening, since a header belongs to one stream.
        new_time: reads the times of samples; None where they carry none.
        form: what it gives.
        silence_s: after so long without a byte it is lost; None for never.
    """

    def __init__(
        self,
        transport: Transport,
        clock: Clock,
        *,
        new_codec: Callable[[], Codec],
        new_time: Callable[[], SenderTime] | None,
        form: SignalForm,
        silence_s: float | None = None,
    ) -> None:
        self._transport = transport
        self._clock = clock
        self._new_codec = new_codec
        self._new_time = new_time
        self._form = form
        self._silence_s = silence_s
        self._silent_s = 0.0
        """Counted in waits, so that an agent that was stopped or suspended suspects nobody."""
        self._codec = new_codec()
        self._time: SenderTime | None = None
        self._lines = Lines()
        self._rest = b""
        self._pending: deque[bytes] = deque()
        self._arrived_ns = 0
        self._follows = True
        self._has_ended = False
        self._interrupted = threading.Event()

    def open(self) -> None:
        """See `Source.open`."""
        self._transport.open()
        self._codec = self._new_codec()
        self._time = None if self._new_time is None else self._new_time()
        self._lines, self._rest, self._has_ended, self._follows = Lines(), b"", False, False
        self._pending.clear()
        self._silent_s = 0.0

    def form(self) -> SignalForm:
        """See `SampleSource.form`."""
        return self._form

    def read(self) -> Block | None:
        """See `SampleSource.read`; one line that cannot be used is one error, and a long silence is a loss."""
        while not self._interrupted.is_set():
            while self._pending:
                block = self._parse(self._pending.popleft())
                if block is not None:
                    return block
            if self._has_ended:
                return None
            piece = self._transport.read(WAIT_S)
            if piece is not None:
                self._silent_s = 0.0
                self._take(piece)
                continue
            self._silent_s += WAIT_S
            if self._silence_s is not None and self._silent_s >= self._silence_s:
                raise TransientError(f"{self._transport.name}: said nothing for {self._silence_s:g} s")
        return None

    def close(self) -> None:
        """See `Source.close`."""
        self._transport.close()

    def interrupt(self) -> None:
        """See `Source.interrupt`: takes effect within `WAIT_S`."""
        self._interrupted.set()

    def _take(self, piece: Piece) -> None:
        self._arrived_ns = self._clock.now_ns()
        self._has_ended = not piece.data
        self._follows = self._follows and piece.follows
        if not isinstance(self._codec, RawCodec):
            self._pending += self._lines.feed(piece.data) if piece.data else self._lines.last()
            return
        if not piece.follows:
            self._rest = b""
        data = self._rest + piece.data
        whole = len(data) - len(data) % self._codec.sample_bytes
        self._rest = data[whole:]
        if whole:
            self._pending.append(data[:whole])

    def _parse(self, message: bytes) -> Block | None:
        try:
            reading = self._codec.parse(message)
            if reading is None:
                return None
            captured_at_ns = self._arrived_ns
            if self._time is not None and reading.time_ns is not None:
                wall_ns = self._clock.wall_ns() - (self._clock.now_ns() - self._arrived_ns)
                captured_at_ns = self._time.captured_at_ns(reading.time_ns, wall_ns, captured_at_ns)
        except PermanentError as error:
            raise PermanentError(f"{self._transport.name}: a sample {error}") from None
        follows, self._follows = self._follows, True
        return Block(captured_at_ns, reading.samples, reading.time_ns, follows)
