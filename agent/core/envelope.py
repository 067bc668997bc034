"""A message as it goes out: what identifies it, when it was captured, how old it is, and its body."""

from __future__ import annotations

import json
from typing import Any

from agent.clock import NS_PER_MS, iso_utc
from agent.core.message import Message

encode_json = json.JSONEncoder(separators=(",", ":")).encode
"""Made once: `json.dumps` with separators makes an encoder for each call, 4 us."""


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
    boot = message.boot or boot
    if message.kind == "result":
        head: dict[str, Any] = {
            "id": f"{boot}-{message.seq}",
            "boot": boot,
            "seq": message.seq,
            "stream": message.stream,
            "captured_at": stamp,
            "age_ms": round(age_ns / NS_PER_MS, 3),
        }
    else:
        head = {"boot": boot, "seq": message.seq, "at": stamp}
    return {**head, **message.body, **({"replay": True} if replay else {})}
