"""Devices that are only their remote settings: the agent's own receiver, without frames; fifty fit in a process."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from agent.clock import NS_PER_MS, Clock, SystemClock
from agent.core.envelope import encode_json, envelope
from agent.core.message import Message
from agent.core.probation import Readings, StreamReading
from agent.core.reconcile import Record
from agent.desired.audit import Audit
from agent.desired.receiver import SettingsReceiver
from agent.desired.seams import Surroundings
from agent.errors import ConfigError
from agent.interfaces import Received
from agent.layers import Layers, Leaf
from agent.settings import Settings

POISON_FPS = 13.0
"""The `max_fps` that makes every frame of a poisoned device late."""
PREFIX = "edgebeat/v1"
TICK_NS = 50 * NS_PER_MS


class StandIn:
    """One device. paho's thread appends, the thread of `StandIns` does the rest.

    Args:
        name: the device's id.
        port: of the broker.
        folder: for its audit.
        clock: of all of them.
        probation_s: how long a change is watched.
        is_poisoned: whether `POISON_FPS` makes it late.
    """

    def __init__(
        self, name: str, port: int, folder: Path, clock: Clock, *, probation_s: float, is_poisoned: bool
    ) -> None:
        values: dict[tuple[str | int, ...], Any] = {
            ("device", "id"): name,
            ("remote", "probation_s"): probation_s,
            ("models", 0, "name"): "seen",
            ("models", 0, "path"): "m",
            ("streams", 0, "name"): "door",
            ("streams", 0, "source"): "0",
            ("streams", 0, "model"): "seen",
        }
        layers = Layers(tuple(Leaf(path, value, "stand-in") for path, value in values.items()))
        self.name = name
        self._base = f"{PREFIX}/{name}"
        self._clock = clock
        self._is_poisoned = is_poisoned
        self._settings = layers.load().settings
        self._counts = StreamReading()
        self._heard: deque[bytes | None] = deque()
        self._seq = 0
        self.sent = 0
        around = Surroundings(self._emit, lambda *_: None, self._read, self._restart, clock)
        self._receiver = SettingsReceiver(
            layers,
            Record(),
            layers.load(),
            store=self,
            audit=Audit(folder / name, clock),
            applier=self,
            around=around,
        )
        (folder / name).mkdir()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, name, protocol=mqtt.MQTTv5)
        self._client.on_message = lambda _c, _u, message: self._heard.append(bytes(message.payload))
        self._client.on_subscribe = lambda *_: self._heard.append(None)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        self._client.subscribe(f"{self._base}/settings/desired", 1)
        self._client.publish(f"{self._base}/status", '{"state":"online"}', 1, retain=True)

    @property
    def max_fps(self) -> float | None:
        """What is in force."""
        return self._settings.streams[0].max_fps

    def save(self, record: Record) -> None:
        """See `Store.save`: nothing of it outlives the process."""

    def apply(self, settings: Settings) -> None:
        """See `Applier.apply`."""
        if settings.streams[0].source != "0":
            raise ConfigError("it has no other source")
        self._settings = settings

    def step(self, now_ns: int) -> None:
        """Act on what came, and let time pass."""
        while self._heard:
            payload = self._heard.popleft()
            if payload is None:
                self._receiver.connected()
            else:
                self._receiver.receive(Received("settings/desired", payload, retain=True))
        self._receiver.turn(now_ns)

    def close(self) -> None:
        """End the connection."""
        self._client.disconnect()
        self._client.loop_stop()

    def _read(self) -> Readings:
        missed = 20 if self._is_poisoned and self.max_fps == POISON_FPS else 0
        before = self._counts
        self._counts = StreamReading(before.captured + 20, before.in_time + 20 - missed, before.not_in_time + missed)
        return Readings({"door": self._counts})

    def _emit(self, message: Message) -> None:
        self._seq += 1
        self.sent += 1
        now_ns, wall_ns = self._clock.now_ns(), self._clock.wall_ns()
        body: Mapping[str, Any] = envelope(message, "standin", now_ns=now_ns, wall_ns=wall_ns, replay=False)
        self._client.publish(f"{self._base}/{message.topic}", encode_json(body), message.qos, message.retain)

    def _restart(self, reason: str) -> None:
        raise AssertionError(f"a stand-in cannot restart: {reason}")


class StandIns:
    """Many of them, in one thread.

    Args:
        count: of devices, named `box-000` and so on.
        port: of the broker.
        folder: for their audits.
        probation_s: how long a change is watched.
        poisoned: names of those that `POISON_FPS` makes late.
    """

    def __init__(
        self, count: int, port: int, folder: Path, *, probation_s: float, poisoned: frozenset[str] = frozenset()
    ) -> None:
        clock = SystemClock()
        self._clock = clock
        self._stopping = threading.Event()
        names = [f"box-{number:03d}" for number in range(count)]
        self.devices = {
            name: StandIn(name, port, folder, clock, probation_s=probation_s, is_poisoned=name in poisoned)
            for name in names
        }
        self._thread = threading.Thread(target=self._run, name="stand-ins", daemon=True)
        self.error: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopping.set()
        self._thread.join(10)
        for device in self.devices.values():
            device.close()

    def _run(self) -> None:
        try:
            while not self._clock.wait(self._stopping, TICK_NS):
                for device in self.devices.values():
                    device.step(self._clock.now_ns())
        except BaseException as error:
            self.error = error
            raise
