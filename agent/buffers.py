"""Room for the large arrays that come again with every frame: decoded pictures and what models are given of them."""

from __future__ import annotations

import math
import mmap
import threading
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

LARGE_BYTES = 1 << 16
"""Smaller arrays come from the heap, which serves them well."""

SPARE_TAKES = 4096
"""Room that nobody needed while so many arrays were taken is given back: a burst is over, or frames have a new size.
Until then what is free is at most what was in use at a time within twice as many. With 256, a few seconds of one
camera, the frame that waits for once came and went every few seconds."""


class Buffers:
    """Gives out arrays in memory that is used again once nobody holds the array, or a view of it, any more.

    In the heap, frames of 0.9 MiB leave holes that smaller things settle in, so that now and then one more frame is
    put at its end: an agent grows by such steps for days. Any thread.
    """

    def __init__(self) -> None:
        self._rooms: list[_Room] = []
        self._takes = 0
        self._lock = threading.Lock()

    def take(self, shape: Sequence[int], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Return a C-contiguous array that holds anything; a few us.

        Raises:
            MemoryError: there is no room.
        """
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if size < LARGE_BYTES:
            return np.empty(shape, dtype)
        with self._lock:
            self._takes += 1
            if self._takes % SPARE_TAKES == 0:
                self._drop_free(self._takes - SPARE_TAKES)
            for room in self._rooms:  # The first that is free, so that the last ones are spare.
                if room.size == size and room.is_free():
                    return room.occupy(shape, dtype, self._takes)
            try:
                room = _Room(size)
            except MemoryError:
                self._drop_free(self._takes)
                room = _Room(size)
            self._rooms.append(room)
            return room.occupy(shape, dtype, self._takes)

    def give_back(self) -> None:
        """Return what nobody uses to the system. Any thread."""
        with self._lock:
            self._drop_free(self._takes)

    def _drop_free(self, take: int) -> None:
        """Drop rooms that are free and were not taken since this one."""
        self._rooms = [room for room in self._rooms if room.taken > take or not room.is_free()]


class _Room:
    """Memory for one array.

    Attributes:
        size: bytes.
        taken: number of the take that it served last.

    Raises:
        MemoryError: the system has no more, or none within the process's limits.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.taken = 0
        try:
            self._memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise MemoryError(f"no room for {size} bytes: {error.strerror}") from error
        self._user: weakref.ref[npt.NDArray[Any]] | None = None

    def is_free(self) -> bool:
        return self._user is None or self._user() is None

    def occupy(self, shape: Sequence[int], dtype: npt.DTypeLike, take: int) -> npt.NDArray[Any]:
        # The array does not own the memory, so that each of its views refers to it: it lives as long as they do.
        array: npt.NDArray[Any] = np.ndarray(shape, dtype, buffer=self._memory)
        self._user, self.taken = weakref.ref(array), take
        return array


BUFFERS = Buffers()
"""Of this process."""
