"""An RTSP camera whose pictures tell when they were made.

It is run by the system's Python, which has GStreamer's bindings:

apt-get install python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-base gstreamer1.0-plugins-good \
    gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly
python3 benchmarks/rtsp_server.py PORT SIDE FPS
"""

from __future__ import annotations

import sys
import time
from typing import Any

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402  After their versions were chosen.

CELLS = 8
"""The picture is 8 x 8 cells, each black or white: the milliseconds since 1970 in binary, the lowest bit first."""


def picture(side: int) -> bytes:
    """Return an I420 picture of the present: luminance, then chrominance without colour."""
    now_ms = time.clock_gettime_ns(time.CLOCK_REALTIME) // 1_000_000
    cell = side // CELLS
    rows = []
    for row in range(CELLS):
        bits = (now_ms >> (row * CELLS)) & 0xFF
        line = b"".join((b"\xeb" if bits >> column & 1 else b"\x10") * cell for column in range(CELLS))
        rows.append(line * cell)
    return b"".join(rows) + b"\x80" * (side * side // 2)


class Camera(GstRtspServer.RTSPMediaFactory):  # type: ignore[misc]
    """Makes pictures as long as somebody looks."""

    def __init__(self, side: int, fps: int) -> None:
        super().__init__()
        self._side = side
        self._fps = fps
        caps = f"video/x-raw,format=I420,width={side},height={side},framerate={fps}/1"
        self.set_launch(
            f"( appsrc name=made is-live=true do-timestamp=true format=time caps={caps} max-buffers=2 leaky-type=2 ! "
            f"x264enc tune=zerolatency speed-preset=ultrafast key-int-max={fps} bitrate=1000 ! "
            "rtph264pay name=pay0 pt=96 config-interval=1 )"
        )
        self.set_shared(True)

    def configure(self, media: Any) -> None:
        """Feed the pipeline at the frame rate until it ends."""
        source = media.get_element().get_child_by_name("made")

        def make() -> bool:
            return bool(source.emit("push-buffer", Gst.Buffer.new_wrapped(picture(self._side))) == Gst.FlowReturn.OK)

        # A push that fails ends the timer: the pipeline is gone.
        GLib.timeout_add(1000 // self._fps, make)


def main() -> None:
    """Serve rtsp://127.0.0.1:PORT/camera."""
    port, side, fps = sys.argv[1:]
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(port)
    factory = Camera(int(side), int(fps))
    factory.connect("media-configure", Camera.configure)
    server.get_mount_points().add_factory("/camera", factory)
    server.attach(None)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()
