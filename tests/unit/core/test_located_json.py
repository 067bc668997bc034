"""JSON from strangers: whatever the bytes are, a value or an error with its place."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.desired import BYTES_MAX, Document, InvalidDocumentError, parse_desired
from agent.core.field_errors import ERRORS_MAX, GOT_CHARS_MAX, MESSAGE_CHARS_MAX, PATH_CHARS_MAX, as_body, shown
from agent.core.located_json import DEPTH_MAX, UnreadableError, parse

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)
SNIPPETS = [
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b"\\",
    b",",
    b":",
    b"NaN",
    b"1e999",
    b"9" * 40,
    b"\xff",
    b"\\ud800",
    b'"a"',
    b" ",
]


def errors_of(payload: bytes) -> dict[str, str]:
    """Return the codes of what is wrong, by path."""
    with pytest.raises(UnreadableError) as caught:
        parse(payload, BYTES_MAX)
    return {error.path: error.code for error in caught.value.errors}


@given(VALUES)
def test_what_python_writes_is_read_as_it_was(value: Any) -> None:
    """A bounded subset of JSON, not a dialect."""
    assert parse(json.dumps(value).encode(), BYTES_MAX) == value
    assert parse(json.dumps(value, ensure_ascii=False).encode(), BYTES_MAX) == value


@given(st.binary(max_size=300) | st.lists(st.sampled_from(SNIPPETS), max_size=30).map(b"".join))
def test_no_bytes_make_it_raise_anything_else(payload: bytes) -> None:
    """Values or errors; errors are bounded and can be sent back."""
    try:
        parse_desired(payload)
    except InvalidDocumentError as error:
        body = as_body(error.errors)
        json.dumps(body, allow_nan=False)
        assert 1 <= len(body) <= ERRORS_MAX
        for path, found in body.items():
            assert len(path) <= PATH_CHARS_MAX
            assert len(found["message"]) <= MESSAGE_CHARS_MAX
            assert len(found["got"]) <= GOT_CHARS_MAX


def test_brackets_in_text_are_no_depth() -> None:
    """And an escaped quote does not end the text."""
    value = {"a": "[" * 100, "b": '\\"' + "{" * 100}
    assert parse(json.dumps(value).encode(), BYTES_MAX) == value
    nested: Any = 1
    for _ in range(DEPTH_MAX):
        nested = [nested]
    assert parse(json.dumps(nested).encode(), BYTES_MAX) == nested
    assert errors_of(json.dumps([nested]).encode()) == {"": "too_deep"}


def test_every_fault_is_found_at_once_with_its_path() -> None:
    """Several in one document."""
    payload = b'{"a":[1,NaN],"b":{"c":1,"c":2,"d":' + b"9" * 17 + b'},"e":"\\udc00"}'
    assert errors_of(payload) == {
        "a.1": "not_a_number",
        "b.c": "duplicate_key",
        "b.d": "number_too_large",
        "e": "not_text",
    }


def test_passwords_of_camera_urls_are_not_shown() -> None:
    """Errors are published."""
    assert shown("rtsp://user:secret@camera/main") == '"rtsp://***@camera/main"'


def test_documents_are_told_apart_by_their_values() -> None:
    """Not by the order of keys, nor by who asked."""
    one, other = Document(1, {"a": {"x": 1, "y": 2}}, "me"), Document(1, {"a": {"y": 2, "x": 1}})
    assert one.digest == other.digest != Document(1, {"a": {"x": 1, "y": 3}}).digest
