"""CBOR (RFC 8949) for results and events: half of the time of JSON, and raw tensors as they are.

Needs the extra `cbor`; loaded where it is asked for only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import cbor2

from agent.core.envelope import Encoding
from agent.core.typed_array import TAGS, unpack
from agent.result import Numbers

DEPTH_MAX = 32
"""Of what is read; our own bodies have 5 levels."""


def encode(body: Mapping[str, Any]) -> bytes:
    """Return a body in CBOR; the values of raw tensors are typed arrays.

    Raises:
        ValueError: it holds something that is neither text, number, truth value, null, list nor map.
    """
    try:
        return cbor2.dumps(body, encoders={Numbers: _encode_numbers})
    except cbor2.CBOREncodeError as error:
        raise ValueError(str(error)) from error


def decode(payload: bytes) -> Any:
    """Return what JSON would have given: typed arrays are lists of numbers, and nothing else has a tag.

    Raises:
        ValueError: it is no CBOR, or nothing that JSON could have said.
    """
    try:
        value = cbor2.loads(
            payload,
            tag_hook=_decode_tag,
            # References would let 100 bytes stand for more than there is memory; dates and others are none of ours.
            semantic_decoders=_REFUSED,
            max_depth=DEPTH_MAX,
            allow_indefinite=False,
            allow_duplicate_keys=False,
        )
    except (cbor2.CBORError, RecursionError, MemoryError) as error:
        raise ValueError(str(error.__cause__ or error)) from error
    _check(value)
    return value


def _encode_numbers(encoder: Any, numbers: Numbers) -> None:
    encoder.encode(cbor2.CBORTag(TAGS[numbers.dtype][0], numbers.raw))


def _decode_tag(tag: Any, *_: object) -> Any:
    return unpack(tag.tag, tag.value)


def _refuse(*_: object) -> Any:
    raise ValueError("a tag that is no typed array's")


_REFUSED = dict.fromkeys((*range(64), 100, *range(256, 262), 1004, 1040, 43000, 55799), _refuse)


def _check(value: Any) -> None:
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("a key that is no text")
        for item in value.values():
            _check(item)
    elif isinstance(value, list):
        for item in value:
            _check(item)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("a number that is none")
    elif not (value is None or isinstance(value, str | int)):
        raise ValueError(f"a {type(value).__name__}, which JSON does not know")


CBOR = Encoding("application/cbor", encode)
