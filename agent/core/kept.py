"""A message into its stored form and back."""

from __future__ import annotations

import json

from agent.core.envelope import encode_json
from agent.core.message import Message
from agent.core.spool_policy import age_on_disk_ns
from agent.core.typed_array import for_disk, from_disk
from agent.interfaces import KeptMessage, SpoolDamagedError


def to_kept(message: Message, boot: str, *, now_ns: int, wall_ns: int) -> KeptMessage:
    """Return a message as it lies on disk; its wall time is fixed by that.

    Raises:
        TypeError: its body cannot be encoded.
        ValueError: likewise.
    """
    return KeptMessage(
        kind=message.kind,
        boot=message.boot or boot,
        seq=message.seq,
        topic=message.topic,
        stream=message.stream,
        captured_at_ns=message.captured_at_ns,
        captured_wall_ns=message.captured_wall_ns or wall_ns - (now_ns - message.captured_at_ns),
        body=encode_json(for_disk(message.body)),
    )


def to_message(kept: KeptMessage, boot: str, *, now_ns: int, wall_ns: int) -> Message:
    """Return a stored message with its identity and content; it is no live one any more.

    Raises:
        SpoolDamagedError: its body is not what was written.
    """
    try:
        body = from_disk(json.loads(kept.body))
    except ValueError as error:
        raise SpoolDamagedError(f"{kept.kind} {kept.seq} on disk is not what was written") from error
    return Message(
        kind=kept.kind,
        topic=kept.topic,
        body=body,
        captured_at_ns=now_ns - age_on_disk_ns(kept, boot=boot, now_ns=now_ns, wall_ns=wall_ns),
        deadline_ns=0,
        seq=kept.seq,
        stream=kept.stream,
        boot="" if kept.boot == boot else kept.boot,
        captured_wall_ns=kept.captured_wall_ns,
    )
