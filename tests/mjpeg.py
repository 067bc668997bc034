"""A camera on the net: MJPEG over HTTP on loopback, for tests."""

from __future__ import annotations

import contextlib
import http.server
import threading

import cv2
import numpy as np

from agent.clock import NS_PER_MS, SystemClock


class MjpegServer:
    """Sends numbered grey pictures, 50 a second unless told, to every reader until it hangs up."""

    def __init__(self, port: int = 0, size: tuple[int, int] = (64, 48), interval_ms: int = 20) -> None:
        outer = self
        self._interval_ns = interval_ms * NS_PER_MS
        self.size = size
        self.picture: bytes | None = None
        """Sent in the place of the numbered ones."""
        self._hang_up = threading.Event()
        self._closing = threading.Event()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                with contextlib.suppress(OSError):
                    outer._send_frames(self)

            def log_message(self, *args: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/camera"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> MjpegServer:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End every connection and refuse new ones. May be called twice."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._hang_up.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def hang_up(self) -> None:
        """End every connection; new ones are served again."""
        self._hang_up.set()
        self._hang_up = threading.Event()

    def _send_frames(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        clock, ended, number = SystemClock(), self._hang_up, 0
        while not clock.wait(ended, self._interval_ns) and not self._closing.is_set():
            width, height = self.size
            _, encoded = cv2.imencode(".jpg", np.full((height, width, 3), number % 256, np.uint8))
            jpeg = self.picture or encoded.tobytes()
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            handler.wfile.write(head.encode() + jpeg + b"\r\n")
            number += 1
