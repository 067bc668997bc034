"""Messages, lines and bytes become samples. Whoever sent them is not believed: each is checked or refused."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from agent.clock import NS_PER_S
from agent.errors import PermanentError
from agent.frame import Samples

SAMPLES_MAX = 1_000_000
"""Numbers in one message: 4 MB as float32, two seconds of 8 channels at 48 kHz."""

LINE_BYTES_MAX = 65_536
"""A longer line is no reading of a sensor: 1,000 values of 60 characters."""

FUTURE_NS = NS_PER_S
"""A sender's clock may be so much ahead of ours; NTP holds below 0.1 s."""

RESTART_NS = NS_PER_S
"""A sender's own clock that goes back further was started anew, as with the sender."""

STEP_NS = NS_PER_S // 10
"""Our wall clock was set back where it lost more than this against the one that never steps. Time daemons slew what
is less (ntpd: 128 ms), and a thread that is put aside between two reads of clocks is back sooner."""

Dtype = Literal["int8", "int16", "int32", "uint8", "uint16", "float32", "float64"]
Layout = Literal["interleaved", "planar"]


class Reading(NamedTuple):
    """What one message or line says.

    Attributes:
        samples: float32 [samples, channels], at least one.
        time_ns: of the last sample as its sender says; None where it does not.
    """

    samples: Samples
    time_ns: int | None


class Codec(Protocol):
    """Reads one message or line."""

    def parse(self, message: bytes) -> Reading | None:
        """Return what it says; None where it says nothing, as an empty line or a header.

        Raises:
            PermanentError: it cannot be used.
        """


class JsonCodec:
    """A sample as `{"x": 1, "y": 2}`, several as `{"x": [1, 2], "y": [3, 4]}`, or as a list in the channels' order.

    Args:
        channels: names of the keys.
        time_key: name of the key with the time of the last (or each) sample; None where there is none.
        time_unit_ns: what 1 means there.
    """

    def __init__(self, channels: tuple[str, ...], time_key: str | None = None, time_unit_ns: int = NS_PER_S) -> None:
        self._channels = channels
        self._time_key = time_key
        self._time_unit_ns = time_unit_ns

    def parse(self, message: bytes) -> Reading | None:
        """See `Codec.parse`."""
        if not message.strip():
            return None
        try:
            # Decoded first: given bytes, json.loads would guess at UTF-16 and UTF-32.
            body = json.loads(message.decode("utf-8"), parse_constant=_refuse_constant)
        except RecursionError:
            raise PermanentError("JSON is nested too deeply") from None
        except ValueError as error:
            raise PermanentError(f"is not JSON: {error}") from None
        if isinstance(body, dict):
            return self._from_object(body)
        if self._time_key is not None:
            raise PermanentError(f"has no key {self._time_key!r} for its time: it is no JSON object")
        return Reading(self._from_list(body), None)

    def _from_object(self, body: dict[str, Any]) -> Reading:
        missing = [name for name in self._channels if name not in body]
        if missing:
            known = ", ".join(list(body)[:8])[:200]
            raise PermanentError(f"lacks {', '.join(map(repr, missing[:8]))}; it has {known or 'nothing'}")
        columns = [_numbers(body[name], name) for name in self._channels]
        if len({len(column) for column in columns}) > 1:
            counts = ", ".join(f"{name} {len(c)}" for name, c in zip(self._channels, columns, strict=True))
            raise PermanentError(f"has channels of different lengths: {counts}"[:200])
        samples = _checked(np.array(columns, np.float64).T)
        if self._time_key is None:
            return Reading(samples, None)
        if self._time_key not in body:
            raise PermanentError(f"lacks {self._time_key!r}, its time")
        times = _numbers(body[self._time_key], self._time_key)
        if len(times) not in (1, len(samples)):
            raise PermanentError(f"has {len(times)} times for {len(samples)} samples")
        return Reading(samples, _time_ns(times[-1], self._time_unit_ns))

    def _from_list(self, body: object) -> Samples:
        rows: list[Any] = body if isinstance(body, list) else [body]
        if not rows:
            raise PermanentError("holds no sample")
        if not isinstance(rows[0], list):
            # One sample of several channels, or several of one.
            rows = [[value] for value in rows] if len(self._channels) == 1 else [rows]
        for row in rows:
            if not isinstance(row, list) or len(row) != len(self._channels):
                size = len(row) if isinstance(row, list) else "no list of"
                raise PermanentError(f"has {size} values in a sample, wanted {len(self._channels)}")
        columns = [_numbers([row[at] for row in rows], name) for at, name in enumerate(self._channels)]
        return _checked(np.array(columns, np.float64).T)


class CsvCodec:
    """Rows of numbers; a first row with names tells which column is which, else they are in the channels' order.

    Args:
        channels: names of the columns.
        time_key: name of the column with the time; without a header it is the first one.
        time_unit_ns: what 1 means there.
    """

    def __init__(self, channels: tuple[str, ...], time_key: str | None = None, time_unit_ns: int = NS_PER_S) -> None:
        self._channels = channels
        self._time_key = time_key
        self._time_unit_ns = time_unit_ns
        self._wanted = channels if time_key is None else (time_key, *channels)
        self._columns = list(range(len(self._wanted)))
        self._is_first = True

    def parse(self, message: bytes) -> Reading | None:
        """See `Codec.parse`."""
        try:
            text = message.decode("utf-8-sig").strip()
            row = [cell.strip() for cell in next(csv.reader([text]), [])]
        except (UnicodeDecodeError, csv.Error) as error:
            raise PermanentError(f"is not CSV: {error}") from None
        if not row or text.startswith("#"):
            return None
        is_first, self._is_first = self._is_first, False
        if is_first and not any(_is_number(cell) for cell in row):
            self._read_header(row)
            return None
        if len(row) <= max(self._columns):
            raise PermanentError(f"has {len(row)} columns, wanted {max(self._columns) + 1}")
        values = [_parse_cell(row[at], name) for at, name in zip(self._columns, self._wanted, strict=True)]
        if self._time_key is None:
            return Reading(_checked(np.array([values])), None)
        return Reading(_checked(np.array([values[1:]])), _time_ns(values[0], self._time_unit_ns))

    def _read_header(self, names: list[str]) -> None:
        missing = [name for name in self._wanted if name not in names]
        if missing:
            raise PermanentError(f"header lacks {', '.join(map(repr, missing))}; it has {', '.join(names)}"[:300])
        self._columns = [names.index(name) for name in self._wanted]


@dataclass(frozen=True, slots=True)
class RawCodec:
    """Numbers in little-endian order, as they lie in memory.

    Attributes:
        dtype: of each number. Integers are divided by their type's range, so that sound is in -1..1.
        channels: of each sample.
        layout: `interleaved`, sample after sample, or `planar`, channel after channel.
    """

    dtype: Dtype
    channels: int
    layout: Layout = "interleaved"

    @property
    def sample_bytes(self) -> int:
        """Of one sample with all its channels."""
        return np.dtype(self.dtype).itemsize * self.channels

    def parse(self, message: bytes) -> Reading | None:
        """See `Codec.parse`."""
        if not message or len(message) % self.sample_bytes:
            raise PermanentError(
                f"has {len(message)} bytes, no multiple of {self.sample_bytes} ({self.channels} x {self.dtype})"
            )
        values = np.frombuffer(message, np.dtype(self.dtype).newbyteorder("<"))
        is_planar = self.layout == "planar"
        samples = values.reshape(self.channels, -1).T if is_planar else values.reshape(-1, self.channels)
        if samples.dtype.kind == "f":
            return Reading(_checked(samples), None)
        kind = np.iinfo(samples.dtype)
        middle, span = (0, -int(kind.min)) if kind.min else ((kind.max + 1) // 2, (kind.max + 1) // 2)
        return Reading(_checked((samples.astype(np.float64) - middle) / span), None)


class Lines:
    """Bytes become lines, whatever the pieces they come in."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that these bytes complete, without their ends.

        A line that grows beyond `LINE_BYTES_MAX` is returned as it is, to be refused: nobody's buffer grows for ever.
        """
        *lines, self._rest = (self._rest + data).replace(b"\r\n", b"\n").split(b"\n")
        if len(self._rest) > LINE_BYTES_MAX:
            lines, self._rest = [*lines, self._rest], b""
        return lines

    def last(self) -> list[bytes]:
        """Return what stands behind the last line's end, at the end of a file."""
        rest, self._rest = self._rest, b""
        return [rest] if rest else []


class SenderTime:
    """Times that a sender gives to its samples become times of capture.

    They must rise, until a clock begins anew. A sender's own clock did where it goes back by more than `RESTART_NS`.
    Of wall time it is ours that tells: where it was set back since the last sample, the times of a sender that
    follows the same time begin anew, and one that does not follow it loses nothing.

    Args:
        is_wall: whether they count from 1970 UTC, so that ages can be told from them; else only gaps are.
    """

    def __init__(self, *, is_wall: bool) -> None:
        self._is_wall = is_wall
        self._last_ns: int | None = None
        self._offset_ns = 0
        """Of our wall clock to the one that never steps, at the last sample."""

    def captured_at_ns(self, time_ns: int, wall_ns: int, now_ns: int) -> int:
        """Return `Clock.now_ns` of the capture.

        Args:
            time_ns: as the sender says.
            wall_ns: `Clock.wall_ns` at the arrival.
            now_ns: `Clock.now_ns` at the arrival.

        Raises:
            PermanentError: the time is not after the one before, or is in the future.
        """
        if self._is_wall and time_ns > wall_ns + FUTURE_NS:
            ahead_s = (time_ns - wall_ns) / NS_PER_S
            raise PermanentError(f"is from the future, {ahead_s:.3f} s ahead: are the clocks of both devices set?")
        offset_ns = wall_ns - now_ns
        if self._last_ns is not None and time_ns <= self._last_ns:
            behind_ns = self._last_ns - time_ns
            is_anew = self._offset_ns - offset_ns > STEP_NS if self._is_wall else behind_ns > RESTART_NS
            if not is_anew:
                behind_s = behind_ns / NS_PER_S
                raise PermanentError(f"is out of order: {behind_s:.6f} s before the sample that came before it")
        self._last_ns, self._offset_ns = time_ns, offset_ns
        return now_ns - max(0, wall_ns - time_ns) if self._is_wall else now_ns


def _checked(values: npt.NDArray[Any]) -> Samples:
    if values.size == 0:
        raise PermanentError("holds no sample")
    if values.size > SAMPLES_MAX:
        raise PermanentError(f"holds {values.size} numbers, more than {SAMPLES_MAX}")
    with np.errstate(over="ignore"):
        samples = np.ascontiguousarray(values, np.float32)
    if not np.isfinite(samples).all():
        raise PermanentError("holds NaN, infinity or a number beyond float32")
    return samples


def _numbers(value: object, name: str) -> list[float]:
    values: list[Any] = value if isinstance(value, list) else [value]
    for item in values:
        # JSON's true would be Python's 1; an integer of 400 digits is valid JSON and no float.
        if isinstance(item, bool) or not isinstance(item, int | float) or abs(item) > 1e300:
            shown = json.dumps(item)[:40]
            raise PermanentError(f"{name!r} is {shown}, wanted a number")
    return values


def _time_ns(value: float, unit_ns: int) -> int:
    # An integer stays exact: nanoseconds since 1970 are beyond what a float holds.
    time_ns = value * unit_ns if isinstance(value, int) else round(value * unit_ns) if math.isfinite(value) else 2**63
    if abs(time_ns) >= 2**62:
        raise PermanentError(f"its time {value!r} is out of range")
    return time_ns


def _parse_cell(cell: str, name: str) -> float:
    try:
        # An integer stays exact, for times.
        value = int(cell) if cell.lstrip("+-").isdecimal() and len(cell) < 25 else float(cell)
    except ValueError:
        raise PermanentError(f"{name!r} is {cell[:40]!r}, wanted a number") from None
    return value


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
