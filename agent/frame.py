"""A frame: what a source read, and when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
"""uint8 [H, W, 3] BGR, or uint8 [H, W] grey."""

Samples = npt.NDArray[np.float32]
"""float32 [samples, channels], oldest first: one window of a signal."""

Content = npt.NDArray[Any]
"""What a frame holds: `Pixels` of a picture, or `Samples` of a signal. Their dtypes tell them apart."""

PIXELS_MAX = 8192 * 8192
"""A picture above 67 megapixels is refused before anything is allocated for it. Those of the largest camera modules
have 64; one takes 201 MB in BGR, and the three that a live stream holds (one waits, one is in inference, one is being
read) 604 MB, what a device of 1 GiB has."""

Tensor = npt.NDArray[Any]
"""A model's input or output; shape and dtype are the model's."""


class Capture(NamedTuple):
    """What `Source.read` returns.

    Attributes:
        captured_at_ns: `Clock.now_ns` when the frame became available, before any decoding; of a window of a signal,
            when its last sample was taken.
        pixels: owned by the receiver; the source never writes to it again. Samples where the model takes a signal.
        follows: False where something was lost since the capture before it, so that it is no continuation.
        is_still: whether nothing changed in it, so that it may be left out.
    """

    captured_at_ns: int
    pixels: Content
    follows: bool = True
    is_still: bool = False


class Block(NamedTuple):
    """Consecutive samples of a signal, as a source had them.

    Attributes:
        captured_at_ns: `Clock.now_ns` when the last sample was taken, or when it arrived where nobody says more.
        samples: float32 [samples, channels], at least one sample; owned by the receiver.
        time_ns: of the last sample on its sender's clock, whatever that starts from; None where it is not known. Gaps
            show in it, since arrival jitters.
        follows: False where samples were lost just before.
    """

    captured_at_ns: int
    samples: Samples
    time_ns: int | None = None
    follows: bool = True


@dataclass(slots=True, eq=False)
class Frame:
    """One captured frame on its way to exactly one outcome. Nothing of it changes; `frozen` would cost 2 us each.

    Attributes:
        stream: name of the stream in the settings.
        sequence: counts the stream's captured frames from 1; the ledger's key.
        captured_at_ns: `Clock.now_ns` at capture.
        deadline_ns: absolute; `NEVER_NS` for a stream without a deadline.
        pixels: see `Content`; read-only by agreement once captured.
        follows: see `Capture`.
    """

    stream: str
    sequence: int
    captured_at_ns: int
    deadline_ns: int
    pixels: Content
    follows: bool = True
