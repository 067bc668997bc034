"""What sources read in tests: a folder tree as the kernel's, a recorder, a serial line, messages."""

from __future__ import annotations

import os
import stat
import threading
import tty
from collections.abc import Callable
from pathlib import Path

import numpy as np
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from agent.clock import NS_PER_MS, SystemClock


class Feeder:
    """Calls something again and again, in a thread of its own, until it is stopped.

    Args:
        feed: given 0, 1, 2 and so on.
        interval_ms: between two calls.
    """

    def __init__(self, feed: Callable[[int], object], interval_ms: float = 10) -> None:
        self._feed = feed
        self._interval_ns = int(interval_ms * NS_PER_MS)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Feeder:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        number, clock = 0, SystemClock()
        while not clock.wait(self._stopping, self._interval_ns):
            self._feed(number)
            number += 1


class SerialPair:
    """A pty: what is written here is read from `device` as from a serial line."""

    def __init__(self) -> None:
        self._ours, theirs = os.openpty()
        tty.setraw(theirs)
        self.device = os.ttyname(theirs)
        self._theirs = theirs

    def write(self, data: bytes) -> None:
        os.write(self._ours, data)

    def close(self) -> None:
        for descriptor in (self._ours, self._theirs):
            os.close(descriptor)


class IioTree:
    """A folder tree as /sys/bus/iio/devices, with one device of two channels; its buffer's device is a FIFO.

    accel_x lies in a sample as le:s12/16>>4, accel_y as be:s16/16>>0, then the time as le:s64/64>>0.
    """

    def __init__(self, folder: Path, *, has_buffer: bool) -> None:
        self.sysfs, self.dev = folder / "devices", folder / "dev"
        self.device = self.sysfs / "iio:device0"
        self.device.mkdir(parents=True)
        self.dev.mkdir()
        self._write("name", "imu")
        for name, raw in {"accel_x": 100, "accel_y": -200}.items():
            self._write(f"in_{name}_raw", raw)
        self._write("in_accel_scale", 0.5)
        self._write("in_accel_y_offset", 10)
        self._fifo = -1
        if has_buffer:
            self._write("sampling_frequency", 100)
            (self.device / "buffer").mkdir()
            self._write("buffer/enable", 0)
            self._write("buffer/length", 2)
            (self.device / "scan_elements").mkdir()
            types = {"accel_x": "le:s12/16>>4", "accel_y": "be:s16/16>>0", "timestamp": "le:s64/64>>0"}
            for index, (name, kind) in enumerate(types.items()):
                self._write(f"scan_elements/in_{name}_en", 0)
                self._write(f"scan_elements/in_{name}_index", index)
                self._write(f"scan_elements/in_{name}_type", kind)
            os.mkfifo(self.dev / "iio:device0")
            self.reopen()

    def push(self, x: int, y: int, time_ns: int) -> None:
        """Put one sample into the buffer."""
        word = np.array([(x & 0xFFF) << 4], "<u2").tobytes() + np.array([y], ">i2").tobytes()
        os.write(self._fifo, word + b"\0" * 4 + np.array([time_ns], "<i8").tobytes())

    def reopen(self) -> None:
        """Be the buffer's writer, at first or again after `close`."""
        # Opened for both, so that neither end waits for the other, nor ends with it.
        self._fifo = os.open(self.dev / "iio:device0", os.O_RDWR)

    def close(self) -> None:
        if self._fifo >= 0:
            os.close(self._fifo)
            self._fifo = -1

    def _write(self, name: str, value: object) -> None:
        (self.device / name).write_text(f"{value}\n")


def fake_recorder(folder: Path, body: str) -> str:
    """Write a program that stands in for arecord and return its path; `body` is shell."""
    program = folder / "recorder"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return str(program)


class Publisher:
    """Sends messages to a broker, with plain paho."""

    def __init__(self, port: int) -> None:
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, *exc: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def publish(self, topic: str, payload: bytes | str) -> None:
        """Send at QoS 1; paho resends until it is acknowledged."""
        self._client.publish(topic, payload, qos=1)

    def publish_and_wait(self, topic: str, payload: bytes | str) -> None:
        """Send at QoS 1 and wait for the broker's acknowledgement."""
        self._client.publish(topic, payload, qos=1).wait_for_publish(10)
