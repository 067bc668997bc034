"""Raw tensors in what programs read: RFC 8746's typed arrays, little-endian, and their form on disk."""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Mapping
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


def replaced(body: Mapping[str, Any], form: Callable[[Numbers], Any]) -> Mapping[str, Any]:
    """Return a body with the numbers of its raw tensors in another form; one without any as it is."""
    values = body.get("values")
    if not isinstance(values, list) or not any(_is_tensor(tensor) for tensor in values):
        return body
    tensors = [{**tensor, "values": form(tensor["values"])} if _is_tensor(tensor) else tensor for tensor in values]
    return {**body, "values": tensors}


def for_disk(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a body that JSON keeps without loss: the numbers of raw tensors as base64."""
    return replaced(
        body, lambda numbers: {"dtype": numbers.dtype, "base64": base64.b64encode(numbers.raw).decode("ascii")}
    )


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


def _is_tensor(tensor: Any) -> bool:
    return isinstance(tensor, dict) and isinstance(tensor.get("values"), Numbers)
