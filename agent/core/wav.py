"""WAV: the header and the samples of a RIFF/WAVE file, PCM of 8 to 32 bits and float.

Python's `wave` reads neither float nor, before 3.12, the extensible header that most recorders write for more than
two channels (Microsoft, "Multiple Channel Audio Data and WAVE Files").
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from agent.errors import PermanentError
from agent.frame import Samples

HEADER_BYTES_MAX = 1 << 20
"""What may stand before the samples: tags and cue points take kilobytes."""

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_TYPES = {(_PCM, 8): "u1", (_PCM, 16): "<i2", (_PCM, 32): "<i4", (_FLOAT, 32): "<f4", (_FLOAT, 64): "<f8"}


@dataclass(frozen=True, slots=True)
class WavFormat:
    """What the header says.

    Attributes:
        rate_hz: samples a second.
        channels: of each sample.
        bits: of each number.
        is_float: whether numbers are floats.
        data_at: where the samples begin in the file.
        data_bytes: their size as announced; 0 or a huge number from a recorder that was cut off.
    """

    rate_hz: int
    channels: int
    bits: int
    is_float: bool
    data_at: int
    data_bytes: int

    @property
    def sample_bytes(self) -> int:
        """Of one sample with all its channels."""
        return self.channels * self.bits // 8

    def decode(self, data: bytes) -> Samples:
        """Return float32 [samples, channels] in -1..1; a part of a sample at the end is left out."""
        whole = data[: len(data) // self.sample_bytes * self.sample_bytes]
        if self.bits == 24:
            # Each number into the upper three bytes of four.
            wide = np.zeros((len(whole) // 3, 4), np.uint8)
            wide[:, 1:] = np.frombuffer(whole, np.uint8).reshape(-1, 3)
            values = wide.view("<i4")[:, 0] / np.float64(2**31)
        else:
            values = np.frombuffer(whole, _TYPES[(_FLOAT if self.is_float else _PCM, self.bits)])
            if self.bits == 8:
                values = (values.astype(np.float64) - 128) / 128
            elif not self.is_float:
                values = values / np.float64(2 ** (self.bits - 1))
        return values.reshape(-1, self.channels).astype(np.float32)


def parse_header(head: bytes) -> WavFormat:
    """Read the header.

    Args:
        head: the file's beginning, `HEADER_BYTES_MAX` of it at most.

    Raises:
        PermanentError: it is no WAV file that we read; the text says why.
    """
    if len(head) < 12 or head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        raise PermanentError("is not a WAV file")
    at, form = 12, None
    while at + 8 <= len(head):
        name, size = struct.unpack_from("<4sI", head, at)
        at += 8
        if name == b"fmt ":
            form = _parse_format(head[at : at + size])
        elif name == b"data":
            if form is None:
                raise PermanentError("is a WAV file whose samples come before their format")
            rate_hz, channels, bits, is_float = form
            return WavFormat(rate_hz, channels, bits, is_float, at, size)
        at += size + size % 2
    raise PermanentError("is a WAV file without samples")


def _parse_format(chunk: bytes) -> tuple[int, int, int, bool]:
    if len(chunk) < 16:
        raise PermanentError("is a WAV file with a damaged format")
    tag, channels, rate_hz, _, _, bits = struct.unpack_from("<HHIIHH", chunk)
    if tag == _EXTENSIBLE and len(chunk) >= 26:
        tag = struct.unpack_from("<H", chunk, 24)[0]
    if (tag, bits) not in _TYPES and (tag, bits) != (_PCM, 24):
        raise PermanentError(
            f"is a WAV file of format {tag} with {bits} bits: PCM of 8 to 32 bits and float are read"
        )
    if not 0 < channels <= 256 or not 0 < rate_hz <= 1_000_000:
        raise PermanentError(f"is a WAV file of {channels} channels at {rate_hz} Hz")
    return rate_hz, channels, bits, tag == _FLOAT
