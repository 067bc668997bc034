"""A release of a model: what its signed manifest says, and whether this device may take it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from agent.core.located_json import UnreadableError, parse

BYTES_MAX = 32 << 10
"""Of a manifest: 32 files at 500 bytes are 16 kB."""
FILES_MAX = 32
"""A network, 8 variants, labels, samples and licences."""
FILE_BYTES_MAX = 2 << 30
"""Protobuf's limit, so the largest network there is."""
SCHEMA = 1
SEQ_MAX = 2**53 - 1

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_VERSION = re.compile(r"\d{1,4}(\.\d{1,4}){1,2}")


class ReleaseRefusedError(Exception):
    """A release that this device does not take.

    Attributes:
        code: stable, for programs; docs/updates.md lists them.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class ReleaseFile:
    """One file of a model folder.

    Attributes:
        path: its name in the folder; no folders below.
        url: where its bytes are.
        size_bytes: exactly.
        sha256: of its content, lower-case hex.
    """

    path: str
    url: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Release:
    """What a signed manifest says.

    Attributes:
        name: of the model, as in the settings.
        seq: rises with each release of this model.
        version: for people.
        files: of the whole folder, `model.toml` among them.
        architectures: machines that it is for (`uname -m`); empty for all.
        onnxruntime_min: the oldest version that runs it; empty for any.
        allow_downgrade: whether it may follow a release with a higher `seq`.
    """

    name: str
    seq: int
    version: str
    files: tuple[ReleaseFile, ...]
    architectures: tuple[str, ...] = ()
    onnxruntime_min: str = ""
    allow_downgrade: bool = False

    @property
    def size_bytes(self) -> int:
        """Of all files."""
        return sum(file.size_bytes for file in self.files)


@dataclass(frozen=True, slots=True)
class Terms:
    """What this device takes.

    Attributes:
        models: names that its settings know.
        hosts: that files may come from.
        bytes_max: of one release.
        architecture: as `uname -m` says it.
        onnxruntime: its version.
    """

    models: frozenset[str]
    hosts: frozenset[str]
    bytes_max: int
    architecture: str
    onnxruntime: str


def parse_release(payload: bytes) -> Release:
    """Read the payload of a manifest whose signature holds.

    Raises:
        ReleaseRefusedError: `malformed`, with the first thing that is wrong.
    """
    try:
        body = parse(payload, BYTES_MAX)
    except UnreadableError as error:
        raise ReleaseRefusedError("malformed", f"the payload {error}") from None
    known = {"schema", "name", "seq", "version", "files", "architectures", "onnxruntime_min", "allow_downgrade"}
    _check(isinstance(body, dict), "must be an object")
    _check(not (unknown := sorted(body.keys() - known)), f"has unknown keys: {', '.join(unknown)}")
    _check(body.get("schema") == SCHEMA, f"schema must be {SCHEMA}, not {body.get('schema')!r}")
    _check(_fits(_NAME, body.get("name")), f"name {body.get('name')!r} is no model's name")
    _check(_is_integer(body.get("seq"), 1, SEQ_MAX), f"seq must be an integer from 1, not {body.get('seq')!r}")
    version = body.get("version", "")
    _check(isinstance(version, str) and len(version) <= 64, "version must be text of at most 64 characters")
    oldest = body.get("onnxruntime_min", "")
    _check(oldest == "" or _fits(_VERSION, oldest), f"onnxruntime_min {oldest!r} is no version such as 1.23")
    machines = body.get("architectures", [])
    is_list = isinstance(machines, list) and len(machines) <= 8 and all(_fits(_NAME, item) for item in machines)
    _check(is_list, "architectures must be a list of names such as aarch64")
    is_downgrade = body.get("allow_downgrade", False)
    _check(isinstance(is_downgrade, bool), "allow_downgrade must be true or false")
    files = _files(body.get("files"))
    return Release(body["name"], body["seq"], version, files, tuple(machines), oldest, is_downgrade)


def check_terms(release: Release, terms: Terms, seq_committed: int) -> None:
    """Look whether this device takes a release, before a byte of it is fetched.

    Args:
        release: signed by a key that the device trusts.
        terms: of the device.
        seq_committed: the highest that this model had here, 0 for none.

    Raises:
        ReleaseRefusedError: with what to do about it.
    """
    if release.name not in terms.models:
        known = ", ".join(sorted(terms.models)) or "none"
        raise ReleaseRefusedError("unknown_model", f"no model is called {release.name!r} here: known are {known}")
    if release.seq <= seq_committed and not release.allow_downgrade:
        raise ReleaseRefusedError(
            "downgrade", f"seq {release.seq} is not above {seq_committed}, and the manifest does not allow_downgrade"
        )
    if release.architectures and terms.architecture not in release.architectures:
        made_for = ", ".join(release.architectures)
        raise ReleaseRefusedError("architecture", f"is made for {made_for}; this device is {terms.architecture}")
    if release.onnxruntime_min and _version(terms.onnxruntime) < _version(release.onnxruntime_min):
        raise ReleaseRefusedError(
            "onnxruntime", f"needs ONNX Runtime {release.onnxruntime_min}; this device has {terms.onnxruntime}"
        )
    if release.size_bytes > terms.bytes_max:
        raise ReleaseRefusedError(
            "too_large", f"{release.size_bytes} bytes are more than updates.max_mb allows ({terms.bytes_max})"
        )
    for file in release.files:
        host = urlsplit(file.url).hostname or ""
        if host not in terms.hosts:
            allowed = ", ".join(sorted(terms.hosts)) or "none"
            raise ReleaseRefusedError("host", f"{file.path}: {host!r} is not in updates.hosts ({allowed})")


def _files(entries: Any) -> tuple[ReleaseFile, ...]:
    _check(isinstance(entries, list) and 0 < len(entries) <= FILES_MAX, f"files must be a list of 1 to {FILES_MAX}")
    files = tuple(_file(entry) for entry in entries)
    names = [file.path for file in files]
    _check(len(set(names)) == len(names), "files has a path twice")
    _check("model.toml" in names, "files must name model.toml")
    return files


def _file(entry: Any) -> ReleaseFile:
    _check(
        isinstance(entry, dict) and entry.keys() == {"path", "url", "size", "sha256"},
        "a file has path, url, size, sha256",
    )
    path, url, size, sha256 = entry["path"], entry["url"], entry["size"], entry["sha256"]
    _check(_fits(_NAME, path), f"path {path!r} is no plain file name")
    _check(_is_integer(size, 1, FILE_BYTES_MAX), f"{path}: size must be 1 to {FILE_BYTES_MAX}")
    _check(_fits(_SHA256, sha256), f"{path}: sha256 must be 64 lower-case hex digits")
    _check(
        isinstance(url, str) and len(url) <= 2048 and url.isascii() and url.isprintable(), f"{path}: url is no URL"
    )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ReleaseRefusedError("malformed", f"{path}: url is no URL") from None
    is_local = parts.hostname in ("127.0.0.1", "::1", "localhost")
    _check(parts.scheme == "https" or (parts.scheme == "http" and is_local), f"{path}: url must be https://")
    _check(bool(parts.hostname) and parts.username is None and port != 0, f"{path}: url must name a host and no user")
    return ReleaseFile(path, url, size, sha256)


def _check(is_right: bool, message: str) -> None:
    if not is_right:
        raise ReleaseRefusedError("malformed", message)


def _fits(pattern: re.Pattern[str], value: Any) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _is_integer(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _version(text: str) -> tuple[int, ...]:
    parts = [int(digits) for digits in re.findall(r"\d+", text)[:3]]
    return tuple(parts + [0] * (3 - len(parts)))
