"""A WAV file: paced as a microphone in live mode, as fast as it is consumed otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import IO

from agent.clock import NS_PER_S, Clock
from agent.core.wav import HEADER_BYTES_MAX, WavFormat, parse_header
from agent.errors import PermanentError
from agent.frame import Block
from agent.interfaces import SignalForm
from agent.sources.pacing import Pacer


class WavSource:
    """See `interfaces.SampleSource`.

    Args:
        file: PCM or float.
        clock: paces and stamps.
        is_paced: deliver each block when its last sample is due.
        repeat: start again at the end.
        block_s: how much to deliver at a time, s.
    """

    def __init__(self, file: Path, clock: Clock, *, is_paced: bool, repeat: bool, block_s: float) -> None:
        self._file = file
        self._pacer = Pacer(clock, is_paced=is_paced)
        self._repeat = repeat
        self._block_s = block_s
        self._opened: IO[bytes] | None = None
        self._format: WavFormat | None = None
        self._block_samples = 1
        self._read_samples = 0

    def open(self) -> None:
        """See `Source.open`; a file that cannot be read now is not expected to become readable."""
        try:
            self._opened = self._file.open("rb")
            self._format = parse_header(self._opened.read(HEADER_BYTES_MAX))
            self._opened.seek(self._format.data_at)
        except OSError as error:
            raise PermanentError(f"{self._file}: cannot be read: {error.strerror}") from error
        except PermanentError as error:
            self.close()
            raise PermanentError(f"{self._file}: {error}") from None
        self._block_samples = max(1, round(self._block_s * self._format.rate_hz))
        self._read_samples = 0
        self._pacer.restart()

    def form(self) -> SignalForm:
        """See `SampleSource.form`: channels are "1", "2" and so on."""
        assert self._format is not None
        names = tuple(str(number) for number in range(1, self._format.channels + 1))
        return SignalForm(self._format.rate_hz, names)

    def read(self) -> Block | None:
        """See `SampleSource.read`."""
        assert self._format is not None
        assert self._opened is not None
        form, opened = self._format, self._opened
        samples = form.decode(self._read_bytes(opened))
        if not len(samples):
            if self._read_samples == 0:
                raise PermanentError(f"{self._file}: holds no samples")
            if not self._repeat:
                return None
            self.close()
            self.open()
            return self.read()
        self._read_samples += len(samples)
        at_ns = self._read_samples * NS_PER_S // form.rate_hz
        is_first = self._read_samples == len(samples)
        captured_at_ns, follows = self._pacer.wait(at_ns)
        if self._pacer.is_interrupted:
            return None
        return Block(captured_at_ns, samples, at_ns, follows and not is_first)

    def close(self) -> None:
        """See `Source.close`."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def interrupt(self) -> None:
        """See `Source.interrupt`: ends a wait for the next block's time."""
        self._pacer.interrupt()

    def _read_bytes(self, opened: IO[bytes]) -> bytes:
        """Read one block; what stands behind the samples (tags) is left out, where the header tells their size."""
        assert self._format is not None
        wanted = self._block_samples * self._format.sample_bytes
        left = self._format.data_bytes - self._read_samples * self._format.sample_bytes
        # Recorders that were cut off leave 0, or a size that cannot be: then the file's end tells.
        is_known = 0 < self._format.data_bytes < 0xFFFF_0000
        return opened.read(min(wanted, max(0, left)) if is_known else wanted)
