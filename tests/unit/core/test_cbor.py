"""CBOR: what goes out comes back as JSON would have said it, and nothing that comes in does harm."""

from __future__ import annotations

import json
from typing import Any

import cbor2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.cbor import decode, encode
from agent.core.envelope import encode_json
from agent.core.kept import to_kept, to_message
from agent.core.message import Message
from agent.core.typed_array import TAGS, for_disk, from_disk
from agent.result import Numbers

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


def numbers(values: Any, dtype: str) -> Numbers:
    """Return a tensor as the raw decoder would."""
    array = np.array(values, np.dtype(dtype).newbyteorder("<"))
    return Numbers([round(float(value), 6) for value in array], dtype, array.tobytes())


@given(st.dictionaries(st.text(max_size=5), plain, max_size=5))
def test_a_body_comes_back_as_json_would_have_said_it(body: dict[str, Any]) -> None:
    """One schema serves both."""
    assert decode(encode(body)) == json.loads(encode_json(body)) == body


@pytest.mark.parametrize("dtype", list(TAGS))
def test_a_tensor_goes_out_in_its_own_type(dtype: str) -> None:
    """A typed array of RFC 8746, as an independent reader sees it; JSON gets numbers."""
    body = {"values": [{"name": "s", "shape": [3], "values": numbers([0, 1, 100], dtype)}]}
    packed = encode(body)
    tag = cbor2.loads(packed)["values"][0]["values"]
    letter = np.dtype(dtype).newbyteorder("<")
    assert np.frombuffer(tag.value, letter).tolist() == [0, 1, 100]
    (tensor,) = decode(packed)["values"]
    assert tensor == {"name": "s", "shape": [3], "values": [0, 1, 100]}
    assert json.loads(encode_json(body))["values"] == [tensor]


@pytest.mark.parametrize("dtype", ["float32", "int64"])
def test_a_tensor_on_disk_loses_nothing(dtype: str) -> None:
    """A message is the same whether it has been on disk or not, in both forms."""
    values = numbers([1.1, 2.0, 3e-9] if dtype == "float32" else [2**62, -1, 0], dtype)
    body = {"task": "raw", "values": [{"name": "s", "shape": [3], "values": values}]}
    kept = to_kept(Message("result", "results/s", body, 0, seq=1), "boot", now_ns=1, wall_ns=1)
    back = to_message(kept, "boot", now_ns=1, wall_ns=1).body
    assert encode(back) == encode(body)
    assert encode_json(back) == encode_json(body)


def test_other_bodies_go_to_disk_as_they_are() -> None:
    """Nothing is copied, and a field that happens to be called values is left alone."""
    bodies: list[dict[str, Any]] = [{"detections": []}, {"values": 3}, {"values": [1, {"values": [1.0]}]}]
    for body in bodies:
        assert for_disk(body) is body
        assert from_disk(dict(body)) == body


@pytest.mark.parametrize("packed", [{"dtype": "float99", "base64": ""}, {"dtype": "float32", "base64": "AAA="}, {}])
def test_a_tensor_on_disk_that_makes_no_sense_is_damage(packed: dict[str, str]) -> None:
    """Not a crash of egress."""
    with pytest.raises(ValueError, match=r"tensor|array"):
        from_disk({"values": [{"values": packed}]})


@given(st.binary(max_size=80))
def test_no_bytes_do_more_than_be_refused(payload: bytes) -> None:
    """Anybody may have sent them."""
    try:
        value = decode(payload)
    except ValueError:
        return
    json.dumps(value, allow_nan=False)


@pytest.mark.parametrize(
    "payload",
    [
        bytes.fromhex("d81c81d81d00"),  # A list that holds itself.
        cbor2.dumps(cbor2.CBORTag(2, b"\xff" * 100)),  # A big number.
        cbor2.dumps(cbor2.CBORTag(35, "(a+)+")),
        cbor2.dumps(cbor2.CBORTag(81, b"\x00\x00\x00\x01")),  # A typed array that is big-endian.
        cbor2.dumps(cbor2.CBORTag(85, b"\x00" * 5)),
        cbor2.dumps({"a": b"bytes"}),
        cbor2.dumps({1: 2}),
        cbor2.dumps({"a": float("nan")}),
        b"\xa2\x61a\x01\x61a\x02",  # One key twice.
        b"\x81" * 100_000,
        b"\x9f" + b"\x01" * 10,
    ],
)
def test_what_json_could_not_have_said_is_refused(payload: bytes) -> None:
    """References, other tags, bytes, other keys, depth, lengths without an end."""
    with pytest.raises(ValueError, match=r".+"):
        decode(payload)


def test_what_cannot_be_said_is_a_value_error() -> None:
    """Egress counts it as unencodable."""
    with pytest.raises(ValueError, match="cannot encode"):
        encode({"a": object()})
