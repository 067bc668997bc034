"""The parser of what strangers send."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.strict_json import DEPTH_MAX, StrictJsonError, parse

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**18), 10**18)
    | st.floats(allow_nan=False, allow_infinity=False)
    # No lone surrogates: they are no text.
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(VALUES, st.booleans())
def test_what_json_writes_is_read_again(value: Any, ascii_only: bool) -> None:
    """Every value within the bounds."""
    payload = json.dumps(value, ensure_ascii=ascii_only).encode()
    assert parse(payload, bytes_max=len(payload)) == value


@given(st.binary(max_size=200) | st.text(alphabet='{}[]",:\\u0d8NaIinfty-.e+1 ', max_size=200).map(str.encode))
def test_nothing_but_its_own_error_is_ever_raised(payload: bytes) -> None:
    """Whatever the bytes are; what is accepted can be sent again."""
    try:
        value = parse(payload, bytes_max=200)
    except StrictJsonError:
        return
    json.dumps(value, ensure_ascii=False, allow_nan=False).encode()


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (b'{"a":1,"a":2}', "the key 'a' twice"),
        (b'[{"x":{"b":1,"c":2,"b":1}}]', "the key 'b' twice"),
        (b"[NaN]", "holds NaN"),
        (b"[-Infinity]", "holds -Infinity"),
        (b"[1e999]", "out of range"),
        (b"1" * 200, "an integer of 200 digits"),
        (b"[" * 50_000, f"deeper than {DEPTH_MAX}"),
        (b"[" * (DEPTH_MAX + 2) + b"]" * (DEPTH_MAX + 2), f"deeper than {DEPTH_MAX}"),
        (b'{"a":' * 5_000 + b"1" + b"}" * 5_000, f"deeper than {DEPTH_MAX}"),
        (b'"\\ud800"', "half of a surrogate pair"),
        (b'{"\\udfff":1}', "half of a surrogate pair"),
        (b'"\xff"', "not JSON in UTF-8"),
        ("[1]".encode("utf-16"), "not JSON in UTF-8"),
        (b"", "not JSON"),
        (b" " * 100_001, "100001 bytes are more than 100000"),
    ],
)
def test_every_refusal_says_why(payload: bytes, said: str) -> None:
    """And comes as one kind of error."""
    with pytest.raises(StrictJsonError, match=said):
        parse(payload, bytes_max=100_000)


def test_the_greatest_depth_is_allowed() -> None:
    """One level less than what is refused."""
    depth = DEPTH_MAX + 1
    assert parse(b"[" * depth + b"]" * depth, bytes_max=1000)
