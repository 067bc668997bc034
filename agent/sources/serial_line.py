"""A serial line, through pyserial (extra `serial`)."""

from __future__ import annotations

from typing import Any

import serial

from agent.errors import TransientError
from agent.sources.byte_stream import Piece

READ_BYTES = 4096
"""What Linux' tty holds for us."""


class SerialLine:
    """See `byte_stream.Transport`.

    Args:
        device: /dev/ttyUSB0, or better a path below /dev/serial/by-id, which stays the same.
        baud: bits a second.
    """

    def __init__(self, device: str, baud: int) -> None:
        self.name = device
        self._baud = baud
        self._port: Any = None

    def open(self) -> None:
        """See `Transport.open`; every failure may pass: a cable, a hub, another program."""
        try:
            # Exclusive: two readers would each get a part of every line.
            self._port = serial.Serial(self.name, self._baud, timeout=0, exclusive=True)
            self._port.reset_input_buffer()
        except (serial.SerialException, OSError, ValueError) as error:
            self.close()
            raise TransientError(f"{self.name}: cannot be opened: {error}") from error

    def read(self, timeout_s: float) -> Piece | None:
        """See `Transport.read`."""
        try:
            self._port.timeout = timeout_s
            data: bytes = self._port.read(1)
            if not data:
                return None
            return Piece(data + self._port.read(min(READ_BYTES, self._port.in_waiting)))
        except (serial.SerialException, OSError, TypeError) as error:
            # TypeError: pyserial's own, where the device vanishes between two of its calls.
            raise TransientError(f"{self.name}: lost: {error}") from error

    def close(self) -> None:
        """See `Transport.close`."""
        if self._port is not None:
            self._port.close()
            self._port = None
