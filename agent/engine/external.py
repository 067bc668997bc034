"""What an .onnx file would have loaded beside itself, found before that and without the onnx package.

ONNX Runtime maps whatever file a network names: one from afar could read any file of the device into its outputs, and
whoever changes the file of a running network changes its results in silence. So each one must be a plain file of the
model's own folder, and its digest must stand in model.toml. A node that holds what another runtime compiled may name
a file too, and nobody can look into it: a network with one is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from agent.engine.digest import sha256_of
from agent.errors import ConfigError

NESTING_MAX = 100
"""Protobuf's own limit for messages in messages."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# Where tensors may be, by message and field number (onnx.proto): every other field is skipped as a whole.
_PATHS: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_OPERATOR = 4
_COMPILED = b"EPContext"
"""The operator of ONNX Runtime's contrib operators that holds, or names, what an execution provider compiled."""


def check_external_data(file: Path, digests: Mapping[str, str]) -> None:
    """Check every file outside a network that it refers to.

    Args:
        file: the network.
        digests: SHA-256 by file name, as in model.toml's `model.external_data`.

    Raises:
        ConfigError: unreadable, not ONNX, truncated; a file that is absolute, leaves the folder, is a symbolic link,
            is absent or too short, is not in `digests` or differs from its digest; a part that is compiled already.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error
    if b"location" not in content and _COMPILED not in content:
        return  # The key under which protobuf would hold a file's name: nothing is outside, for 1 ms instead of 40.
    try:
        found = dict(_external(memoryview(content)))
    except _CompiledError:
        raise ConfigError(
            f"{file}: holds a part that another runtime compiled ({_COMPILED.decode()}), into which nobody can look: "
            "export it as plain ONNX"
        ) from None
    except (IndexError, ValueError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: is not an ONNX file, or is truncated: {error}") from error
    for location, end in found.items():
        _check_file(file, location, end, digests)


class _CompiledError(Exception):
    """There is a node of `_COMPILED`."""


def _check_file(file: Path, location: str, end: int, digests: Mapping[str, str]) -> None:
    place = f"{file}: external data {location!r}"
    path = PurePosixPath(location.replace("\\", "/"))
    if not location or path.is_absolute() or len(path.parts) != 1 or path.name == ".." or "\0" in location:
        raise ConfigError(f"{place}: must be a file in the model's own folder")
    target = file.parent / path
    if target.is_symlink():
        raise ConfigError(f"{place}: is a symbolic link: put the file itself there")
    if not target.is_file():
        raise ConfigError(f"{place}: is not there")
    if target.stat().st_size < end:
        raise ConfigError(f"{place}: ends at byte {end}, the file has {target.stat().st_size}: it is truncated")
    actual = sha256_of(target)
    stated = digests.get(location)
    if stated is None:
        raise ConfigError(
            f'{place}: has no digest: add external_data = {{ "{location}" = "{actual}" }} to [model] in model.toml, '
            "if the file is the one that you mean"
        )
    if stated.lower() != actual:
        raise ConfigError(
            f"{place}: SHA-256 is {actual}, the manifest says {stated}: the file is damaged or was replaced"
        )


def _external(content: memoryview) -> Iterator[tuple[str, int]]:
    """Yield the location of each tensor outside the file, and where it ends there.

    Raises:
        ValueError, IndexError: this is no ONNX file.
        _CompiledError: see there.
    """
    ends: dict[str, int] = {}
    waiting = [("model", content, 0)]
    fields_seen = 0
    while waiting:
        kind, message, depth = waiting.pop()
        if depth > NESTING_MAX:
            raise ValueError("it is nested too deeply")
        entries: list[memoryview] = []
        is_external = False
        for number, value in _fields(message):
            fields_seen += 1
            if kind == "tensor":
                if number == _EXTERNAL_DATA and isinstance(value, memoryview):
                    entries.append(value)
                elif number == _DATA_LOCATION:
                    is_external = value == 1
            elif kind == "node" and number == _OPERATOR and isinstance(value, memoryview) and value == _COMPILED:
                raise _CompiledError
            elif (inner := _PATHS[kind].get(number)) is not None and isinstance(value, memoryview):
                waiting.append((inner, value, depth + 1))
        if is_external:
            location, end = _entry(entries)
            ends[location] = max(ends.get(location, 0), end)
    if not fields_seen:
        raise ValueError("it is empty")
    yield from ends.items()


def _entry(entries: list[memoryview]) -> tuple[str, int]:
    """Return location and end of a tensor from its key and value pairs."""
    pairs = {}
    for entry in entries:
        texts = {number: bytes(value).decode() for number, value in _fields(entry) if isinstance(value, memoryview)}
        pairs[texts.get(1, "")] = texts.get(2, "")
    return pairs.get("location", ""), int(pairs.get("offset", "0")) + int(pairs.get("length", "0"))


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield (number, value) of each field of a protobuf message; fixed-width values as 0."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        value: int | memoryview = 0
        if wire == _VARINT:
            value, at = _varint(message, at)
        elif wire == _BYTES:
            size, at = _varint(message, at)
            value = message[at : at + size]
            at += size
        elif wire in (_FIXED64, _FIXED32):
            at += 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"field {number} is of a kind that protobuf does not know")
        if number == 0 or at > len(message):
            raise ValueError(f"it ends within field {number}")
        yield number, value


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = message[at]
    if value < 0x80:
        return value, at + 1
    value &= 0x7F
    for shift in range(7, 70, 7):
        at += 1
        byte = message[at]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at + 1
    raise ValueError("a number in it has no end")
