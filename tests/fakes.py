"""Hand-written stand-ins for the seams of `agent.interfaces`."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from agent.clock import NS_PER_MS, Waitable
from agent.errors import InferenceAbortedError, PermanentError, TransientError
from agent.frame import Capture, Content, Pixels, Tensor
from agent.interfaces import (
    Acknowledged,
    Connected,
    Disconnected,
    KeptMessage,
    LoadedModel,
    Packet,
    Placement,
    SinkEvent,
    Variant,
)
from agent.result import Payload

PICTURE: Pixels = np.zeros((8, 8, 3), np.uint8)


class ManualClock:
    """A clock that only tests move; `wait` passes the time at once."""

    def __init__(self, now_ns: int = 1_000_000_000) -> None:
        self.ns = now_ns
        self.wall_step_ns = 0

    def now_ns(self) -> int:
        return self.ns

    def wall_ns(self) -> int:
        return 1_700_000_000_000_000_000 + self.ns + self.wall_step_ns

    def wait(self, event: Waitable, timeout_ns: int) -> bool:
        self.ns += max(0, timeout_ns)
        return event.is_set()


Step = Capture | BaseException | None


class ScriptedSource:
    """Plays a list for each opening: captures are returned, exceptions raised, None ends."""

    def __init__(self, *openings: list[Step]) -> None:
        self._openings = deque(openings)
        self._steps: deque[Step] = deque()
        self.opened = 0
        self.closed = 0

    def open(self) -> None:
        self.opened += 1
        if not self._openings:
            raise TransientError("nothing more in the script")
        self._steps = deque(self._openings.popleft())
        if self._steps and isinstance(self._steps[0], BaseException):
            raise self._steps.popleft()  # type: ignore[misc]

    def read(self) -> Capture | None:
        step = self._steps.popleft() if self._steps else None
        if isinstance(step, BaseException):
            raise step
        return step

    def close(self) -> None:
        self.closed += 1

    def interrupt(self) -> None:
        pass


class ScriptedAbort:
    """An abort that only remembers."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def set(self) -> None:
        self.event.set()


class ScriptedEngine:
    """Runs a function in the place of a model; the function may wait for the abort."""

    def __init__(self, body: Callable[[ScriptedAbort], None] = lambda abort: None) -> None:
        self._body = body
        self.runs = 0
        self.providers = ("CPUExecutionProvider",)
        self.is_loaded = True
        self.released = 0
        self.shrunk = 0

    def release(self) -> None:
        self.released += 1
        self.is_loaded = False

    def shrink(self) -> threading.Event:
        self.shrunk += 1
        done = threading.Event()
        done.set()
        return done

    def new_abort(self) -> ScriptedAbort:
        return ScriptedAbort()

    def run(self, inputs: Mapping[str, Tensor], abort: Any) -> list[Tensor]:
        self.runs += 1
        self.is_loaded = True
        self._body(abort)
        return [np.array([1.0])]


def wait_for_abort(abort: ScriptedAbort) -> None:
    """A model that only ends when it is aborted."""
    assert abort.event.wait(30)
    raise InferenceAbortedError


class OneBox:
    """A decoder that always finds the same thing, or fails."""

    def __init__(self, error: PermanentError | None = None) -> None:
        self._error = error

    def decode(self, outputs: list[Tensor], placement: Placement) -> Payload:
        if self._error is not None:
            raise self._error
        return {"classes": [{"label": "thing", "class_id": 1, "score": 0.9}]}


def identity_preprocess(pixels: Content, captured_at_ns: int = 0) -> tuple[dict[str, Tensor], Placement]:
    """Pass pixels through; refuse empty frames as the real one does."""
    if pixels.size == 0:
        raise PermanentError("frame has no pixels")
    height, width = pixels.shape[:2]
    return {"x": pixels}, Placement(1, 1, 0, 0, width, height, width, height)


def fake_model(*engines: Any, decoder: Any = None) -> LoadedModel:
    """Wrap engines as a verified model with as many variants."""
    variants = [
        Variant(name, name * 2, identity_preprocess, engine, decoder or OneBox(), {"x": PICTURE}, PICTURE, NS_PER_MS)
        for name, engine in zip(("full", "small", "tiny"), engines, strict=False)
    ]
    return LoadedModel("fake", "1", "classification", tuple(variants))


class MemorySink:
    """Keeps packets; connects, loses and refuses when told to."""

    def __init__(self, *, connected: bool = True, room: int = 1_000, acknowledges: bool = True) -> None:
        self.packets: list[Packet] = []
        self.flushed = 0
        self.events: deque[SinkEvent] = deque([Connected("memory")] if connected else [])
        self.is_up = connected
        self.acknowledges = acknowledges
        self.bytes_max = 1 << 20
        self.closed_with: str | None = None
        self.send_error: Exception | None = None
        self._room = room
        self._tokens = 0

    def lose(self, cause: str = "gone") -> None:
        self.is_up = False
        self.events.append(Disconnected(cause))

    def come_back(self) -> None:
        self.is_up = True
        self.events.append(Connected("memory"))

    def advance(self, now_ns: int) -> list[SinkEvent]:
        happened = list(self.events)
        self.events.clear()
        return happened

    def room(self) -> int:
        return self._room if self.is_up else 0

    def payload_bytes_max(self, _packet: Packet, /) -> int:
        return self.bytes_max

    def send(self, packet: Packet) -> Hashable | None:
        if self.send_error is not None:
            raise self.send_error
        self.packets.append(packet)
        if packet.qos == 0:
            return None
        self._tokens += 1
        if self.acknowledges:
            self.events.append(Acknowledged(self._tokens, accepted=True))
        return self._tokens

    def flush(self) -> None:
        self.flushed = len(self.packets)

    def next_wake_ns(self, now_ns: int) -> int:
        return now_ns + 1_000_000

    def close(self, reason: str, timeout_ns: int) -> None:
        self.closed_with = reason

    def state(self) -> Mapping[str, Any]:
        return {"kind": "memory"}


class MemorySpool:
    """A spool without a disk; fails when told to. `error` is raised by every call until it is taken away."""

    place = "memory"

    def __init__(self) -> None:
        self.tables: dict[str, dict[int, KeptMessage]] = {"result": {}, "event": {}}
        self.aside: list[tuple[KeptMessage, str]] = []
        self.error: TransientError | None = None
        self.writes: list[tuple[int, bool]] = []
        self.replaced = 0
        self.is_open = False
        self._row = 0

    def open(self) -> dict[str, int]:
        self._check()
        self.is_open = True
        return {kind: len(rows) for kind, rows in self.tables.items()}

    def write(self, messages: Sequence[KeptMessage], *, durable: bool) -> list[int]:
        self._check()
        self.writes.append((len(messages), durable))
        rows = []
        for message in messages:
            self._row += 1
            self.tables[message.kind][self._row] = message
            rows.append(self._row)
        return rows

    def read(self, kind: str, after: int, limit: int) -> list[tuple[int, KeptMessage]]:
        self._check()
        return list(itertools.islice(((row, kept) for row, kept in self.tables[kind].items() if row > after), limit))

    def delete(self, kind: str, rows: Sequence[int]) -> None:
        self._check()
        for row in rows:
            self.tables[kind].pop(row, None)

    def set_aside(self, message: KeptMessage, reason: str) -> None:
        self._check()
        self.aside.append((message, reason))

    def bytes_used(self) -> int:
        self._check()
        return 1000 * sum(map(len, self.tables.values()))

    def shrink(self) -> None:
        self._check()

    def replace(self) -> str:
        self.replaced += 1
        self.error = None
        for rows in self.tables.values():
            rows.clear()
        return "memory.damaged"

    def close(self) -> None:
        self.is_open = False

    def _check(self) -> None:
        if self.error is not None:
            raise self.error
