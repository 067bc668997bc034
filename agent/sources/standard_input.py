"""Standard input: samples from another program's output."""

from __future__ import annotations

import os
import select

from agent.errors import PermanentError, TransientError
from agent.sources.byte_stream import Piece

READ_BYTES = 65_536
"""What a pipe holds."""


class StandardInput:
    """See `byte_stream.Transport`.

    Args:
        descriptor: 0; another one in tests.
    """

    name = "standard input"

    def __init__(self, descriptor: int = 0) -> None:
        self._descriptor = descriptor

    def open(self) -> None:
        """See `Transport.open`."""
        try:
            os.fstat(self._descriptor)
        except OSError:
            raise PermanentError("standard input is closed: pipe samples into the agent") from None

    def read(self, timeout_s: float) -> Piece | None:
        """See `Transport.read`."""
        try:
            ready, _, _ = select.select([self._descriptor], [], [], timeout_s)
            return Piece(os.read(self._descriptor, READ_BYTES)) if ready else None
        except OSError as error:
            raise TransientError(f"standard input: {error.strerror}") from error

    def close(self) -> None:
        """See `Transport.close`: it stays open, since there is no other."""
