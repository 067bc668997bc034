"""What a run starts on: the newest accepted document, the last good one, or the settings of the device alone."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from agent.clock import Clock
from agent.core.desired import Document, InvalidDocumentError
from agent.core.field_errors import as_body
from agent.core.reconcile import Record, start_begun, stepped_down
from agent.desired.accepted import AcceptedStore
from agent.desired.audit import Audit
from agent.desired.reporting import RELOAD_ASKED_BY
from agent.desired.values import load_document
from agent.layers import Layers, Loaded
from agent.settings import Settings

log = logging.getLogger(__name__)

PROBLEMS_MAX = 5
"""Of a document on which no run can start; a report carries them."""


class Store(Protocol):
    """See `accepted.AcceptedStore`."""

    @property
    def place(self) -> str:
        """Where it is, for people."""

    def load(self) -> Record:
        """Return what is kept."""

    def save(self, record: Record) -> None:
        """Write the record. Raises OSError."""


@dataclass(frozen=True, slots=True)
class Start:
    """A decision that is on disk already.

    Attributes:
        layers: what is written on the device.
        record: the state of remote settings, this start counted.
        loaded: the settings to run on.
        store: keeps the record.
        audit: keeps who changed what.
        given_up: bodies of the events that tell what was given up on the way.
        good: layers before these, where these came with a restart in place and are not proven; None for none.
    """

    layers: Layers
    record: Record
    loaded: Loaded
    store: Store
    audit: Audit
    given_up: tuple[Mapping[str, Any], ...] = ()
    good: Layers | None = None

    def without_current(self, problems: list[str]) -> Start:
        """Return the start on what was good before, because no run can start on the current document."""
        figures = {"problems": problems[:PROBLEMS_MAX]}
        return _settled(_given_up(self, "cannot_start", figures))

    def without_file(self, problems: list[str]) -> Start:
        """Return the start on the layers before, because no run can start on those that replaced them."""
        assert self.good is not None
        event = file_given_up(self.layers.place, self.record, "cannot_start", {"problems": problems[:PROBLEMS_MAX]})
        self.audit.add("rolled_back", event)
        given_up = (*self.given_up, event)
        return _settled(replace(self, layers=self.good, good=None, given_up=given_up))


def file_given_up(file: str, record: Record, check: str, figures: dict[str, Any]) -> dict[str, Any]:
    """Return the body of the event that tells of a settings file that was given up, and write it to the log."""
    log.error("%s: given up: %s: %s; going on by what was before it", file, check, figures)
    version = 0 if record.current is None else record.current.version
    told = {"version": version, "asked_by": RELOAD_ASKED_BY, "check": check, "figures": figures}
    return {**told, "to_version": version, "file": file}


def begin(
    layers: Layers, clock: Clock, *, good: Layers | None = None, given_up: tuple[Mapping[str, Any], ...] = ()
) -> Start:
    """Decide what to start on, and write it down before anything else happens.

    Args:
        layers: of the device.
        clock: the agent's.
        good: see `Start`.
        given_up: what the run before gave up at its end, to be told.

    Raises:
        ConfigError: the settings of the device itself are wrong.
    """
    own = layers.load()
    start = decide(layers, own, open_store(own.settings), Audit(own.settings.state.dir, clock))
    return replace(start, good=good, given_up=(*given_up, *start.given_up))


def decide(layers: Layers, own: Loaded, store: Store, audit: Audit) -> Start:
    """Decide for a state that lies in `store`; see `begin`."""
    start = Start(layers, store.load(), own, store, audit)
    if not own.settings.remote.settings:
        return replace(start, record=replace(start.record, current=None, good=None, is_proven=True))
    before = start.record
    start = replace(start, record=start_begun(before))
    if start.record.given_up != before.given_up:
        start = _said(start, before.current)
    if not _save(start) and not start.record.is_proven:
        # A start that cannot be counted may be the one of a thousand: only what has proven itself is used then.
        start = _given_up(start, "not_kept", {"place": store.place})
    return _settled(start)


def open_store(settings: Settings) -> AcceptedStore:
    """Return where the device's state of remote settings is."""
    return AcceptedStore(settings.state.dir, may_make="dir" in settings.state.model_fields_set)


def _settled(start: Start) -> Start:
    """Return the start on the first document, from the current one down, that is valid with the device's settings."""
    while True:
        try:
            return replace(start, loaded=load_document(start.layers, start.record.current))
        except InvalidDocumentError as error:
            # The file was edited since: what the document speaks of may be gone.
            figures = {"errors": as_body(error.errors[:PROBLEMS_MAX])}
            start = _given_up(start, "cannot_start", figures)


def _given_up(start: Start, check: str, figures: dict[str, Any]) -> Start:
    """Give up the current document and count this start for the one that follows."""
    follower = replace(start, record=start_begun(stepped_down(start.record, check, figures)))
    _save(follower)
    return _said(follower, start.record.current)


def _said(start: Start, failed: Document | None) -> Start:
    """Write down that a document was given up, and keep it to be told once there is a connection."""
    given_up, current = start.record.given_up, start.record.current
    assert given_up is not None
    follower = "the settings of the device" if current is None else f"v{current.version}"
    why = f"{given_up.check}: {given_up.figures}"
    log.error("settings v%d: given up: %s; starting on %s", given_up.version, why, follower)
    event = {
        "version": given_up.version,
        "asked_by": "" if failed is None else failed.asked_by,
        "check": given_up.check,
        "figures": dict(given_up.figures),
        "to_version": 0 if current is None else current.version,
    }
    start.audit.add("rolled_back", event)
    return replace(start, given_up=(*start.given_up, event))


def _save(start: Start) -> bool:
    """Write the record where there is one; return whether it is on disk."""
    if start.record == Record():
        return True
    try:
        start.store.save(start.record)
    except OSError as error:
        log.error("%s: cannot be written: %s", start.store.place, error.strerror)  # noqa: TRY400
        return False
    return True
