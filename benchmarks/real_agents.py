"""Many real agents on one machine: a light model, a synthetic source of two frames a second, one broker."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from benchmarks import harness
from benchmarks.remote import TINY
from benchmarks.stand_ins import PREFIX

STARTING_MAX = 3
"""Agents that start at the same time; one takes 3 s of CPU."""
START_TIMEOUT_S = 120.0
NICE = 5
CLIP = "view.avi"
"""A file in each agent's working folder: the same setting means another thing on a device where it is damaged."""


class RealAgents:
    """They run while the block does.

    Args:
        count: of agents, named `box-000` and so on.
        port: of the broker.
        folder: for their states, and their working folders.
        probation_s: how long a change is watched.
        poisoned: names of those whose clip cannot be read.
    """

    def __init__(
        self, count: int, port: int, folder: Path, *, probation_s: float, poisoned: frozenset[str] = frozenset()
    ) -> None:
        self._port = port
        self._folder = folder
        self._probation_s = probation_s
        self._poisoned = poisoned
        self._names = [f"box-{number:03d}" for number in range(count)]
        self._processes: list[subprocess.Popen[bytes]] = []
        self._changed = threading.Condition()
        self._online: set[str] = set()
        self._reports: dict[str, Any] = {}
        self.messages: Counter[str] = Counter()
        """That came to the broker, by the first part of their topic."""
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        self._client.on_message = lambda _c, _u, message: self._hear(message)

    def __enter__(self) -> Self:
        self._client.connect("127.0.0.1", self._port)
        self._client.loop_start()
        self._client.subscribe(f"{PREFIX}/#", 1)
        clip = _clip(self._folder)
        try:
            for number, name in enumerate(self._names):
                self._start(name, clip)
                self._wait(max(0, number + 1 - STARTING_MAX))
                harness.note(f"{number + 1} started, {len(self._online)} online")
            self._wait(len(self._names))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            process.kill()
            process.wait()
        self._client.disconnect()
        self._client.loop_stop()

    @property
    def memory_mb(self) -> float:
        """What all of them take, shared pages counted once (PSS)."""
        return sum(harness.memory_mb(process.pid)["Pss"] for process in self._processes)

    @property
    def cpu_s(self) -> float:
        """CPU time of all of them so far."""
        return sum(harness.cpu_s(process.pid) for process in self._processes)

    def values(self, name: str) -> Any:
        """Return the values of an agent's stream, as it reported them last."""
        with self._changed:
            return self._reports[name]["values"]["streams"]["door"]

    def _start(self, name: str, clip: bytes) -> None:
        folder = self._folder / name
        folder.mkdir()
        (folder / CLIP).write_bytes(bytes(1000) if name in self._poisoned else clip)
        (folder / "agent.toml").write_text(f"""
[device]
id = "{name}"
[mqtt]
url = "mqtt://127.0.0.1:{self._port}"
[state]
dir = {json.dumps(str(folder / "state"))}
[remote]
probation_s = {self._probation_s}
[degradation]
steps = []
[limits]
threads = 1
[[models]]
name = "seen"
path = {json.dumps(str(TINY))}
[[streams]]
name = "door"
source = "synthetic:"
model = "seen"
deadline_ms = 5000
fps = 2
repeat = true
""")
        environ = {**os.environ, "PYTHONPATH": str(harness.ROOT)}
        command = ["nice", "-n", str(NICE), sys.executable, "-m", "agent", "run", "--config", "agent.toml"]
        with (folder / "log").open("wb") as log:
            self._processes.append(subprocess.Popen(command, cwd=folder, env=environ, stdout=log, stderr=log))

    def _wait(self, count: int) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._online) >= count, START_TIMEOUT_S):
                raise RuntimeError(f"{len(self._online)} of {count} agents are online after {START_TIMEOUT_S:g} s")

    def _hear(self, message: mqtt.MQTTMessage) -> None:
        name, _, tail = message.topic.removeprefix(f"{PREFIX}/").partition("/")
        with self._changed:
            self.messages[tail.partition("/")[0]] += 1
            if tail == "status" and json.loads(message.payload)["state"] == "online":
                self._online.add(name)
            elif tail == "settings/reported":
                self._reports[name] = json.loads(message.payload)
            self._changed.notify_all()


def _clip(folder: Path) -> bytes:
    """Return a small clip: decoding it costs fifty agents next to nothing."""
    file = folder / CLIP
    size = (64, 64)
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"MJPG"), 2.0, size)
    for shade in range(0, 200, 10):
        writer.write(np.full((*size, 3), shade, np.uint8))
    writer.release()
    return file.read_bytes()
