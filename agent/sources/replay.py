"""A recorded CSV or NDJSON file: at the times that it tells in live mode, as fast as it is consumed otherwise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import IO

from agent.clock import NS_PER_S, Clock
from agent.core.samples import LINE_BYTES_MAX, Codec, Reading
from agent.errors import PermanentError
from agent.frame import Block
from agent.interfaces import SignalForm
from agent.sources.pacing import Pacer


class ReplaySource:
    """See `interfaces.SampleSource`.

    Args:
        file: a row or an object a line.
        clock: paces and stamps.
        new_codec: reads a line; a new one for each opening, since a header belongs to one reading.
        form: what it gives.
        is_paced: deliver each sample when it is due: by its own time, or by the rate where it has none.
        repeat: start again at the end.
    """

    def __init__(
        self,
        file: Path,
        clock: Clock,
        *,
        new_codec: Callable[[], Codec],
        form: SignalForm,
        is_paced: bool,
        repeat: bool,
    ) -> None:
        self._file = file
        self._new_codec = new_codec
        self._codec = new_codec()
        self._form = form
        self._pacer = Pacer(clock, is_paced=is_paced)
        self._repeat = repeat
        self._opened: IO[bytes] | None = None
        self._line = 0
        self._samples = 0
        self._first_ns: int | None = None
        self._last_ns: int | None = None

    def open(self) -> None:
        """See `Source.open`; a file that cannot be read now is not expected to become readable."""
        try:
            self._opened = self._file.open("rb")
        except OSError as error:
            raise PermanentError(f"{self._file}: cannot be read: {error.strerror}") from error
        self._codec = self._new_codec()
        self._line = self._samples = 0
        self._first_ns = self._last_ns = None
        self._pacer.restart()

    def form(self) -> SignalForm:
        """See `SampleSource.form`."""
        return self._form

    def read(self) -> Block | None:
        """See `SampleSource.read`; an unusable line is named by its number."""
        while True:
            reading = self._next_reading()
            if reading is not None:
                return self._deliver(reading)
            if not self._repeat or not self._samples:
                return None
            self.close()
            self.open()

    def close(self) -> None:
        """See `Source.close`."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def interrupt(self) -> None:
        """See `Source.interrupt`: ends a wait for the next sample's time."""
        self._pacer.interrupt()

    def _next_reading(self) -> Reading | None:
        """Return the next sample; None at the end of the file."""
        assert self._opened is not None
        while line := self._opened.readline(LINE_BYTES_MAX + 1):
            self._line += 1
            try:
                reading = self._codec.parse(line)
            except PermanentError as error:
                raise PermanentError(f"{self._file}:{self._line}: {error}") from None
            if reading is not None:
                return reading
        return None

    def _deliver(self, reading: Reading) -> Block | None:
        is_first = self._samples == 0
        self._samples += len(reading.samples)
        time_ns = reading.time_ns
        if time_ns is None:
            time_ns = round(self._samples * NS_PER_S / self._form.rate_hz)
        if self._last_ns is not None and time_ns <= self._last_ns:
            raise PermanentError(f"{self._file}:{self._line}: is out of order: not after the line before it")
        self._last_ns = time_ns
        if self._first_ns is None:
            self._first_ns = time_ns
        captured_at_ns, follows = self._pacer.wait(time_ns - self._first_ns)
        if self._pacer.is_interrupted:
            return None
        return Block(captured_at_ns, reading.samples, time_ns, follows and not is_first)
