"""Pictures of the streams that a viewer sees: leases that are taken and renewed, files, and the terminal."""

from __future__ import annotations

import json
import re
import secrets
import sys
from collections.abc import Callable
from pathlib import Path

from agent.cli.payloads import UnreadableError, clean, parse_json
from agent.clock import NS_PER_S, Clock
from agent.errors import ConfigError

LEASE_S = 60
RENEW_NS = 20 * NS_PER_S
"""Two renewals may be lost before a lease ends."""
STREAMS_MAX = 16
"""Watched at once, as many as one device allows; the first that are seen."""
PICTURE_BYTES_MAX = 262_144
"""The contract's limit; anybody may have sent it."""


class Pictures:
    """Takes leases on every stream that is seen, and keeps or shows the newest picture of each. One thread.

    Args:
        prefix: of the topics.
        folder: where `{device}-{stream}.jpg` is replaced, None to keep nothing.
        show: writes a picture to the terminal, None for none.
        clock: paces the renewals.
    """

    def __init__(
        self,
        prefix: str,
        *,
        folder: Path | None,
        show: Callable[[bytes], None] | None,
        clock: Clock,
    ) -> None:
        self._prefix = prefix
        self._folder = folder
        self._show = show
        self._clock = clock
        self._client = f"watch-{secrets.token_hex(4)}"
        self._renew_at_ns: dict[tuple[str, str], int] = {}
        self._said: set[str] = set()
        self.requests: list[tuple[str, bytes]] = []
        """Commands that the caller publishes and clears, topic below the prefix and payload; one a stream at most in
        each turn."""
        self.received = 0
        """Pictures that were kept or shown."""

    def message(self, topic: str, payload: bytes) -> None:
        """Take in what a viewer received."""
        levels = topic.removeprefix(f"{self._prefix}/").split("/")
        if not topic.startswith(f"{self._prefix}/") or len(levels) != 3:
            return
        device, kind, name = levels
        if kind == "results":
            self._see(device, name)
        elif kind == "image" and payload:
            self._keep(device, name, payload)
        elif kind == "responses" and name == self._client:
            self._hear(device, payload)

    def refresh(self) -> None:
        """Renew what is due."""
        now_ns = self._clock.now_ns()
        for (device, stream), at_ns in self._renew_at_ns.items():
            if now_ns >= at_ns:
                self._ask(device, stream, LEASE_S)

    def close(self) -> None:
        """Give every lease back."""
        for device, stream in list(self._renew_at_ns):
            self._ask(device, stream, 0)

    def _see(self, device: str, stream: str) -> None:
        if (device, stream) not in self._renew_at_ns and len(self._renew_at_ns) < STREAMS_MAX:
            self._ask(device, stream, LEASE_S)

    def _ask(self, device: str, stream: str, duration_s: int) -> None:
        self._renew_at_ns[device, stream] = self._clock.now_ns() + RENEW_NS
        body = {"id": secrets.token_hex(8), "reply": self._client, "stream": stream, "duration_s": duration_s}
        self.requests.append((f"{device}/commands/watch", json.dumps(body).encode()))

    def _keep(self, device: str, stream: str, payload: bytes) -> None:
        if len(payload) > PICTURE_BYTES_MAX or not payload.startswith(b"\xff\xd8\xff"):
            self._say(f"{clean(device)}/{clean(stream)}: what came as a picture is no JPEG of at most 256 KiB")
            return
        if (device, stream) not in self._renew_at_ns:
            return  # Somebody else watches it; it would be one more file for each name that anybody invents.
        if self._folder is not None:
            file = self._folder / f"{_file_name(device)}-{_file_name(stream)}.jpg"
            partial = file.with_suffix(".part")
            try:
                partial.write_bytes(payload)
                partial.replace(file)
            except OSError as error:
                raise ConfigError(f"--images {str(self._folder)!r}: {error.strerror}: {file.name}") from error
        if self._show is not None:
            self._show(payload)
        self.received += 1

    def _hear(self, device: str, payload: bytes) -> None:
        try:
            body = parse_json(payload)
        except UnreadableError:
            return
        if isinstance(body, dict) and body.get("state") == "error":
            self._say(f"{clean(device)} sends no pictures: {clean(str(body.get('message')))}")

    def _say(self, text: str) -> None:
        if text not in self._said and len(self._said) < STREAMS_MAX:
            self._said.add(text)
            print(f"edgebeat: {text}", file=sys.stderr, flush=True)


def _file_name(level: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", level)[:64]
