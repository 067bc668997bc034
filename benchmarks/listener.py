"""A subscriber in a process of its own: writes a line for each message, with the time of its arrival.

python -m benchmarks.listener PORT FILE

Its session outlives the broker (with `persistence`) and its connection: what a broker has acknowledged waits for it.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties


@dataclass(frozen=True, slots=True)
class Heard:
    """One result or event as it arrived.

    Attributes:
        kind: `results`, `events` or another first level of the topic.
        boot: with `seq`, the message's identity.
        seq: see `boot`.
        captured_ms: wall time of the capture, by the agent.
        arrived_ms: wall time of the arrival.
        is_replay: it says that it is not fresh.
        body: the rest, without the age.
    """

    kind: str
    boot: str
    seq: int
    captured_ms: float
    arrived_ms: float
    is_replay: bool
    body: str

    @property
    def age_ms(self) -> float:
        """The age that a receiver sees, transport included."""
        return self.arrived_ms - self.captured_ms


def read(file: Path) -> list[Heard]:
    """Return what a listener has written so far; a line that is being written is left out."""
    lines = file.read_bytes().split(b"\n")[:-1]
    return [heard for line in lines if (heard := _parse(*line.split(b" ", 2))) is not None]


def _parse(arrived_ns: bytes, topic: bytes, payload: bytes) -> Heard | None:
    body: dict[str, Any] = json.loads(payload)
    if "seq" not in body:
        return None  # A status.
    stamp = body.pop("captured_at", None) or body.pop("at")
    boot, seq, is_replay = body.pop("boot"), body.pop("seq"), body.pop("replay", False)
    body.pop("age_ms", None)
    captured_ms = datetime.fromisoformat(stamp).timestamp() * 1e3
    kind = topic.decode().split("/")[3]
    rest = "" if kind == "health" else json.dumps(body, sort_keys=True)
    return Heard(kind, boot, seq, captured_ms, int(arrived_ns) / 1e6, is_replay, rest)


def main() -> int:
    """Listen until SIGTERM."""
    port, file = int(sys.argv[1]), Path(sys.argv[2])
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    with file.open("ab", buffering=0) as lines:

        def hear(_client: mqtt.Client, _user: Any, message: mqtt.MQTTMessage) -> None:
            # Nothing is parsed here: a listener that cannot keep up would be what is measured.
            arrived_ns = time.clock_gettime_ns(time.CLOCK_REALTIME)
            lines.write(b"%d %s %s\n" % (arrived_ns, message.topic.encode(), bytes(message.payload)))

        client = mqtt.Client(CallbackAPIVersion.VERSION2, "listener", protocol=mqtt.MQTTv5)
        client.on_message = hear
        client.on_connect = lambda connected, *_: connected.subscribe("edgebeat/v1/#", 1)
        client.on_subscribe = lambda *_: print("listening", flush=True)  # noqa: T201  Who started us waits for it.
        client.reconnect_delay_set(1, 1)
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 3600
        client.connect("127.0.0.1", port, clean_start=False, properties=properties)
        client.loop_start()
        ended.wait()
        client.disconnect()
        client.loop_stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
