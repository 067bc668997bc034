"""Fetches one file over HTTPS: resumes, never follows to another host, never takes a byte too many."""

from __future__ import annotations

import contextlib
import http.client
import os
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from agent.core.release import ReleaseFile, ReleaseRefusedError
from agent.errors import TransientError

TIMEOUT_S = 20.0
"""For the connection, and for each read: a server that is silent for longer is lost."""
CHUNK_BYTES = 64 << 10
SYNC_EVERY_BYTES = 4 << 20
"""What a power cut may take of a download."""

OnProgress = Callable[[int], bool]
"""Told the bytes that are there; returns whether to go on."""


def fetch(file: ReleaseFile, partial: Path, on_progress: OnProgress, context: ssl.SSLContext | None = None) -> None:
    """Fetch what is missing of a file; what was fetched before stays and is not fetched again.

    Args:
        file: of a manifest whose signature holds; its content is verified by the caller.
        partial: where its bytes are gathered.
        on_progress: called at most once a chunk.
        context: for https; None for the system's authorities.

    Raises:
        TransientError: the server or the network; it may work later, from where it stopped.
        ReleaseRefusedError: `download`: the server will never give what the manifest says.
        OSError: the disk.
    """
    have = _begin(file, partial)
    if have == file.size_bytes:
        return
    parts = urlsplit(file.url)
    connection = _connect(parts.scheme, parts.hostname or "", parts.port, context)
    try:
        target = parts.path + (f"?{parts.query}" if parts.query else "") or "/"
        headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
        with _network(file):
            connection.request("GET", target, headers=headers)
            response = connection.getresponse()
        _copy(file, response, partial, _judge(file, response, have), on_progress)
    finally:
        connection.close()


@contextlib.contextmanager
def _network(file: ReleaseFile) -> Iterator[None]:
    """Tell what goes wrong on the way from what goes wrong with the disk: both are OSError."""
    try:
        yield
    except (http.client.HTTPException, OSError) as error:
        raise TransientError(f"{file.url}: {error or type(error).__name__}") from error


def _begin(file: ReleaseFile, partial: Path) -> int:
    """Return how many bytes are there; a partial file that is too long, or no plain file, is begun anew."""
    if partial.is_symlink() or (partial.exists() and partial.stat().st_size > file.size_bytes):
        partial.unlink()
    return partial.stat().st_size if partial.exists() else 0


def _connect(scheme: str, host: str, port: int | None, context: ssl.SSLContext | None) -> http.client.HTTPConnection:
    if scheme == "https":
        context = context or ssl.create_default_context()
        return http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=context)
    return http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)


def _judge(file: ReleaseFile, response: http.client.HTTPResponse, have: int) -> int:
    """Return the position from which the response's body goes on."""
    length = response.getheader("Content-Length")
    if response.status == http.HTTPStatus.PARTIAL_CONTENT and have:
        announced, expected = (
            response.getheader("Content-Range"),
            f"bytes {have}-{file.size_bytes - 1}/{file.size_bytes}",
        )
        if announced != expected:
            raise ReleaseRefusedError(
                "download", f"{file.url}: the server sends {announced}, {expected} was asked for"
            )
        return have
    if response.status == http.HTTPStatus.OK:
        if length is not None and length != str(file.size_bytes):
            raise ReleaseRefusedError(
                "download", f"{file.url}: the server has {length} bytes, the manifest says {file.size_bytes}"
            )
        return 0
    text = f"{file.url}: HTTP {response.status} {response.reason}"
    # A server that is overloaded or being deployed says 5xx, 408 or 429; a file that is not there yet 404.
    if response.status >= 500 or response.status in (404, 408, 429):
        raise TransientError(text)
    raise ReleaseRefusedError("download", text)


def _copy(
    file: ReleaseFile, response: http.client.HTTPResponse, partial: Path, have: int, on_progress: OnProgress
) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | (0 if have else os.O_TRUNC)
    synced = have
    with os.fdopen(os.open(partial, flags, 0o644), "wb") as stream:
        stream.seek(have)
        while True:
            with _network(file):
                chunk = response.read(CHUNK_BYTES)
            if not chunk:
                break
            have += len(chunk)
            if have > file.size_bytes:
                raise ReleaseRefusedError("download", f"{file.url}: sends more than {file.size_bytes} bytes")
            stream.write(chunk)
            if have - synced >= SYNC_EVERY_BYTES:
                stream.flush()
                os.fsync(stream.fileno())
                synced = have
            if not on_progress(have):
                raise TransientError(f"{file.url}: stopped at {have} of {file.size_bytes} bytes")
    if have < file.size_bytes:
        raise TransientError(f"{file.url}: ended after {have} of {file.size_bytes} bytes")
