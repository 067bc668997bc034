"""A file server for trials and small sites: plain files of one folder, with ranges, so that a download can go on."""

from __future__ import annotations

import functools
import http
import re
import shutil
import ssl
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from agent.errors import ConfigError

TIMEOUT_S = 30.0
"""A client that is silent for longer is let go: each has a thread."""

_RANGE = re.compile(r"bytes=(\d{1,15})-")


def file_server(folder: Path, host: str, port: int, cert: Path | None, key: Path | None) -> ThreadingHTTPServer:
    """Return a server that listens; `serve_forever` runs it.

    Raises:
        ConfigError: no such folder, the address is taken, or the certificate cannot be used.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: is no folder")
    handler = functools.partial(_FileHandler, folder.resolve())
    try:
        server = ThreadingHTTPServer((host, port), handler)
    except OSError as error:
        raise ConfigError(f"--host {host} --port {port}: {error.strerror}: choose another with --port") from error
    server.daemon_threads = True
    if cert is not None:
        try:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(cert, key)
        except (OSError, ssl.SSLError) as error:
            server.server_close()
            raise ConfigError(f"--cert {cert} --key {key}: cannot be used: {error}") from error
        # The handshake is done by the client's own thread: one that never speaks does not hold up the others.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    return server


class _FileHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = TIMEOUT_S

    def __init__(self, folder: Path, *args: object) -> None:
        self._folder = folder
        super().__init__(*args)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        """Send a file, or what is left of it."""
        file = (self._folder / unquote(urlsplit(self.path).path).lstrip("/")).resolve()
        if not file.is_relative_to(self._folder) or not file.is_file():
            self.send_error(http.HTTPStatus.NOT_FOUND)
            return
        size = file.stat().st_size
        match = _RANGE.fullmatch(self.headers.get("Range", ""))
        begin = int(match[1]) if match else 0
        if begin > 0 and begin >= size:
            self.send_error(http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
            return
        self.send_response(http.HTTPStatus.PARTIAL_CONTENT if begin else http.HTTPStatus.OK)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{size - 1}/{size}")
        self.send_header("Content-Length", str(size - begin))
        self.send_header("Content-Type", "application/octet-stream")
        self.end_headers()
        with file.open("rb") as stream:
            stream.seek(begin)
            shutil.copyfileobj(stream, self.wfile)
