"""The seams: what a source, an engine, a decoder and a sink must do. One page, no base classes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from agent.frame import Capture, Pixels, Tensor
from agent.result import Payload


class Source(Protocol):
    """Reads frames. One capture thread calls everything but `interrupt`; `open` first, `close` last."""

    def open(self) -> None:
        """Acquire the device or stream; called again after a loss.

        Raises:
            TransientError: it may work later (the loop backs off with jitter and tries again).
            PermanentError: it never will (the stream ends as failed).
        """

    def read(self) -> Capture | None:
        """Block for the next frame; None at the end of a finite source.

        Raises:
            TransientError: the source is lost; `close`, a wait and `open` follow.
            PermanentError: this frame is unusable; it is counted and reading goes on.
        """

    def close(self) -> None:
        """Release everything. Never raises; may be called twice."""

    def interrupt(self) -> None:
        """Make a waiting `read` return soon where that is possible. Any thread."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, dtype and shape of a model's input or output; None for a dimension that is free."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        dimensions = ",".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.name} {self.dtype}[{dimensions}]"


class Abort(Protocol):
    """Can stop one running inference. Any thread."""

    def set(self) -> None:
        """Ask the inference to end; it raises `InferenceAbortedError` at its next operator."""


class Engine(Protocol):
    """Runs one model. One inference thread calls `run`."""

    def new_abort(self) -> Abort:
        """Return the means to stop one run; 1.6 us."""

    def run(self, inputs: Mapping[str, Tensor], abort: Abort) -> list[Tensor]:
        """Run the model; outputs in the model's order, owned by the caller.

        Raises:
            InferenceAbortedError: `abort.set()` came first.
            PermanentError: wrong name, dtype, shape or byte order, or the runtime failed.
        """


@dataclass(frozen=True, slots=True)
class Placement:
    """How a frame was fitted into a model's input, to be undone on its boxes.

    x_source = (x_input - offset_x) / scale_x, in pixels; the same for y.
    """

    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float
    input_width: int
    input_height: int
    source_width: int
    source_height: int


Preprocess = Callable[[Pixels], tuple[dict[str, Tensor], Placement]]
"""Frame to model inputs. Raises PermanentError for a frame it cannot use. Inference thread."""


class Decoder(Protocol):
    """Turns a model's outputs into a result's payload. Inference thread; holds no state between frames."""

    def decode(self, outputs: list[Tensor], placement: Placement) -> Payload:
        """Return the payload; scores are rounded to 4 digits, boxes to 0.1 pixel.

        Raises:
            PermanentError: the outputs hold no valid numbers.
        """


@dataclass(frozen=True, slots=True, eq=False)
class Variant:
    """One way to run a model, verified and warm.

    Attributes:
        name: `full` for the first, then those of the manifest.
        sha256: of its network's file.
        preprocess: frame to inputs.
        engine: runs the network.
        decoder: outputs to payload.
        warm_inputs: real-shaped inputs for runs that only keep it warm.
        fastest_ns: the fastest run through the whole path that was seen in the warm-up.
    """

    name: str
    sha256: str
    preprocess: Preprocess
    engine: Engine
    decoder: Decoder
    warm_inputs: Mapping[str, Tensor]
    fastest_ns: int


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """What an inference loop runs: at least one variant, the best first, each lighter than the one before."""

    name: str
    version: str
    task: str
    variants: tuple[Variant, ...]


@dataclass(frozen=True, slots=True)
class Packet:
    """A message in its wire form. `topic` is below the device's tree."""

    topic: str
    payload: bytes
    qos: int
    retain: bool


@dataclass(frozen=True, slots=True)
class Connected:
    """The sink can send."""

    detail: str


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The sink cannot send; what was not acknowledged must be sent again.

    `cause` is stable for one cause, so that it is said once and not with each try.
    """

    cause: str


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The sink's answer for one packet."""

    token: Hashable
    accepted: bool
    reason: str = ""


SinkEvent = Connected | Disconnected | Acknowledged


class Sink(Protocol):
    """Where results go. The egress thread calls everything; nothing may block for long once connected."""

    def advance(self, now_ns: int) -> list[SinkEvent]:
        """Connect or reconnect when it is time, and return what happened since the last call."""

    def room(self) -> int:
        """Return how many packets may be sent now; 0 while disconnected."""

    def packet_bytes_max(self) -> int:
        """Return the largest payload the far end takes."""

    def send(self, packet: Packet) -> Hashable | None:
        """Hand over one packet; return a token that `Acknowledged` will carry, None when it did not go.

        Raises:
            TransientError: the sink broke; a `Disconnected` follows.
        """

    def next_wake_ns(self, now_ns: int) -> int:
        """Return when `advance` wants to be called at the latest."""

    def close(self, reason: str, timeout_ns: int) -> None:
        """Say goodbye and let go within the time, whatever the far end does."""

    def state(self) -> Mapping[str, Any]:
        """Return figures for health. Any thread."""
