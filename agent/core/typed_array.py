"""Raw tensors in what programs read: RFC 8746's typed arrays, little-endian, and their form on disk."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping
from typing import Any

from agent.result import Numbers

TAGS = {
    "uint8": (64, "B"),
    "uint16": (69, "H"),
    "uint32": (70, "I"),
    "uint64": (71, "Q"),
    "int8": (72, "b"),
    "int16": (77, "h"),
    "int32": (78, "i"),
    "int64": (79, "q"),
    "float16": (84, "e"),
    "float32": (85, "f"),
    "float64": (86, "d"),
}
"""Type: its tag (RFC 8746, section 2.1) and its letter for `struct`."""
_LETTERS = dict(TAGS.values())


def unpack(tag: int, raw: bytes) -> list[int] | list[float]:
    """Return the numbers of a typed array.

    Raises:
        ValueError: the tag is none of a little-endian array, or the bytes are no whole number of elements.
    """
    letter = _LETTERS.get(tag)
    if letter is None or not isinstance(raw, bytes) or len(raw) % struct.calcsize("<" + letter):
        raise ValueError(f"tag {tag} is no typed array of little-endian numbers")
    return list(struct.unpack(f"<{len(raw) // struct.calcsize('<' + letter)}{letter}", raw))


def for_disk(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a body that JSON keeps without loss: the numbers of raw tensors as base64."""
    if not _has_numbers(body):
        return body
    values = [{**tensor, "values": _packed(tensor["values"])} for tensor in body["values"]]
    return {**body, "values": values}


def from_disk(body: dict[str, Any]) -> dict[str, Any]:
    """Undo `for_disk`.

    Raises:
        ValueError: it is not what `for_disk` wrote.
    """
    for tensor in body.get("values", ()) if isinstance(body.get("values"), list) else ():
        packed = tensor.get("values") if isinstance(tensor, dict) else None
        if isinstance(packed, dict):
            dtype = packed.get("dtype")
            if dtype not in TAGS or not isinstance(packed.get("base64"), str):
                raise ValueError(f"a tensor of type {dtype!r}")
            raw = base64.b64decode(packed["base64"], validate=True)
            tensor["values"] = Numbers(_rounded(unpack(TAGS[dtype][0], raw)), dtype, raw)
    return body


def _rounded(numbers: list[int] | list[float]) -> list[float]:
    # As the decoder rounds them, so that a message is the same whether it has been on disk or not.
    return [round(float(number), 6) for number in numbers]


def _has_numbers(body: Mapping[str, Any]) -> bool:
    values = body.get("values")
    return isinstance(values, list) and any(
        isinstance(tensor, dict) and isinstance(tensor.get("values"), Numbers) for tensor in values
    )


def _packed(values: Any) -> Any:
    if not isinstance(values, Numbers):
        return values
    return {"dtype": values.dtype, "base64": base64.b64encode(values.raw).decode("ascii")}
