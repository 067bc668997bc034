"""What a run starts on: the newest accepted document, the last good one, or the settings of the device alone."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from agent.clock import Clock
from agent.core.desired import Document, InvalidDocumentError
from agent.core.field_errors import as_body
from agent.core.reconcile import Record, start_begun, stepped_down
from agent.desired.accepted import AcceptedStore
from agent.desired.audit import Audit
from agent.desired.file_trial import FileTrial, FileTrials, open_file_trials, told_problems
from agent.desired.reporting import RELOAD_ASKED_BY
from agent.desired.values import load_document
from agent.errors import ConfigError
from agent.layers import Layers, Loaded
from agent.settings import Settings

log = logging.getLogger(__name__)

PROBLEMS_MAX = 5
"""Of a document on which no run can start; a report carries them."""
FILE_STAYS = (
    "what was before it is in force until it says something else: correct it, or try it again with a reload (SIGHUP)"
)


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
        good: layers before these, where these are of a settings file that was read again and is not proven; None
            for none.
        files: keeps what is on trial of the settings file.
        written: layers with what the settings file says, where that was given up and is not used; None elsewhere.
    """

    layers: Layers
    record: Record
    loaded: Loaded
    store: Store
    audit: Audit
    given_up: tuple[Mapping[str, Any], ...] = ()
    good: Layers | None = None
    files: FileTrials = field(default_factory=lambda: FileTrials(None))
    written: Layers | None = None

    def without_current(self, problems: list[str]) -> Start:
        """Return the start on what was good before, because no run can start on the current document."""
        figures = {"problems": problems[:PROBLEMS_MAX]}
        return _settled(_given_up(self, "cannot_start", figures))

    def without_file(self, problems: list[str]) -> Start:
        """Return the start on the layers before, because no run can start on those that replaced them."""
        assert self.good is not None
        event = file_given_up(self.layers.place, self.record, "cannot_start", told_problems(problems))
        self.audit.add("rolled_back", event)
        _give_up_file(self.files, event)
        given_up = (*self.given_up, event)
        return _settled(replace(self, layers=self.good, written=self.layers, good=None, given_up=given_up))

    def as_written(self, problems: list[str]) -> Start:
        """Return the start on what the settings file says, because no run can start on what was before it either."""
        assert self.written is not None
        _say_no_way_back(self.written.place, problems)
        _keep(self.files, None)
        return _settled(replace(self, layers=self.written, written=None))


def file_given_up(file: str, record: Record, check: str, figures: dict[str, Any]) -> dict[str, Any]:
    """Return the body of the event that tells of a settings file that was given up, and write it to the log."""
    log.error("%s: given up: %s: %s; %s", file, check, figures, FILE_STAYS)
    version = 0 if record.current is None else record.current.version
    told = {"version": version, "asked_by": RELOAD_ASKED_BY, "check": check, "figures": figures}
    return {**told, "to_version": version, "file": file}


def begin(layers: Layers, clock: Clock) -> Start:
    """Decide what the first run of a process starts on, and write it down before anything else happens.

    Args:
        layers: of the device, with the settings file as it is.
        clock: the agent's.

    Raises:
        ConfigError: the settings of the device itself are wrong.
    """
    files = open_file_trials(layers.load().settings)
    trial = files.load(layers)
    if trial is not None and not trial.holds_for(layers):
        _keep(files, None)  # Somebody wrote another one since, which a start takes as it is.
        trial = None
    if trial is None:
        return _on(layers, clock, files)
    begun = _counted(trial, files)
    good = begun.before(layers)
    if not begun.is_given_up:
        return replace(_on(layers, clock, files), good=good)
    try:
        start = replace(_on(good, clock, files), written=layers)
    except ConfigError as error:
        # Of another version, or with another environment, than it was good with.
        _say_no_way_back(layers.place, error.problems)
        _keep(files, None)
        return _on(layers, clock, files)
    event = file_given_up(layers.place, start.record, begun.check, dict(begun.figures))
    if trial.is_given_up:
        return start  # It was told when it happened; settings/reported says it still.
    start.audit.add("rolled_back", event)
    return replace(start, given_up=(event, *start.given_up))


def resume(layers: Layers, clock: Clock, *, good: Layers | None, given_up: tuple[Mapping[str, Any], ...]) -> Start:
    """Decide what a run that replaces another in place starts on; see `begin`.

    Args:
        layers: of the device, as the run before ended with.
        clock: the agent's.
        good: see `Start`.
        given_up: what the run before gave up at its end, to be told.

    Raises:
        ConfigError: the settings of the device itself are wrong.
    """
    files = open_file_trials(layers.load().settings)
    files.load(layers)
    for event in given_up:
        _give_up_file(files, event)
    start = _on(layers, clock, files)
    return replace(start, good=good, given_up=(*given_up, *start.given_up))


def _on(layers: Layers, clock: Clock, files: FileTrials) -> Start:
    """Return the start on the device's layers and the document above them."""
    own = layers.load()
    start = decide(layers, own, open_store(own.settings), Audit(own.settings.state.dir, clock))
    return replace(start, files=files)


def _counted(trial: FileTrial, files: FileTrials) -> FileTrial:
    """Count a start on a settings file that is on trial; one that cannot be counted gives the file up."""
    begun = trial.begun()
    if not _keep(files, begun) and not begun.is_given_up:
        files.trial = begun = begun.given_up("not_kept", {"place": files.place})
    return begun


def _say_no_way_back(file: str, problems: list[str]) -> None:
    why = told_problems(problems)["problems"]
    log.error("what was before %s cannot be used any more, so it is taken as it is: %s", file, "; ".join(why))


def _give_up_file(files: FileTrials, event: Mapping[str, Any]) -> None:
    """Keep that a settings file was given up, as an event tells it; the start after this one must know."""
    if files.trial is not None and "file" in event:
        _keep(files, files.trial.given_up(event["check"], event["figures"]))


def _keep(files: FileTrials, trial: FileTrial | None) -> bool:
    """Write down what is on trial of the settings file; return whether it is on disk."""
    try:
        files.put(trial)
    except OSError as error:
        log.error("%s: cannot be written: %s", files.place, error.strerror)
        return False
    return True


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
        log.error("%s: cannot be written: %s", start.store.place, error.strerror)
        return False
    return True
