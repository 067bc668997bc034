"""What must be set for the whole process before the heavy libraries are loaded."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import sys
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Any

log = logging.getLogger(__name__)

LOADING_THRESHOLD_BYTES = 1 << 17
"""While models are loaded, blocks of 128 KiB and more go back to the system when freed.

glibc's default threshold grows to 32 MiB with use, after which what loading needed stays in the heap for ever: a
24.5 MB CNN settles at 131 MB resident, and at 95 MB with the threshold held.
"""

SERVING_THRESHOLD_BYTES = 32 << 20
"""While frames are served, blocks below 32 MiB (glibc's limit) come from the heap and are used again.

Held at 128 KiB, every frame, tensor and output would be a new mapping whose pages the kernel must clear: 1.5 ms of
system time a frame at 640x480 (docs/benchmarks.md).
"""

MALLOC_ARENAS = 2
"""Heaps that threads take small blocks from, where glibc makes one a thread, up to eight a CPU. What is free in one
is no use to another: 2 MiB less after some hot swaps, each of which loads in a thread of its own. All but native code
takes turns anyhow, so that threads hardly wait for each other here."""

POOL_BYTES = 1 << 14
"""Python's allocator keeps objects of one size in pools of so much; for each size one of them is half full."""

SPARE_BYTES = 1 << 18
"""In pools that nothing lives in, which serve every size: four times what an agent came to need in the quarter of an
hour after its first minute (docs/benchmarks.md)."""

HEAP_BYTES = 1 << 19
"""At the end of each heap, in one piece. With half of it that end grew on, as more than 256 KiB come and go there."""

_BYTES_HEAD = sys.getsizeof(b"")
_OBJECT_SIZES = range(48, 513, 16)  # Larger ones come from malloc; there are no smaller bytes objects.

_M_MMAP_THRESHOLD = -3  # mallopt(3)
_M_TRIM_THRESHOLD = -1
_M_ARENA_MAX = -8
_MCL_CURRENT, _MCL_ONFAULT = 1, 4  # mlockall(2), Linux 4.4


def prepare_process() -> None:
    """Set allocator and library options. Call once in `main`, before cv2 and onnxruntime are imported."""
    # ONNX Runtime 1.32 sends telemetry from a thread of its own unless this stands at its first import.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    # FFmpeg and OpenCV write to standard error on their own; what matters reaches our log as an error.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    # numpy's BLAS starts a thread a CPU at import, outside the budget and with 20 MiB of address space each; nothing
    # here multiplies matrices. OpenMP is what some execution providers bring.
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    _mallopt(_M_ARENA_MAX, MALLOC_ARENAS)
    _set_thresholds(LOADING_THRESHOLD_BYTES)
    _leave_plugins_out()


def _leave_plugins_out() -> None:
    """Keep pydantic from looking for plugins of its own in the metadata of every installed package.

    That is 50 ms and 0.8 MiB of each start, and would run whatever calls itself one. Its own variable spares the
    running, and not the imports for looking; where pydantic names that module otherwise, only the variable is left.
    """
    os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"
    loader: Any = ModuleType("pydantic.plugin._loader")
    loader.get_plugins = tuple
    sys.modules.setdefault(loader.__name__, loader)


def prepare_serving() -> None:
    """Give back what loading left (9 ms), then keep frame buffers for use. Call before the threads start."""
    give_back()
    THRIFT.set(False)


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Load something while frames are served: in the end what that needed goes back, and the rest is locked."""
    try:
        with THRIFT.loading():
            yield
    finally:
        give_back()
        MEMORY_LOCK.renew()


class Thrift:
    """Whether freed buffers go back to the system at once (1.5 ms a frame), or are kept for the next frame.

    They go back while any thread loads, and for as long as the governor wants it; the end of the one leaves the other
    in force. Any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_wanted = False
        self._loads = 0

    def set(self, is_wanted: bool) -> None:
        """Give freed buffers back at once, or no longer."""
        with self._lock:
            self._is_wanted = is_wanted
            self._apply()

    @contextlib.contextmanager
    def loading(self) -> Iterator[None]:
        """Give them back at once meanwhile."""
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    def _count(self, change: int) -> None:
        with self._lock:
            self._loads += change
            self._apply()

    def _apply(self) -> None:
        is_frugal = self._is_wanted or self._loads > 0
        _set_thresholds(LOADING_THRESHOLD_BYTES if is_frugal else SERVING_THRESHOLD_BYTES)


THRIFT = Thrift()
"""Of this process. Before its first call holds what `prepare_process` set: they go back."""


def give_back() -> None:
    """Return free buffers and freed heap to the system. Any thread; see `trim_heap`."""
    from agent.buffers import BUFFERS  # It needs numpy, which must not be imported before `prepare_process`.

    BUFFERS.give_back()
    trim_heap()


def trim_heap() -> None:
    """Return freed heap to the system; 0.2 to 9 ms, in which other threads wait for allocations. Any thread."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def touch_pools() -> None:
    """Have the system put memory where Python has room for small objects and none was yet; 1 to 2 ms. Any thread.

    Otherwise that comes page by page, with each new maximum of the objects of a moment, for hours.
    """
    for size in _OBJECT_SIZES:
        _touch(size, POOL_BYTES)  # The rest of the pool that is in use.
    _touch(_OBJECT_SIZES[-1], SPARE_BYTES)


def _touch(size: int, total: int) -> None:
    held = [b"x" * (size - _BYTES_HEAD) for _ in range(total // size)]  # For zeros nothing need be written.
    del held


def touch_heaps() -> None:
    """Have the system put memory at the end of each heap, where it came page by page for hours; 1 ms. Any thread.

    `trim_heap` leaves the end of all but the first one alone. A thread belongs to one of them from its first
    allocation on, and those that start one after the other to one after the other.
    """
    for _ in range(MALLOC_ARENAS):
        toucher = threading.Thread(target=_touch, args=(HEAP_BYTES, HEAP_BYTES), name="touch-heap")
        toucher.start()
        toucher.join()


class MemoryLock:
    """Keeps in memory what is mapped, once it was touched, where that was asked for (`limits.lock_memory`).

    Pages that were never touched are left alone (MCL_ONFAULT), so that this costs no memory by itself. It is renewed
    after each load, as it holds for what is mapped at that moment. MCL_FUTURE would spare that, and would let every
    later allocation fail that goes past RLIMIT_MEMLOCK: a frame is worth more than a lock.
    """

    def __init__(self) -> None:
        self._is_asked = False
        self.refusal: str | None = "not asked for"
        """Why it does not hold for everything that was loaded; None when it does. Any thread may read it."""

    def ask(self) -> None:
        """Lock now and after each load from now on."""
        self._is_asked = True
        self.renew()

    def renew(self) -> None:
        """Lock what was mapped since, where that was asked for (about 1 ms); any thread, after it loaded a model."""
        if not self._is_asked:
            return
        before, self.refusal = self.refusal, _mlockall(_MCL_CURRENT | _MCL_ONFAULT)
        if self.refusal is not None and self.refusal != before:
            log.warning("limits.lock_memory: refused: %s: raise LimitMEMLOCK", self.refusal)


MEMORY_LOCK = MemoryLock()
"""Of this process."""


def _mlockall(flags: int) -> str | None:
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "mlockall"):
        return "mlockall is missing"
    return None if libc.mlockall(flags) == 0 else os.strerror(ctypes.get_errno())


def _set_thresholds(mmap_bytes: int) -> None:
    _mallopt(_M_MMAP_THRESHOLD, mmap_bytes)
    _mallopt(_M_TRIM_THRESHOLD, 2 * mmap_bytes)


def _mallopt(option: int, value: int) -> None:
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # musl has none, and returns freed blocks by itself.
        libc.mallopt(option, value)
