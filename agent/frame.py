"""A frame: what a source read, and when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
"""uint8 [H, W, 3] BGR, or uint8 [H, W] grey."""

Tensor = npt.NDArray[Any]
"""A model's input or output; shape and dtype are the model's."""


class Capture(NamedTuple):
    """What `Source.read` returns.

    Attributes:
        captured_at_ns: `Clock.now_ns` when the frame became available, before any decoding.
        pixels: owned by the receiver; the source never writes to it again.
    """

    captured_at_ns: int
    pixels: Pixels


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One captured frame on its way to exactly one outcome.

    Attributes:
        stream: name of the stream in the settings.
        sequence: counts the stream's captured frames from 1; the ledger's key.
        captured_at_ns: `Clock.now_ns` at capture.
        deadline_ns: absolute; `NEVER_NS` for a stream without a deadline.
        pixels: see `Pixels`; read-only by agreement once captured.
    """

    stream: str
    sequence: int
    captured_at_ns: int
    deadline_ns: int
    pixels: Pixels
