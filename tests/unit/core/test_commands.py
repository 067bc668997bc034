"""Commands as they come over the wire, and the memory of what was answered."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.commands import (
    REMEMBERED_MAX,
    REPLY_BYTES_KEPT_MAX,
    Address,
    Answered,
    CommandError,
    CommandMemory,
    answer_to,
    read_address,
    read_request,
)
from agent.interfaces import Received

BASE = "edgebeat/v1/porch"


def command(payload: bytes = b"", response_topic: str = "", correlation: bytes = b"") -> Received:
    """Build a `ping`."""
    return Received("commands/ping", payload, False, response_topic, correlation, (("who", "anna"),))


def test_mqtt_5_says_where_the_answer_goes_and_what_it_is_known_by() -> None:
    """CorrelationData is the id where the body has none."""
    message = command(b'{"stream":"door"}', f"{BASE}/responses/desk", b"\x01\x02")
    request = read_request(message, read_address(message, BASE))
    assert request.address == Address("desk", "0102", b"\x01\x02")
    assert (request.name, request.key, request.asked_by) == ("ping", "desk/0102", "who=anna")
    assert request.arguments == {"stream": "door"}


def test_the_body_says_it_in_mqtt_3_1_1() -> None:
    """`id` and `reply` are no arguments."""
    request = read_request(command(b'{"id":"7","reply":"desk","x":1}'), Address())
    assert request.address == Address("desk", "7")
    assert request.arguments == {"x": 1}


@pytest.mark.parametrize(
    "topic",
    [
        "edgebeat/v1/yard/responses/x",
        f"{BASE}/responses",
        f"{BASE}/responses/",
        f"{BASE}/responses/a/b",
        f"{BASE}/responses/+",
        f"{BASE}/responses/#",
        f"{BASE}/settings/desired",
        f"{BASE}/responses/a b",
        "x" * 300,
    ],
)
def test_an_answer_goes_below_the_own_tree_only(topic: str) -> None:
    """Else whoever may send a command could write wherever the device may."""
    with pytest.raises(CommandError) as caught:
        read_address(command(response_topic=topic), BASE)
    assert caught.value.code == "foreign_response_topic"


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"", "no_id"),
        (b"{}", "no_id"),
        (b'{"id":7}', "no_id"),
        (b'{"id":""}', "no_id"),
        (b'{"id":"a\\nb"}', "no_id"),
        (json.dumps({"id": "x" * 65}).encode(), "no_id"),
        (b"[]", "malformed"),
        (b"{", "malformed"),
        (b'{"id":"1","id":"1"}', "malformed"),
        (b'{"id":"1","reply":"a/b"}', "malformed"),
        (b'{"id":"1","reply":"#"}', "malformed"),
        (b'{"id":"1","reply":3}', "malformed"),
        (b'{"id":"1","pad":"' + b"x" * 4096 + b'"}', "malformed"),
    ],
)
def test_what_is_malformed_has_one_code(payload: bytes, code: str) -> None:
    """The text says what would be right."""
    with pytest.raises(CommandError) as caught:
        read_request(command(payload), Address())
    assert caught.value.code == code


@given(
    st.binary(max_size=300)
    | st.dictionaries(st.text(), st.text() | st.integers()).map(lambda d: json.dumps(d).encode())
)
def test_any_body_is_a_request_or_an_error_that_can_be_answered(payload: bytes) -> None:
    """Nothing else is raised, and an address is never invented."""
    message = command(payload)
    try:
        request = read_request(message, Address())
    except CommandError:
        address = answer_to(message, Address())
    else:
        address = request.address
    assert "/" not in address.client
    json.dumps(address.id).encode()


def test_a_malformed_command_is_answered_where_it_says_who_asks() -> None:
    """As far as it can be read."""
    assert answer_to(command(b'{"reply":"desk"}'), Address()) == Address("desk", "")
    assert answer_to(command(b'{"id":"' + b"x" * 100 + b'","reply":"desk"}'), Address()).id == "x" * 64
    assert answer_to(command(b"{"), Address("desk", "01", b"\x01")) == Address("desk", "01", b"\x01")


def test_the_oldest_answer_is_forgotten_first() -> None:
    """256 are known; one that is asked for again is no newer for that."""
    memory = CommandMemory(Answered(f"desk/{n}", "ping", {"state": "ok"}) for n in range(REMEMBERED_MAX + 2))
    assert memory.get("desk/0") is None
    assert memory.get("desk/1") is None
    assert memory.get("desk/2") is not None
    assert len(memory.entries()) == REMEMBERED_MAX


def test_a_large_answer_is_not_kept() -> None:
    """The sender is told so instead of the command being done twice."""
    memory = CommandMemory()
    memory.add(Answered("desk/1", "snapshot", {"state": "ok", "image": "x" * REPLY_BYTES_KEPT_MAX}))
    kept = memory.get("desk/1")
    assert kept is not None
    assert kept.body["code"] == "not_kept"
