"""What a viewer knows of every device below a prefix: pure state, bounded, indifferent to nonsense."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from agent.cli import payloads
from agent.cli.payloads import Health, Result, Status, UnreadableError, clean
from agent.clock import NS_PER_S

DEVICES_MAX = 1000
STREAMS_MAX = 64
"""Streams a device, the limit that the agent's own settings have."""
STREAMS_TOTAL_MAX = 4096
"""Of all devices together."""
SAMPLES_MAX = 256
"""Results a stream that rate and p95 are taken from. Two numbers each at 36 bytes, 18 kB a stream: together with
the limit above, a flood of made-up devices takes 75 MB and no more."""
RATE_WINDOW_NS = 5 * NS_PER_S
"""Long enough for a figure that stands still at 1 fps, short enough to see a stream stop."""


@dataclass(slots=True)
class StreamView:
    """One stream of a device. Replays are history: they count in `replays` alone.

    Attributes:
        results: live ones.
        replays: results that were sent after their deadline and marked so.
        age_ms: of the last live result; None where it said none.
        text: the last prediction, live or not.
    """

    results: int = 0
    replays: int = 0
    age_ms: float | None = None
    text: str = ""
    arrivals_ns: deque[int] = field(default_factory=lambda: deque(maxlen=SAMPLES_MAX))
    ages_ms: deque[float] = field(default_factory=lambda: deque(maxlen=SAMPLES_MAX))

    def add(self, result: Result, now_ns: int) -> None:
        """Take in one result."""
        self.text = describe(result)
        if result.is_replay:
            self.replays += 1
            return
        self.results += 1
        self.arrivals_ns.append(now_ns)
        self.age_ms = result.age_ms
        if result.age_ms is not None:
            self.ages_ms.append(result.age_ms)

    def rate_hz(self, now_ns: int) -> float:
        """Return live results a second over the window; of what is held where that covers less."""
        recent = [at_ns for at_ns in self.arrivals_ns if now_ns - at_ns < RATE_WINDOW_NS]
        if len(recent) == self.results or len(recent) == SAMPLES_MAX:
            # The stream began within the window, or is so fast that the samples do not reach back to its start.
            elapsed_ns = now_ns - recent[0] if recent else 0
            return (len(recent) - 1) * NS_PER_S / elapsed_ns if elapsed_ns > 0 else 0.0
        return len(recent) * NS_PER_S / RATE_WINDOW_NS

    def age_p95_ms(self) -> float | None:
        """Return the age that 95% of the held results did not exceed (nearest rank); None without any."""
        ranked = sorted(self.ages_ms)
        return ranked[math.ceil(0.95 * len(ranked)) - 1] if ranked else None


@dataclass(slots=True)
class DeviceView:
    """One device; fields are None until it said so."""

    heard_at_ns: int
    status: Status | None = None
    health: Health | None = None
    streams: dict[str, StreamView] = field(default_factory=dict)

    def is_online(self) -> bool | None:
        """Return what its status says; None without one."""
        return None if self.status is None else self.status.state == "online"

    def silent_s(self, now_ns: int) -> float | None:
        """Return how long an online device has been silent beyond what its health promises; None for not."""
        if self.health is None or self.health.stale_after_s is None or self.is_online() is False:
            return None
        silent_s = (now_ns - self.heard_at_ns) / NS_PER_S
        return silent_s if silent_s > self.health.stale_after_s else None


@dataclass(frozen=True, slots=True)
class Change:
    """Something worth a line: a result, an event, or a status that is not the one known before.

    Attributes:
        device: its id, as the topic spells it.
        stream: of a result, else empty.
        text: one line for people, without names.
        result: the parsed result; None for the other kinds.
    """

    device: str
    stream: str
    text: str
    result: Result | None = None

    def line(self) -> str:
        """Return the whole line."""
        name = clean(f"{self.device}/{self.stream}" if self.stream else self.device, 40)
        return f"{name}  {self.text}"


class FleetView:
    """Takes every message below a prefix. Not thread-safe.

    Args:
        prefix: first levels of every topic, without a slash at the end.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix + "/"
        self._readers: dict[str, Callable[[str, str, bytes, int], Change | None]] = {
            "status": self._take_status,
            "results": self._take_result,
            "events": self._take_event,
            "health": self._take_health,
        }
        self.devices: dict[str, DeviceView] = {}
        self.messages = 0
        self.unreadable = 0
        """Payloads that are not what their topic promises."""
        self.reason = ""
        """Of the last of those."""
        self.beyond_limits = 0
        """Messages of devices or streams for which there was no room."""

    def apply(self, topic: str, payload: bytes, now_ns: int) -> Change | None:
        """Take in one message; return what is worth a line. Never raises, whatever the payload is."""
        self.messages += 1
        if not topic.startswith(self._prefix):
            return None
        device, _, rest = topic[len(self._prefix) :].partition("/")
        kind, _, tail = rest.partition("/")
        reader = self._readers.get(kind)
        if reader is None or not device:
            # Pictures, settings, logs and what later versions add are none of this view's business.
            return None
        try:
            return reader(device, tail, payload, now_ns)
        except UnreadableError as error:
            self.unreadable += 1
            self.reason = clean(str(error))
            return None

    def _take_status(self, name: str, tail: str, payload: bytes, now_ns: int) -> Change | None:
        if tail:
            return None
        if not payload:
            # An empty retained status is how an operator clears away a device that is gone for good.
            return None if self.devices.pop(name, None) is None else Change(name, "", "status was cleared")
        status = payloads.parse_status(payload)
        device = self._device(name, now_ns)
        if device is None or device.status == status:
            return None
        if device.status is not None and device.status.boot != status.boot:
            # A new run may have other streams; those of the last one would stand there for ever.
            device.streams.clear()
        device.status = status
        return Change(name, "", describe_status(status))

    def _take_result(self, name: str, stream: str, payload: bytes, now_ns: int) -> Change | None:
        result = payloads.parse_result(payload)
        device = self._device(name, now_ns)
        if device is None:
            return None
        view = device.streams.get(stream)
        if view is None:
            if len(device.streams) >= STREAMS_MAX or self._streams_total() >= STREAMS_TOTAL_MAX:
                self.beyond_limits += 1
                return None
            view = device.streams[stream] = StreamView()
        view.add(result, now_ns)
        age = "" if result.is_replay or result.age_ms is None else f"{result.age_ms:.0f} ms  "
        return Change(name, stream, age + describe(result), result)

    def _take_event(self, name: str, kind: str, payload: bytes, now_ns: int) -> Change | None:
        figures = payloads.parse_event(payload)
        if self._device(name, now_ns) is None:
            return None
        return Change(name, "", f"event {clean(kind, 40)}" + (f": {figures}" if figures else ""))

    def _take_health(self, name: str, tail: str, payload: bytes, now_ns: int) -> None:
        if tail or not payload:
            return
        health = payloads.parse_health(payload)
        device = self._device(name, now_ns)
        if device is not None:
            device.health = health

    def _streams_total(self) -> int:
        return sum(len(device.streams) for device in self.devices.values())

    def _device(self, name: str, now_ns: int) -> DeviceView | None:
        """Return a device that was just heard of, as long as there is room for it."""
        device = self.devices.get(name)
        if device is None:
            if len(self.devices) >= DEVICES_MAX:
                self.beyond_limits += 1
                return None
            device = self.devices[name] = DeviceView(now_ns)
        device.heard_at_ns = now_ns
        return device


def describe(result: Result) -> str:
    """Return the prediction, with what must not be taken for the present marked as such."""
    mark = "replay: " if result.is_replay else "late: " if result.is_late else ""
    return mark + result.text


def describe_status(status: Status) -> str:
    """Return `online (started), v0.1.0`."""
    reason = f" ({status.reason})" if status.reason else ""
    version = f", v{status.version}" if status.version else ""
    return f"{status.state}{reason}{version}"
