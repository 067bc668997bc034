"""Downloads from a real server on loopback that does what it is told to."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from agent.core.release import ReleaseFile, ReleaseRefusedError
from agent.errors import TransientError
from agent.updates.download import CHUNK_BYTES, fetch

CONTENT = bytes(range(256)) * 1024


class Server(ThreadingHTTPServer):
    """Serves `CONTENT` under every path; what it does wrong is its `trick`."""

    daemon_threads = True
    trick = ""
    asked: list[str | None]


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        trick, wanted = self.server.trick, self.headers["Range"]
        self.server.asked.append(wanted)
        if trick.isdigit():
            self.send_error(int(trick))
            return
        if trick == "redirect":
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.1:9/other")
            self.end_headers()
            return
        begin = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and trick != "no range" else 0
        body = CONTENT[begin:]
        self.send_response(206 if begin else 200)
        if begin:
            first = 0 if trick == "wrong range" else begin
            self.send_header("Content-Range", f"bytes {first}-{len(CONTENT) - 1}/{len(CONTENT)}")
        if trick == "longer":
            body += b"more"
        if trick not in ("longer", "cut"):
            self.send_header("Content-Length", str(len(body) + (1 if trick == "wrong length" else 0)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if trick == "cut" else body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  The library's name.
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    """A server of this test's own."""
    server = Server(("127.0.0.1", 0), _Handler)
    server.asked = []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def wanted(server: Server) -> ReleaseFile:
    """Return the file as a manifest describes it."""
    url = f"http://127.0.0.1:{server.server_address[1]}/m/model.onnx"
    return ReleaseFile("model.onnx", url, len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


def go_on(_have: int) -> bool:
    return True


def test_a_whole_file(server: Server, tmp_path: Path) -> None:
    """With its progress; asked for again, nothing is fetched."""
    seen: list[int] = []
    partial = tmp_path / "x.part"
    fetch(wanted(server), partial, lambda have: not seen.append(have))  # type: ignore[func-returns-value]
    assert partial.read_bytes() == CONTENT
    assert seen[-1] == len(CONTENT)
    assert seen == sorted(seen)
    fetch(wanted(server), partial, go_on)
    assert len(server.asked) == 1


def test_it_goes_on_from_where_it_stopped(server: Server, tmp_path: Path) -> None:
    """After a connection that broke, and after somebody stopped it."""
    partial = tmp_path / "x.part"
    server.trick = "cut"
    with pytest.raises(TransientError, match=f"ended after {len(CONTENT) // 2} of {len(CONTENT)}"):
        fetch(wanted(server), partial, go_on)
    server.trick = ""
    with pytest.raises(TransientError, match="stopped at"):
        fetch(wanted(server), partial, lambda have: False)
    fetch(wanted(server), partial, go_on)
    assert partial.read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={len(CONTENT) // 2}-", f"bytes={len(CONTENT) // 2 + CHUNK_BYTES}-"]


def test_a_server_that_knows_no_ranges(server: Server, tmp_path: Path) -> None:
    """The file is fetched anew, as a whole."""
    partial = tmp_path / "x.part"
    partial.write_bytes(b"something else")
    server.trick = "no range"
    fetch(wanted(server), partial, go_on)
    assert partial.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("trick", "error", "text"),
    [
        ("403", ReleaseRefusedError, "HTTP 403"),
        ("redirect", ReleaseRefusedError, "HTTP 302"),
        ("wrong length", ReleaseRefusedError, "the manifest says"),
        ("longer", ReleaseRefusedError, "more than"),
        ("404", TransientError, "HTTP 404"),
        ("503", TransientError, "HTTP 503"),
    ],
)
def test_what_the_server_does_wrong(
    server: Server, tmp_path: Path, trick: str, error: type[Exception], text: str
) -> None:
    """What may pass is tried again, what never will is refused."""
    server.trick = trick
    with pytest.raises(error, match=text):
        fetch(wanted(server), tmp_path / "x.part", go_on)


def test_a_range_that_is_not_the_one_asked_for(server: Server, tmp_path: Path) -> None:
    """Its bytes would be put in the wrong place."""
    (tmp_path / "x.part").write_bytes(CONTENT[:1000])
    server.trick = "wrong range"
    with pytest.raises(ReleaseRefusedError, match="was asked for"):
        fetch(wanted(server), tmp_path / "x.part", go_on)


@pytest.mark.parametrize("host", ["127.0.0.1:9", "no-such-host.invalid"])
def test_nobody_there(tmp_path: Path, host: str) -> None:
    """A refused connection, a name that nobody knows: it may work later."""
    file = ReleaseFile("model.onnx", f"http://{host}/x", 10, "a" * 64)
    with pytest.raises(TransientError, match=host):
        fetch(file, tmp_path / "x.part", go_on)


def test_a_link_in_the_place_of_the_partial_file(server: Server, tmp_path: Path) -> None:
    """It is removed, and what it points to stays."""
    target = tmp_path / "precious"
    target.write_text("mine")
    partial = tmp_path / "x.part"
    partial.symlink_to(target)
    fetch(wanted(server), partial, go_on)
    assert target.read_text() == "mine"
    assert partial.read_bytes() == CONTENT
