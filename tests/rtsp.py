"""A real RTSP server, GStreamer's, in the system's Python."""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.paths import REPOSITORY

NO_SERVER = "no RTSP server: apt-get install python3-gi gir1.2-gst-rtsp-server-1.0, plugins-{good,bad,ugly}"

PYTHON = shutil.which("python3", path="/usr/bin")
BINDINGS = """
import gi
gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gst, GstRtspServer
Gst.init()
assert Gst.ElementFactory.find("x264enc") and Gst.ElementFactory.find("rtph264pay")
"""


@functools.cache
def has_server() -> bool:
    """Whether the system's Python can serve RTSP."""
    if PYTHON is None:
        return False
    return subprocess.run([PYTHON, "-c", BINDINGS], capture_output=True, timeout=60, check=False).returncode == 0


@contextmanager
def rtsp_camera(port: int, side: int) -> Iterator[None]:
    """Serve 10 pictures a second of this size."""
    assert PYTHON is not None
    command = [PYTHON, str(REPOSITORY / "benchmarks/rtsp_server.py"), str(port), str(side), "10"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield
        finally:
            process.kill()
