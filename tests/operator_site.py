"""What an operator of model updates has: a broker, a listener, a key, and a server with releases."""

from __future__ import annotations

import http
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from agent.cli.model_release import signed_release
from agent.updates.file_server import file_server
from agent.updates.signature import generate_key
from tests.agent_process import settings_text
from tests.broker import Broker, Publisher, Subscriber
from tests.paths import MODELS

NAME = "seen"
ENDS = ("committed", "rejected", "rolled_back")


class Site:
    """A key, a folder of models behind a server, and a way to the broker."""

    def __init__(
        self,
        folder: Path,
        publisher: Publisher,
        server: ThreadingHTTPServer,
        root: Path,
        device: str = "porch",
        model: str = NAME,
    ) -> None:
        self._topic = f"edgebeat/v1/{device}/settings/desired"
        self._model = model
        self.secret, public = generate_key("ours")
        self.keys = folder / "trusted"
        self.keys.write_text(public)
        self.keys.chmod(0o644)
        self.desk = publisher
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        self.root = root
        self._version = 0

    def settings(self, broker: Broker, state: Path, more: str = "", updates: str = "", stream: str = "") -> str:
        """Return settings that trust the key and the server."""
        trust = f'[updates]\nkeys_file = "{self.keys}"\nhosts = ["127.0.0.1"]\nprobation_s = 2\ncanary_frames = 3\n'
        playing = f"repeat = true\nfps = 10\n{stream}"
        return settings_text(url=broker.url, state=state, stream=playing, more=f"{trust}{updates}\n{more}")

    def model(self, seq: int, source: Path = MODELS / "tiny") -> Path:
        """Put a model at the server, with a version of its own."""
        folder = Path(shutil.copytree(source, self.root / str(seq)))
        manifest = folder / "model.toml"
        lines = [line for line in manifest.read_text().splitlines() if not line.startswith("version =")]
        manifest.write_text("\n".join([f'version = "release {seq}"', *lines]))
        return folder

    def manifest(self, seq: int, folder: Path, *, secret: str = "", url: str = "", **more: Any) -> Any:
        """Return the signed manifest of a folder that lies at the server under its name."""
        place = url or f"{self.url}/{folder.name}"
        return signed_release(folder, self._model, seq, place, secret or self.secret, **more)[0]

    def push(self, seq: int, folder: Path, *, model: Any = None, **more: Any) -> None:
        """Ask for a release."""
        self._version += 1
        model = model or self.manifest(seq, folder, **more)
        document = {"schema": 1, "version": self._version, "values": {}, "model": model}
        self.desk.send(self._topic, json.dumps(document).encode(), retain=True)


@contextmanager
def site(tmp_path: Path, server: ThreadingHTTPServer | None = None) -> Iterator[tuple[Broker, Subscriber, Site]]:
    """A broker, a listener and an operator; a server of another kind serves `tmp_path / "served"` as well."""
    root = tmp_path / "served"
    root.mkdir(exist_ok=True)
    with (
        Broker(tmp_path) as broker,
        Subscriber(broker.port) as subscriber,
        Publisher(broker.port) as publisher,
        server or file_server(root, "127.0.0.1", 0, None, None) as serving,
    ):
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        try:
            yield broker, subscriber, Site(tmp_path, publisher, serving, root)
        finally:
            serving.shutdown()
            thread.join()


def served_version(subscriber: Subscriber, version: str) -> int:
    """Wait for a result of that version; return its frame's number."""
    message = subscriber.wait_for_body("results/door", lambda body: body["model_version"] == version)
    return int(message.body["frame"])


def ended(subscriber: Subscriber, seq: int) -> Any:
    """Wait for the end of a release, whatever it is."""
    return subscriber.wait_for_body(
        "porch/model/state", lambda body: body["seq"] == seq and body["phase"] in ENDS, timeout_s=90
    ).body


def refused(subscriber: Subscriber, code: str) -> Any:
    """Wait until a document is refused for its manifest."""

    def is_it(body: Any) -> bool:
        error = body["errors"].get("model")
        return error is not None and error["code"] == code

    return subscriber.wait_for_body("porch/settings/reported", is_it).body


class CuttingServer(ThreadingHTTPServer):
    """Serves files, but sends half of one of them at its first request, and hangs up.

    Args:
        root: folder that is served.
        name: of the file that is cut.

    Attributes:
        ranges: what was asked for of that file, in order; empty for a request of the whole.
    """

    daemon_threads = True

    def __init__(self, root: Path, name: str) -> None:
        super().__init__(("127.0.0.1", 0), _CuttingHandler)
        self.root = root
        self.name = name
        self.ranges: list[str] = []


class _CuttingHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: CuttingServer

    def do_GET(self) -> None:
        content = (self.server.root / self.path.lstrip("/")).read_bytes()
        begin, end = 0, len(content)
        if self.path.endswith(self.server.name):
            asked = self.headers.get("Range", "")
            begin = int(asked.removeprefix("bytes=").removesuffix("-") or 0)
            self.server.ranges.append(asked)
            if len(self.server.ranges) == 1:
                end = len(content) // 2
        self.send_response(http.HTTPStatus.PARTIAL_CONTENT if begin else http.HTTPStatus.OK)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - begin))
        self.end_headers()
        self.wfile.write(content[begin:end])
        self.close_connection = True

    def log_message(self, *_args: object) -> None:
        """Say nothing."""
