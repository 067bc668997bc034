"""What must be set for the whole process before the heavy libraries are loaded."""

from __future__ import annotations

import ctypes
import os

MMAP_THRESHOLD_BYTES = 1 << 17
"""Blocks of 128 KiB and more go back to the system when freed.

glibc's default threshold grows to 32 MiB with use, after which freed frames and weights stay in the heap: a
24.5 MB CNN settles at 131 MB resident, and at 95 MB with the threshold held (docs/benchmarks.md).
"""

_M_MMAP_THRESHOLD = -3  # mallopt(3)
_M_TRIM_THRESHOLD = -1


def prepare_process() -> None:
    """Set allocator and library options. Call once in `main`, before cv2 and onnxruntime are imported."""
    # ONNX Runtime 1.32 sends telemetry from a thread of its own unless this stands at its first import.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    # FFmpeg and OpenCV write to standard error on their own; what matters reaches our log as an error.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # musl has none, and returns freed blocks by itself.
        libc.mallopt(_M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, 2 * MMAP_THRESHOLD_BYTES)


def release_freed_memory() -> None:
    """Return freed heap pages to the system, 9 ms: after loading a model, never on the hot path."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
