"""A message as it goes out: what identifies it, when it was captured, how old it is, and its body."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from agent.clock import NS_PER_MS, iso_utc
from agent.core.message import Message

_FLAGS = (False, False, False)
"""Keys are not sorted, wrong ones not skipped, NaN not allowed."""
_encoder = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
# `JSONEncoder.encode` makes the encoder in C anew for each call, a third of the time that a result takes.
_in_c: Any = getattr(json.encoder, "c_make_encoder", None)
_chunks = _in_c and _in_c(None, _encoder.default, json.encoder.encode_basestring_ascii, None, ":", ",", *_FLAGS)


def encode_json(body: Mapping[str, Any]) -> str:
    """Return a body as compact JSON.

    Raises:
        TypeError: it holds something that JSON cannot say.
        ValueError: it holds NaN or infinity, which are no JSON, or itself.
    """
    try:
        return "".join(_chunks(body, 0)) if _chunks else _encoder.encode(body)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


class Encoding(NamedTuple):
    """How bodies of a kind go out.

    Attributes:
        content_type: what MQTT 5 tells the receiver.
        encode: raises TypeError or ValueError for what it cannot say.
    """

    content_type: str
    encode: Callable[[Mapping[str, Any]], bytes]


JSON = Encoding("application/json", lambda body: encode_json(body).encode())


def envelope(message: Message, boot: str, *, now_ns: int, wall_ns: int, replay: bool) -> dict[str, Any]:
    """Return the object that is encoded, with the message's age at this moment.

    Args:
        message: any kind.
        boot: identifies this run.
        now_ns: `Clock.now_ns`.
        wall_ns: `Clock.wall_ns` at the same moment.
        replay: it could not be sent in time, and says so.
    """
    age_ns = now_ns - message.captured_at_ns
    # Wall time is derived from the age, so that a step of the clock in between cannot make it lie; on disk it is
    # fixed, since the age's clock starts anew with the device.
    stamp = iso_utc(message.captured_wall_ns or wall_ns - age_ns)
    boot, seq = message.boot or boot, message.seq
    if message.kind == "result":
        body = {
            "id": f"{boot}-{seq}",
            "boot": boot,
            "seq": seq,
            "stream": message.stream,
            "captured_at": stamp,
            "age_ms": round(age_ns / NS_PER_MS, 3),
            **message.body,
        }
    else:
        body = {"boot": boot, "seq": seq, "at": stamp, **message.body}
    if replay:
        body["replay"] = True
    return body
