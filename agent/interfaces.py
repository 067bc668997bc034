"""The seams: what a source, an engine, a decoder and a sink must do. One page, no base classes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from agent.errors import TransientError
from agent.frame import Block, Capture, Content, Frame, Tensor
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
class SignalForm:
    """What a source of samples gives: samples a second, and the names of the channels in its order."""

    rate_hz: float
    channels: tuple[str, ...]


class SampleSource(Protocol):
    """Reads a signal. The same life as a `Source`; a model's windows are cut from its blocks."""

    def form(self) -> SignalForm:
        """Return what it gives; known once it is open."""

    def open(self) -> None:
        """See `Source.open`."""

    def read(self) -> Block | None:
        """Block for the next samples; None at the end of a finite source.

        Raises:
            TransientError: the source is lost; `close`, a wait and `open` follow.
            PermanentError: these samples are unusable; they are counted as one lost frame and reading goes on.
        """

    def close(self) -> None:
        """See `Source.close`."""

    def interrupt(self) -> None:
        """See `Source.interrupt`."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, dtype and shape of a model's input or output; None for a dimension that is free."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]

    def fits(self, dtype: np.dtype[Any], shape: Sequence[int]) -> bool:
        """Return whether a tensor of this type and shape may be given for it."""
        return (
            dtype == self.dtype
            and len(shape) == len(self.shape)
            and all(wanted in (None, size) for wanted, size in zip(self.shape, shape, strict=True))
        )

    def closed(self, free: int = 1) -> list[int]:
        """Return the shape with 1 for open dimensions, but `free` for the last one where that is open."""
        shape = [1 if size is None else size for size in self.shape]
        if self.shape and self.shape[-1] is None:
            shape[-1] = free
        return shape

    def filled(self, values: Sequence[Any], free: int = 1) -> Tensor:
        """Return a tensor of one value everywhere, or of as many values as it holds; `free` as in `closed`.

        Raises:
            TypeError: numbers where the model takes text, or the other way round.
            ValueError: too many or too few values, or a fraction where it takes whole numbers.
            OverflowError: a value is beyond the dtype.
        """
        shape = self.closed(free)
        if self.dtype.hasobject:
            if not all(isinstance(value, str) for value in values):
                raise TypeError("the model takes text")
        elif not all(isinstance(value, int | float) for value in values):
            raise TypeError("the model takes numbers")
        elif self.dtype.kind in "iu" and any(float(value) != int(value) for value in values):
            raise ValueError("the model takes whole numbers")
        if len(values) == 1:
            return np.full(shape, values[0], self.dtype)
        return np.array(values, self.dtype).reshape(shape)

    def __str__(self) -> str:
        dimensions = ",".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.name} {self.dtype}[{dimensions}]"


class Abort(Protocol):
    """Can stop one running inference. Any thread."""

    def set(self) -> None:
        """Ask the inference to end; it raises `InferenceAbortedError` at its next operator."""


class Engine(Protocol):
    """Runs one model. One inference thread calls `run`."""

    @property
    def providers(self) -> tuple[str, ...]:
        """What runs it, by ONNX Runtime's names, the first that takes operators first."""

    @property
    def is_loaded(self) -> bool:
        """Whether it is in memory. Any thread."""

    def new_abort(self) -> Abort:
        """Return the means to stop one run; 1.6 us."""

    def run(self, inputs: Mapping[str, Tensor], abort: Abort) -> list[Tensor]:
        """Run the model; outputs in the model's order, owned by the caller.

        Raises:
            InferenceAbortedError: `abort.set()` came first.
            PermanentError: wrong name, dtype, shape or byte order, or the runtime failed.
        """

    def release(self) -> None:
        """Drop the network from memory once a run has ended; the next `run` loads it again. Any thread."""

    def shrink(self) -> threading.Event:
        """Let the next run give back what activations left in memory; return what is set when it has. Any thread."""


@dataclass(frozen=True, slots=True)
class Signal:
    """The signal that a model takes; `models.signal.SignalSpec` documents each field."""

    rate_hz: float
    channels: tuple[str, ...]
    units: tuple[str, ...]
    length: int
    hop: int
    context: int


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


class Preprocess(Protocol):
    """Frame to model inputs. Inference thread."""

    def __call__(self, content: Content, captured_at_ns: int = 0, /) -> tuple[dict[str, Tensor], Placement]:
        """Return inputs by name, and how the frame lies in them.

        Args:
            content: of the frame: a picture, or a window of a signal.
            captured_at_ns: its capture time, for models that take it.

        Raises:
            PermanentError: a frame it cannot use.
        """


class Decoder(Protocol):
    """Turns a model's outputs into a result's payload. Inference thread; holds no state between frames."""

    def decode(self, outputs: list[Tensor], placement: Placement) -> Payload:
        """Return the payload; scores are rounded to 4 digits, boxes to 0.1 pixel.

        Raises:
            PermanentError: the outputs hold no valid numbers.
        """


class Memory(Protocol):
    """Feeds what a model says of the past back to it, apart for each stream. Inference thread."""

    resets: int
    """Frames that started from the initial state, because something was lost before them or a state was forgotten."""
    broken: int
    """States that were forgotten because they held NaN or infinity."""

    def recall(self, frame: Frame) -> Mapping[str, Tensor]:
        """Return the state inputs for a frame; the initial ones where it does not follow the last one that ran."""

    def remember(self, frame: Frame, outputs: Sequence[Tensor]) -> None:
        """Keep the state outputs of a frame that was preprocessed, run and decoded well.

        Raises:
            PermanentError: the state has grown beyond its limit; it is forgotten.
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
        blank: a small picture, or a window, with which preprocessing is kept warm as well.
        fastest_ns: the fastest run through the whole path that was seen in the warm-up.
        judge: says how the outputs of a run on `warm_inputs` differ from the golden sample, nothing when they do not;
            None for a model without one. Raises PermanentError as `decoder` does. Inference thread.
        memory: of a model with state; None for one that knows nothing but the frame.
    """

    name: str
    sha256: str
    preprocess: Preprocess
    engine: Engine
    decoder: Decoder
    warm_inputs: Mapping[str, Tensor]
    blank: Content
    fastest_ns: int
    judge: Callable[[list[Tensor]], list[str]] | None = None
    memory: Memory | None = None


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """What an inference loop runs: at least one variant, the best first, each lighter than the one before.

    `signal` says which windows it takes, None for pictures. A stateful one needs its frames in order. Without
    `keeps_all` memory does not hold all variants, and only the network of the one in use stays loaded.
    """

    name: str
    version: str
    task: str
    variants: tuple[Variant, ...]
    signal: Signal | None = None
    is_stateful: bool = False
    keeps_all: bool = True


class Packet(NamedTuple):
    """A message in its wire form. `topic` is below the device's tree; one with a leading slash is absolute."""

    topic: str
    payload: bytes
    qos: Literal[0, 1]
    retain: bool
    content_type: str = "application/json"
    expiry_s: int | None = None
    """Seconds after which the broker may forget it instead of delivering it (MQTT 5); None for never."""
    correlation: bytes = b""
    """What an answer brings back of its request (MQTT 5)."""


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


class Acknowledged(NamedTuple):
    """The sink's answer for one packet."""

    token: Hashable
    accepted: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Noticed:
    """Something that the operator should know, to be sent as the event `name`."""

    name: str
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Received:
    """A message that came for the device. Anybody may have sent it.

    Attributes:
        topic: below the device's tree; with a leading slash where it is outside of it.
        payload: bounded by the sink.
        retain: it lay at the broker; MQTT 3.1.1 says so only of one that lay there before we subscribed.
        response_topic: where the sender waits for an answer, as it was sent (MQTT 5).
        correlation: to be sent back with the answer (MQTT 5).
        user_properties: as they were sent (MQTT 5).
    """

    topic: str
    payload: bytes
    retain: bool = False
    response_topic: str = ""
    correlation: bytes = b""
    user_properties: tuple[tuple[str, str], ...] = ()


SinkEvent = Connected | Disconnected | Acknowledged | Noticed | Received


class Receiver(Protocol):
    """Acts on what comes from the broker. The control thread calls everything, one receiver at a time.

    None of it may wait: what takes long goes on in `turn`, or in another thread. What a receiver raises is a bug: it
    is written to the log and counted, and the other receivers go on.
    """

    topic: str
    """What it takes: below the device's tree, or absolute with a leading slash; `+` stands for one level. The sink
    subscribes to the topics of `core.inbound`."""

    waiting_max: int
    """Messages that may wait for it; then the oldest gives way and is counted. 1 for a state: only the newest is
    of use."""

    def connected(self) -> None:
        """Say anew what the far end must know: a connection was made, and the broker may have lost everything."""

    def receive(self, message: Received) -> None:
        """Act on one message of its topic."""

    def turn(self, now_ns: int) -> int:
        """Do what is due now; return when to be called again at the latest, `NEVER_NS` for after the next message."""


class Sink(Protocol):
    """Where results go, and where requests come from.

    The egress thread calls everything; nothing may block for long once connected.
    """

    def advance(self, now_ns: int) -> list[SinkEvent]:
        """Connect or reconnect when it is time, and return what happened since the last call."""

    def room(self) -> int:
        """Return how many packets may be sent now; 0 while disconnected."""

    def payload_bytes_max(self, packet: Packet, /) -> int:
        """Return the largest payload that the far end takes with a packet's topic and properties."""

    def send(self, packet: Packet) -> Hashable | None:
        """Hand over one packet; return a token that `Acknowledged` will carry, None when it did not go.

        Raises:
            TransientError: the sink broke; a `Disconnected` follows.
        """

    def flush(self) -> None:
        """Let go of what `send` held back: nothing follows for now."""

    def next_wake_ns(self, now_ns: int) -> int:
        """Return when `advance` wants to be called at the latest."""

    def close(self, reason: str, timeout_ns: int) -> None:
        """Say goodbye and let go within the time, whatever the far end does."""

    def state(self) -> Mapping[str, Any]:
        """Return figures for health. Any thread."""


@dataclass(frozen=True, slots=True)
class KeptMessage:
    """A message as it lies on disk. `body` is JSON; times as in `core.message.Message`, `boot` never empty."""

    kind: str
    boot: str
    seq: int
    topic: str
    stream: str
    captured_at_ns: int
    captured_wall_ns: int
    body: str


class SpoolDamagedError(TransientError):
    """The file is no spool any more: set it aside and begin a new one."""


class Spool(Protocol):
    """Keeps messages on disk. The egress thread calls everything; a call takes milliseconds unless the disk hangs.

    Every method but `close` raises TransientError when the disk is full, read-only or absent (the same call may
    succeed later, nothing of it was done), and SpoolDamagedError when what the file holds makes no sense.
    """

    place: str
    """Where the messages are, for people."""

    def open(self) -> dict[str, int]:
        """Open or create it and return how many messages of each kind it holds; also after a failure."""

    def write(self, messages: Sequence[KeptMessage], *, durable: bool) -> list[int]:
        """Append messages, all or none, and return their rows, rising and never used twice.

        Args:
            messages: in the order of their acceptance.
            durable: whether they must survive a power cut that follows at once; one fsync.
        """

    def read(self, kind: str, after: int, limit: int) -> list[tuple[int, KeptMessage]]:
        """Return the oldest messages of a kind whose row is above `after`."""

    def delete(self, kind: str, rows: Sequence[int]) -> None:
        """Remove rows; those that are gone already are no error."""

    def set_aside(self, message: KeptMessage, reason: str) -> None:
        """Keep a message that can never be delivered for whoever looks into it; bounded, never replayed."""

    def bytes_used(self) -> int:
        """Return the size of what is kept."""

    def shrink(self) -> None:
        """Give a little unused space back to the file system."""

    def replace(self) -> str:
        """Set the damaged file aside, in the place of an older damaged one, and return where it is now."""

    def close(self) -> None:
        """Let go of the file. Never raises; may be called twice."""
