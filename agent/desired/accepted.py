"""The state of remote settings on disk.

One small file, replaced as a whole: a power cut leaves the old state or the new one, and nothing between them.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agent.core.desired import Document
from agent.core.reconcile import GivenUp, Record
from agent.durable import replace_file, set_aside

log = logging.getLogger(__name__)

FILE = "remote-settings.json"
FORMAT = 1
BYTES_MAX = 1 << 20
"""Three documents of 64 KiB, escaped to three times that, and some figures."""


class AcceptedStore:
    """Keeps the record in the state folder. One thread at a time.

    Args:
        folder: `state.dir`.
        may_make: whether a folder that is absent is made; the default one is the service manager's to make.
    """

    def __init__(self, folder: Path, *, may_make: bool) -> None:
        self._folder = folder
        self._file = folder / FILE
        self._may_make = may_make

    @property
    def place(self) -> str:
        """Where it is, for people."""
        return str(self._file)

    def load(self, *, sets_aside: bool = True) -> Record:
        """Return what is kept; with a damaged file the device goes on with its own settings.

        Args:
            sets_aside: whether the damaged file is, so that the next one can be written.
        """
        try:
            with self._file.open("rb") as stream:
                payload = stream.read(BYTES_MAX + 1)
        except FileNotFoundError:
            return Record()
        except OSError as error:
            log.error("%s: cannot be read (%s): no remote setting is used", self._file, error.strerror)
            return Record()
        try:
            return _decode(json.loads(payload))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            log.error("%s: is damaged (%s): no remote setting is used", self._file, error)
            if sets_aside:
                set_aside(self._file)
            return Record()

    def save(self, record: Record) -> None:
        """Write the record; it is on disk when this returns.

        Raises:
            OSError: the disk is full, read-only or absent; what was there is there still.
        """
        if self._may_make:
            self._folder.mkdir(parents=True, exist_ok=True)
        body = json.dumps({"format": FORMAT, **asdict(record)}, separators=(",", ":"))
        replace_file(self._file, body.encode())


def _decode(body: Any) -> Record:
    if body["format"] != FORMAT:
        raise ValueError(f"its format is {body['format']!r}, this agent knows {FORMAT}")
    given_up = body["given_up"]
    return Record(
        current=_document(body["current"]),
        good=_document(body["good"]),
        previous=_document(body.get("previous")),
        is_proven=bool(body["is_proven"]),
        version_max=int(body["version_max"]),
        digest_max=str(body["digest_max"]),
        starts=int(body["starts"]),
        on_time={str(name): float(share) for name, share in body["on_time"].items()},
        must_deliver=tuple(str(name) for name in body["must_deliver"]),
        given_up=None if given_up is None else GivenUp(**given_up),
    )


def _document(body: Any) -> Document | None:
    if body is None:
        return None
    model = body.get("model")
    return Document(
        int(body["version"]), dict(body["values"]), str(body["asked_by"]), None if model is None else dict(model)
    )
