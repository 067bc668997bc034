"""How much memory the agent may take, how much it takes, and the cap behind both."""

from __future__ import annotations

import contextlib
import os
import resource
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.engine.cgroup import cgroup_folders, read_words
from agent.engine.process import THRIFT, give_back, touch_heaps, touch_pools, trim_heap
from agent.kernel_file import read_kernel_file, read_pressure

MIB = 1 << 20

DEVICE_SHARE = 0.5
"""Of the device's memory, when neither a setting nor a cgroup states a limit: the other half is for the system, its
page cache and whatever else the device is for."""

LEASH_BYTES_MIN = 8 * MIB
"""What may still be allocated where the limit is reached, once until there is room again: the error of a frame that
failed for want of memory needs some too."""

TRIAL_BYTES_MAX = 1024 * MIB
"""A network that needs more than this beyond the agent's limit does not fit by far: figures would be no help."""

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_UNLIMITED_BYTES = 1 << 60
"""cgroup v1 writes a number near 2^63 for no limit."""


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """The most that the agent may take.

    Attributes:
        limit_bytes: of resident memory.
        source: who said so, as in `limits.memory_mb`.
    """

    limit_bytes: int
    source: str

    def __str__(self) -> str:
        return f"{self.limit_bytes / MIB:.0f} MiB ({self.source})"


def memory_limit(asked_mb: int | None, *, root: Path = Path("/")) -> MemoryLimit:
    """Return the least of the setting and the cgroup's limit; without both a share of the device's memory.

    Args:
        asked_mb: `limits.memory_mb`.
        root: where /proc and /sys are, another folder in tests.
    """
    stated = [] if asked_mb is None else [MemoryLimit(asked_mb * MIB, "limits.memory_mb")]
    if (of_cgroup := cgroup_limit_bytes(root)) is not None:
        stated.append(MemoryLimit(of_cgroup, "the cgroup's memory limit"))
    if stated:
        return min(stated, key=lambda limit: limit.limit_bytes)
    device_bytes = _key_values(root / "proc/meminfo").get("MemTotal", 0) * 1024
    if not device_bytes:
        return MemoryLimit(_UNLIMITED_BYTES, "none is known")
    return MemoryLimit(int(device_bytes * DEVICE_SHARE), f"{DEVICE_SHARE:.0%} of the device's memory")


def trial_bytes(limit: MemoryLimit, *, root: Path = Path("/")) -> int:
    """Return what a network may take in the child process that tries it: at least the whole limit.

    More where the device has it, so that a limit that is too small can be answered with figures; half of what is
    free, because other programs live there too.
    """
    free_bytes = _key_values(root / "proc/meminfo").get("MemAvailable", 0) * 1024
    return max(limit.limit_bytes, min(TRIAL_BYTES_MAX, free_bytes // 2))


def cgroup_limit_bytes(root: Path) -> int | None:
    """Return the tightest memory limit of this process's cgroup and its parents; None without one."""
    stated = map(_own_limit, cgroup_folders(root, "memory"))
    return min((limit for limit in stated if limit is not None), default=None)


@dataclass(frozen=True, slots=True)
class MemoryReading:
    """One look at the memory.

    Attributes:
        resident_bytes: of this process.
        ratio: the nearer of: resident memory of the agent's limit, the cgroup's use of the cgroup's limit.
        pressure: percent of the last 10 s in which a task of the cgroup waited for memory; None where that is
            unknown.
    """

    resident_bytes: int
    ratio: float
    pressure: float | None


class MemoryGauge:
    """Reads what is taken; one thread, 20 us and 50 us for a cgroup with a limit.

    Args:
        limit: of the agent.
        root: where /proc and /sys are, another folder in tests.
    """

    def __init__(self, limit: MemoryLimit, *, root: Path = Path("/")) -> None:
        self.limit = limit
        self._statm = root / "proc/self/statm"
        self._folders = [
            (folder, limit_bytes)
            for folder in cgroup_folders(root, "memory")
            if (limit_bytes := _own_limit(folder)) is not None
        ]
        self._pressures = [folder / "memory.pressure" for folder in cgroup_folders(root, "memory")[:1]]

    def read(self) -> MemoryReading:
        """Look now."""
        resident = resident_bytes(self._statm)
        ratios = [_used_bytes(folder) / limit_bytes for folder, limit_bytes in self._folders]
        pressure = next((avg10 for file in self._pressures if (avg10 := read_pressure(file)) is not None), None)
        return MemoryReading(resident, max([resident / self.limit.limit_bytes, *ratios]), pressure)


class Leash:
    """RLIMIT_DATA, held so that private memory cannot grow past the limit within a second.

    The kernel counts address space, not pages: stacks and reserves that nobody touched are data too (60 MiB and more
    of it). So the cap is set anew at each look: data now, plus what is left of the limit, or of the slack behind it.
    An allocation above it fails where it is made: numpy raises MemoryError and ONNX Runtime an error, and that frame
    fails; in any other thread it ends the agent in order. File-backed pages (libraries, mapped weights) do not count;
    the kernel takes those back by itself.

    Args:
        limit: of the agent.
    """

    def __init__(self, limit: MemoryLimit) -> None:
        self._limit = limit
        # A cap from outside stays; ours only ever lowers the soft one.
        self._soft, self._hard = resource.getrlimit(resource.RLIMIT_DATA)
        self._end_bytes: int | None = None
        """Resident memory up to which the slack goes, once, since the limit was reached; None below it."""

    def hold(self) -> int:
        """Set the cap for the next second and return it in bytes."""
        resident = resident_bytes()
        left = self._limit.limit_bytes - resident
        if left >= LEASH_BYTES_MIN:
            self._end_bytes = None
        else:
            # Given anew at each look, it would be 8 MiB more a second without end.
            self._end_bytes = self._end_bytes or resident + LEASH_BYTES_MIN
            left = max(0, self._end_bytes - resident)
        cap = data_bytes() + left
        for outer in (self._soft, self._hard):
            cap = cap if outer == resource.RLIM_INFINITY else min(cap, outer)
        resource.setrlimit(resource.RLIMIT_DATA, (cap, self._hard))
        return cap

    def let_go(self) -> None:
        """Take the cap back."""
        resource.setrlimit(resource.RLIMIT_DATA, (self._soft, self._hard))


def lower_limit(which: int, wanted: int) -> None:
    """Set one of `resource`'s limits for this process, or leave what it was given where that is less."""
    _, hard = resource.getrlimit(which)
    resource.setrlimit(which, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


class MemoryKeeper:
    """Holds the process to its limit, and gives back what can be given. The governor's thread.

    Args:
        limit: of the agent.
    """

    def __init__(self, limit: MemoryLimit) -> None:
        self._leash = Leash(limit)
        self._is_frugal = False
        self._has_let_go = False
        self._has_touched = False
        self._lock = threading.Lock()

    def hold(self) -> None:
        """See `Leash.hold`; does nothing once `let_go` was called."""
        with self._lock:
            if not self._has_let_go:
                self._leash.hold()

    def let_go(self) -> None:
        """Take the cap back for good: it would outlive execve and bind the run that follows. Any thread."""
        with self._lock:
            self._has_let_go = True
            self._leash.let_go()

    def set_frugal(self, is_frugal: bool) -> None:
        """See `process.Thrift`; costs nothing when nothing changes."""
        if is_frugal != self._is_frugal:
            self._is_frugal = is_frugal
            THRIFT.set(is_frugal)

    def give_back(self) -> None:
        """See `process.give_back`."""
        give_back()

    def tidy(self) -> None:
        """Keep memory at its size, for which the first call has it put where it would come over hours (`process`)."""
        trim_heap()
        if not self._has_touched:
            self._has_touched = True
            with contextlib.suppress(
                MemoryError, RuntimeError
            ):  # No room, nor for a thread: it comes later, or never.
                touch_pools()
                touch_heaps()


def resident_bytes(statm: str | Path = "/proc/self/statm") -> int:
    """Return this process's resident memory; 0 where /proc is missing. 10 us."""
    words = read_kernel_file(statm).split()
    return int(words[1]) * _PAGE_BYTES if len(words) > 1 else 0


def data_bytes() -> int:
    """Return what RLIMIT_DATA counts: private writable address space, stacks of threads included."""
    _, _, rest = read_kernel_file("/proc/self/status").partition("VmData:")
    return int(rest.split(maxsplit=1)[0]) * 1024 if rest else 0


def anonymous_bytes() -> int:
    """Return this process's memory that no file backs, which the kernel cannot take back; 0 where unknown. 2 ms."""
    return _key_values(Path("/proc/self/smaps_rollup")).get("Anonymous", 0) * 1024


def proportional_mb() -> float | None:
    """Return this process's share of all pages that it maps (PSS), MiB; None where /proc does not tell. 2 ms."""
    kib = _key_values(Path("/proc/self/smaps_rollup")).get("Pss")
    return None if kib is None else round(kib / 1024, 1)


def _own_limit(folder: Path) -> int | None:
    """Return the tightest memory limit that a cgroup states itself; None without one."""
    limits = []
    for name in ("memory.max", "memory.high", "memory.limit_in_bytes"):
        (limit,) = read_words(folder / name, 1)
        if limit is not None and 0 < limit < _UNLIMITED_BYTES:
            limits.append(limit)
    return min(limits, default=None)


def _used_bytes(folder: Path) -> int:
    """Return a cgroup's memory without the file pages that the kernel would take back first."""
    (current,) = read_words(folder / "memory.current", 1)
    stat = _key_values(folder / "memory.stat")
    if current is not None:
        return max(0, current - stat.get("inactive_file", 0))
    (current,) = read_words(folder / "memory.usage_in_bytes", 1)
    return max(0, (current or 0) - stat.get("total_inactive_file", 0))


def _key_values(file: Path) -> Mapping[str, int]:
    """Return the numbers of a file of lines such as `VmData:  123 kB` or `inactive_file 123`."""
    values: dict[str, int] = {}
    for line in read_kernel_file(file).splitlines():
        words = line.split()
        if len(words) > 1 and words[1].isdigit():
            values.setdefault(words[0].rstrip(":"), int(words[1]))
    return values
