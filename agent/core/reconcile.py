"""Which document is in force, which was good, and what follows: the state that is on disk before anything happens.

A document that was accepted is *current*. While it is not proven, *good* is the last one that was; None stands for
the settings of the device alone. Every function returns the next state; the caller writes it before it acts on it, so
that a run that ends at any moment is followed by one that starts on an accepted document, and that gives it up
when it does not survive.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from agent.core.desired import Document

STARTS_MAX_UNPROVEN = 3
"""Starts in a row that an unproven document may fail to survive: one may be bad luck, three are a pattern."""
STARTS_MAX_PROVEN = 6
"""The same for a document that has proven itself: power that fails six times within the time of probation."""


class Verdict(StrEnum):
    """What a document is, seen from the state."""

    NEW = "new"
    SAME = "same"
    """The newest that was accepted, delivered again: after each connection, since it is retained."""
    STALE = "stale"
    """Older than what was accepted."""
    REUSED = "version_reused"
    """The version of the newest one with other values: two operators, or a forgotten increment."""


@dataclass(frozen=True, slots=True)
class GivenUp:
    """Why a document is not in force any more.

    Attributes:
        version: of the document.
        check: that failed: `streams`, `on_time`, `memory`, `broker`, `starts`, `cannot_start`, `operator`.
        figures: what was measured.
    """

    version: int
    check: str
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Record:
    """The state.

    Attributes:
        current: in force, None for the settings of the device alone.
        good: the last proven one; equal to `current` once that is proven.
        previous: the one that was proven before `good`: what somebody who takes a proven document back gets.
        is_proven: whether `current` is.
        version_max: the highest that was ever accepted, given up or not; 0 for none.
        digest_max: of its values.
        starts: runs since the last one that lived long enough.
        on_time: share of frames that ended in time before the change, by stream; what the change is compared with.
        must_deliver: streams that must deliver frames if the change is to count as good.
        given_up: the last document that was, until another is accepted.
    """

    current: Document | None = None
    good: Document | None = None
    previous: Document | None = None
    is_proven: bool = True
    version_max: int = 0
    digest_max: str = ""
    starts: int = 0
    on_time: Mapping[str, float] = field(default_factory=dict)
    must_deliver: tuple[str, ...] = ()
    given_up: GivenUp | None = None


def judge(record: Record, document: Document) -> Verdict:
    """Return what to do with a document whose form is right."""
    if document.version > record.version_max:
        return Verdict.NEW
    if document.version < record.version_max:
        return Verdict.STALE
    return Verdict.SAME if document.digest == record.digest_max else Verdict.REUSED


def accepted(
    record: Record, document: Document, *, on_time: Mapping[str, float], must_deliver: Iterable[str]
) -> Record:
    """Put a new document in force, on probation.

    Args:
        record: the state before.
        document: judged as new, its values valid.
        on_time: of the settings in force; those from before an unproven document stay, they are what was good.
        must_deliver: streams that delivered before, and those whose source the document touches.
    """
    return Record(
        current=document,
        good=record.current if record.is_proven else record.good,
        previous=record.previous,
        is_proven=False,
        version_max=document.version,
        digest_max=document.digest,
        on_time=on_time if record.is_proven else {**on_time, **record.on_time},
        must_deliver=tuple(sorted({*must_deliver, *record.must_deliver})),
    )


def proven(record: Record) -> Record:
    """The current document has passed its probation."""
    before = record.previous if record.is_proven else record.good
    return replace(
        record, good=record.current, previous=before, is_proven=True, starts=0, on_time={}, must_deliver=()
    )


def survived(record: Record) -> Record:
    """This run has lived long enough, or was ended on purpose."""
    return replace(record, starts=0)


def follower(record: Record) -> Document | None:
    """Return what is in force once the current document is given up; None for the settings of the device alone."""
    return record.previous if record.is_proven else record.good


def stepped_down(record: Record, check: str, figures: Mapping[str, Any]) -> Record:
    """Give up the current document: the last good one follows, at last the settings of the device alone."""
    if record.current is None:
        return record
    given_up = GivenUp(record.current.version, check, figures)
    return Record(
        current=follower(record),
        good=follower(record),
        previous=None if record.is_proven else record.previous,
        version_max=record.version_max,
        digest_max=record.digest_max,
        given_up=given_up,
    )


def start_begun(record: Record) -> Record:
    """Count a start, before it; a document that too many runs did not survive is given up."""
    if record.current is None:
        return record
    starts_max = STARTS_MAX_PROVEN if record.is_proven else STARTS_MAX_UNPROVEN
    if record.starts >= starts_max:
        return start_begun(stepped_down(record, "starts", {"starts": record.starts, "starts_max": starts_max}))
    return replace(record, starts=record.starts + 1)
