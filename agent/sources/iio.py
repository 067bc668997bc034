"""Sensors of the kernel's Industrial I/O: polled in sysfs, or read from the buffer's device.

Documentation/ABI/testing/sysfs-bus-iio and Documentation/iio/iio_devbuf.rst of the kernel describe both.
"""

from __future__ import annotations

import os
import re
import select
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from agent.clock import NS_PER_S, Clock
from agent.errors import PermanentError, TransientError
from agent.frame import Block
from agent.interfaces import SignalForm
from agent.sources.pacing import Pacer

SYSFS = Path("/sys/bus/iio/devices")
DEV = Path("/dev")
READ_BYTES = 65_536
WAIT_S = 0.25
"""A look for `interrupt` between two waits for samples."""
SILENCE_S = 10.0
"""A running buffer delivers always; one that gives nothing for so long is lost."""
BUFFER_SAMPLES = 128
"""What the kernel holds between two reads."""


@dataclass(frozen=True, slots=True)
class Channel:
    """One channel of a device.

    Attributes:
        name: as in `in_{name}_raw`, such as `accel_x`.
        scale: factor on (raw + offset), which gives the kernel's unit: m/s2, rad/s, mV, ...
        offset: added to raw.
    """

    name: str
    scale: float
    offset: float


@dataclass(frozen=True, slots=True)
class Element:
    """How one channel lies in a buffer's sample: `le:s12/16>>4` is 12 bits, signed, in 16, 4 to the right."""

    is_big_endian: bool
    is_signed: bool
    bits: int
    storage_bits: int
    shift: int

    @classmethod
    def parse(cls, text: str) -> Element:
        """Read a `_type` file.

        Raises:
            PermanentError: it is none that we read.
        """
        found = re.fullmatch(r"(le|be):([su])(\d+)/(8|16|32|64)>>(\d+)", text.strip())
        if found is None:
            raise PermanentError(f"scan element {text.strip()!r} is not of a kind that is read, such as le:s12/16>>4")
        endian, sign, bits, storage, shift = found.groups()
        return cls(endian == "be", sign == "s", int(bits), int(storage), int(shift))

    def decode(self, column: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
        """Return the values of uint8 [samples, storage bytes]."""
        order = ">" if self.is_big_endian else "<"
        words = np.ascontiguousarray(column).view(f"{order}u{self.storage_bits // 8}")[:, 0].astype(np.uint64)
        values = (words >> np.uint64(self.shift)) & np.uint64((1 << self.bits) - 1)
        if not self.is_signed:
            return values.astype(np.float64)
        # Two's complement of `bits` bits: moved to the top of 64 and back, which drags the sign along.
        up = np.uint64(64 - self.bits)
        return ((values << up).view(np.int64) >> np.int64(up)).astype(np.float64)


def find_device(name: str, sysfs: Path = SYSFS) -> Path:
    """Return the folder of a device by its folder's name (`iio:device0`) or its own (`mpu6050`).

    Raises:
        TransientError: it is not there, perhaps not yet.
    """
    folders = sorted(sysfs.glob("iio:device*"))
    for folder in folders:
        if name in (folder.name, _read_text(folder / "name")):
            return folder
    known = ", ".join(f"{folder.name} ({_read_text(folder / 'name') or '?'})" for folder in folders) or "none"
    raise TransientError(f"iio:{name}: there is no such device; known are {known}")


class IioSource:
    """See `interfaces.SampleSource`.

    Args:
        name: of the device.
        channels: names, such as `accel_x`, in the order in which they are wanted.
        rate_hz: to poll at, or to set at a device with a buffer.
        clock: paces and stamps.
        mode: `buffer` reads /dev/iio:deviceN, which needs a trigger or a FIFO in the device; `poll` asks sysfs for
            each value, good for some 100 samples a second; `auto` takes the buffer where there is one.
        sysfs: the devices' folder.
        dev: where the buffers' devices are.
    """

    def __init__(
        self,
        name: str,
        channels: tuple[str, ...],
        rate_hz: float,
        clock: Clock,
        *,
        mode: Literal["auto", "buffer", "poll"] = "auto",
        sysfs: Path = SYSFS,
        dev: Path = DEV,
    ) -> None:
        self._name = name
        self._wanted = channels
        self._rate_hz = rate_hz
        self._clock = clock
        self._mode = mode
        self._sysfs = sysfs
        self._dev = dev
        self._pacer = Pacer(clock, is_paced=True)
        self._interrupted = threading.Event()
        self._folder = sysfs
        self._channels: list[Channel] = []
        self._polled = 0
        self._buffer: _Buffer | None = None

    def open(self) -> None:
        """See `Source.open`."""
        self._folder = find_device(self._name, self._sysfs)
        missing = [name for name in self._wanted if not self._has(name)]
        if missing:
            files = (*self._folder.glob("in_*_raw"), *self._folder.glob("scan_elements/in_*_en"))
            known = ", ".join(sorted({re.sub(r"^in_|_raw$|_en$", "", file.name) for file in files}))
            raise PermanentError(f"iio:{self._name}: has no channel {', '.join(missing)}; it has {known or 'none'}")
        self._channels = [self._describe(name) for name in self._wanted]
        self._polled = 0
        self._pacer.restart()
        device = self._dev / self._folder.name
        if self._mode == "buffer" or (self._mode == "auto" and (self._folder / "buffer").is_dir()):
            self._set_rate()
            self._buffer = _Buffer(self._folder, device, self._channels, f"iio:{self._name}")

    def form(self) -> SignalForm:
        """See `SampleSource.form`."""
        return SignalForm(self._rate_hz, self._wanted)

    def read(self) -> Block | None:
        """See `SampleSource.read`."""
        return self._poll() if self._buffer is None else self._read_buffer(self._buffer)

    def close(self) -> None:
        """See `Source.close`."""
        if self._buffer is not None:
            self._buffer.close()
            self._buffer = None

    def interrupt(self) -> None:
        """See `Source.interrupt`."""
        self._interrupted.set()
        self._pacer.interrupt()

    def _poll(self) -> Block | None:
        captured_at_ns, follows = self._pacer.wait(round(self._polled * NS_PER_S / self._rate_hz))
        if self._interrupted.is_set():
            return None
        is_first, self._polled = self._polled == 0, self._polled + 1
        try:
            values = [(_read_number(self._file(c.name, "raw")) + c.offset) * c.scale for c in self._channels]
        except (OSError, ValueError) as error:
            raise TransientError(f"iio:{self._name}: lost: {error}") from error
        return Block(captured_at_ns, np.array([values], np.float32), None, follows and not is_first)

    def _read_buffer(self, buffer: _Buffer) -> Block | None:
        silent_s = 0.0
        while not self._interrupted.is_set():
            block = buffer.read(self._clock)
            if block is not None:
                return block
            silent_s += WAIT_S
            if silent_s >= SILENCE_S:
                raise TransientError(
                    f"iio:{self._name}: its buffer gave nothing for {SILENCE_S:g} s: has it a trigger?"
                )
        return None

    def _has(self, name: str) -> bool:
        return self._file(name, "raw").exists() or (self._folder / "scan_elements" / f"in_{name}_en").exists()

    def _describe(self, name: str) -> Channel:
        # Channels of one kind often share a file: in_accel_scale for in_accel_x_raw.
        kind = name.partition("_")[0].rstrip("0123456789")
        found = {}
        for what, default in (("scale", 1.0), ("offset", 0.0)):
            files = (self._file(name, what), self._file(kind, what))
            try:
                found[what] = next((_read_number(file) for file in files if file.exists()), default)
            except (OSError, ValueError) as error:
                raise TransientError(f"iio:{self._name}: {what} of {name} cannot be read: {error}") from error
        return Channel(name, found["scale"], found["offset"])

    def _set_rate(self) -> None:
        for file in sorted(self._folder.glob("*sampling_frequency")):
            try:
                file.write_text(f"{self._rate_hz:g}", encoding="ascii")
                actual_hz = _read_number(file)
            except (OSError, ValueError) as error:
                raise TransientError(
                    f"iio:{self._name}: {file.name} cannot be set to {self._rate_hz:g}: {error}"
                ) from error
            if abs(actual_hz - self._rate_hz) > 0.005 * self._rate_hz:
                raise PermanentError(
                    f"iio:{self._name}: samples at {actual_hz:g} Hz where {self._rate_hz:g} was asked for: set "
                    "samples.rate_hz to what it can"
                )

    def _file(self, name: str, what: str) -> Path:
        return self._folder / f"in_{name}_{what}"


class _Buffer:
    """The running buffer of a device."""

    def __init__(self, folder: Path, device: Path, channels: list[Channel], name: str) -> None:
        self._folder = folder
        self._channels = channels
        self._name = name
        self._descriptor = -1
        self._rest = b""
        self._follows = False
        try:
            self._columns, self._size, self._time = self._configure()
            self._descriptor = os.open(device, os.O_RDONLY | os.O_NONBLOCK)
        except (OSError, ValueError) as error:
            self.close()
            raise TransientError(f"{name}: its buffer cannot be used: {error}") from error

    def read(self, clock: Clock) -> Block | None:
        """Return what came within `WAIT_S`."""
        try:
            ready, _, _ = select.select([self._descriptor], [], [], WAIT_S)
            data = os.read(self._descriptor, READ_BYTES) if ready else b""
        except OSError as error:
            raise TransientError(f"{self._name}: lost: {error.strerror}") from error
        if ready and not data:
            raise TransientError(f"{self._name}: its buffer ended")
        now_ns, wall_ns = clock.now_ns(), clock.wall_ns()
        data = self._rest + data
        whole = len(data) - len(data) % self._size
        self._rest = data[whole:]
        if not whole:
            return None
        rows = np.frombuffer(data[:whole], np.uint8).reshape(-1, self._size)
        columns = [
            (element.decode(rows[:, at : at + element.storage_bits // 8]) + channel.offset) * channel.scale
            for channel, (at, element) in zip(self._channels, self._columns, strict=True)
        ]
        follows, self._follows = self._follows, True
        time_ns = None
        if self._time is not None:
            # The kernel's default is CLOCK_REALTIME: an age in the past, never in the future.
            time_ns = int(np.ascontiguousarray(rows[-1:, self._time : self._time + 8]).view("<i8")[0, 0])
            is_wall = abs(wall_ns - time_ns) < 3600 * NS_PER_S
            now_ns -= max(0, wall_ns - time_ns) if is_wall else 0
        return Block(now_ns, np.stack(columns, axis=1).astype(np.float32), time_ns, follows)

    def close(self) -> None:
        """Stop the buffer."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        try:
            (self._folder / "buffer/enable").write_text("0", encoding="ascii")
        except OSError:
            return  # The device is gone, and its buffer with it.

    def _configure(self) -> tuple[list[tuple[int, Element]], int, int | None]:
        """Enable our channels alone; return their places, the size of a sample and the place of its time."""
        scan = self._folder / "scan_elements"
        (self._folder / "buffer/enable").write_text("0", encoding="ascii")
        wanted = {f"in_{channel.name}" for channel in self._channels}
        enabled: list[tuple[int, str]] = []
        for file in sorted(scan.glob("in_*_en")):
            name = file.name.removesuffix("_en")
            is_wanted = name in wanted or name == "in_timestamp"
            file.write_text(str(int(is_wanted)), encoding="ascii")
            if is_wanted:
                enabled.append((int(_read_text(scan / f"{name}_index")), name))
        places, at, longest = {}, 0, 1
        for _, name in sorted(enabled):
            element = Element.parse(_read_text(scan / f"{name}_type"))
            size = element.storage_bits // 8
            at += -at % size  # Each is aligned to its own size, and the whole to the largest.
            places[name] = at, element
            at, longest = at + size, max(longest, size)
        (self._folder / "buffer/length").write_text(str(BUFFER_SAMPLES), encoding="ascii")
        (self._folder / "buffer/enable").write_text("1", encoding="ascii")
        time = places["in_timestamp"][0] if "in_timestamp" in places else None
        return [places[f"in_{channel.name}"] for channel in self._channels], at + -at % longest, time


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _read_number(file: Path) -> float:
    return float(file.read_text(encoding="ascii"))
