"""Obeys `settings/desired`, and the settings file when it is read again: reads, keeps, applies, watches, takes back.

What becomes of it is said on `settings/reported`, as an event, in the audit and in the log.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from agent.clock import NS_PER_S
from agent.core.desired import Document, InvalidDocumentError, parse_desired
from agent.core.field_errors import FieldError, as_body, cut, field_error
from agent.core.probation import Before, Bounds, Failed, Passed, Probation, Readings
from agent.core.reconcile import Record, Verdict, accepted, follower, judge, proven, stepped_down, survived
from agent.desired.audit import Audit
from agent.desired.file_trial import FileTrials
from agent.desired.local_file import Unproven, Waiting, local_changes, usable, waiting
from agent.desired.own_file import OwnFile
from agent.desired.reporting import Reporting, told
from agent.desired.start import FILE_STAYS
from agent.desired.surroundings import Applier, Models, Store, Surroundings
from agent.desired.values import (
    changes,
    effective,
    load_document,
    masked_values,
    overridden,
    running,
    touched_streams,
)
from agent.errors import ConfigError
from agent.interfaces import Received
from agent.layers import InvalidSettingsError, Layers, Loaded
from agent.settings import Settings

log = logging.getLogger(__name__)

LOOK_EVERY_NS = NS_PER_S
"""Between two looks at the streams."""
ASKED_BY_PROPERTIES = ("asked_by", "user", "client")
"""MQTT 5 user properties that name who asked, the first that is there."""
ASKED_BY_CHARS_MAX = 64


class SettingsReceiver:
    """See `interfaces.Receiver`.

    Args:
        layers: what is written on the device.
        record: as this run was started on it.
        loaded: the settings of this run, which are those of `record.current`.
        store: keeps the record.
        audit: keeps who changed what.
        applier: changes the running agent.
        around: the rest of the agent.
        models: takes what a document says of models; None where nothing does.
        good: the layers before those of this run, where these are of a file that was read again and is not proven.
        files: keeps what is on trial of the settings file; None for memory alone.
    """

    topic = "settings/desired"
    waiting_max = 1

    def __init__(
        self,
        layers: Layers,
        record: Record,
        loaded: Loaded,
        *,
        store: Store,
        audit: Audit,
        applier: Applier,
        around: Surroundings,
        models: Models | None = None,
        good: Layers | None = None,
        files: FileTrials | None = None,
    ) -> None:
        self._models = models
        self._record = record
        self._loaded = loaded
        self._started_on = loaded.settings
        self._store = store
        self._reporting = Reporting(around.emit, around.report, audit, around.clock)
        self._applier = applier
        self._around = around
        self._is_obeyed = loaded.settings.remote.settings
        self._bounds = Bounds(
            int(loaded.settings.remote.probation_s * NS_PER_S), loaded.settings.remote.on_time_loss_max
        )
        self._before = Before()
        self._probation: Probation | None = None
        self._started_ns = around.clock.now_ns()
        self._looked_ns = 0
        self._seen_version = record.version_max
        self._rejected: tuple[FieldError, ...] = ()
        self._waiting = Waiting(loaded.settings)
        self._own = OwnFile(
            layers,
            self._waiting,
            good=good,
            trials=files or FileTrials(None),
            not_kept=self._reporting.not_kept,
        )
        self._reload_is_asked = threading.Event()
        self._is_changing = False

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self._loaded.settings

    @property
    def may_change(self) -> bool:
        """Whether what is in force may be taken back soon: a run must not end with its streams. Any thread."""
        is_on_trial = not self._record.is_proven and not self._waiting.of_document
        return self._is_changing or self._probation is not None or self._own.unproven is not None or is_on_trial

    def connected(self) -> None:
        """See `Receiver.connected`: the retained report may be gone with the broker's memory."""
        self._report_state()
        if self._models is not None:
            self._models.announce()
            self._offer_model(self._record.current)  # The run before may have ended in the middle of a download.

    def receive(self, message: Received) -> None:
        """See `Receiver.receive`."""
        if not message.payload:
            log.info("settings/desired was cleared: the settings stay as they are")
            return
        try:
            document = parse_desired(message.payload, _asked_by(message))
        except InvalidDocumentError as error:
            self._reject(error.version, error.errors)
            return
        self._seen_version = document.version
        verdict = judge(self._record, document)
        if verdict is Verdict.NEW:
            with self._changing():
                self._take(document)
        elif verdict is Verdict.SAME:
            self._rejected = ()
            self._report_state()
        else:
            self._refuse_version(document, verdict)

    def turn(self, now_ns: int) -> int:
        """See `Receiver.turn`: looks at the device once a second, and reads the settings file when that was asked."""
        if self._reload_is_asked.is_set():
            with self._changing():
                self._reload()
        if now_ns - self._looked_ns >= LOOK_EVERY_NS:
            self._looked_ns = now_ns
            self._look(self._around.read(), now_ns)
        return self._looked_ns + LOOK_EVERY_NS

    def request_reload(self) -> None:
        """Read the settings file again in the next turn. Any thread."""
        self._reload_is_asked.set()

    def for_next_run(self, *, has_hung: bool) -> tuple[Layers, Layers | None]:
        """See `OwnFile.for_next_run`. After the end of the control thread."""
        return self._own.for_next_run(has_hung=has_hung)

    def given_up_by_hang(self, reason: str) -> list[dict[str, Any]]:
        """See `OwnFile.given_up_by_hang`. After the end of the control thread."""
        return self._own.given_up_by_hang(reason, self._record)

    def way_back(self) -> tuple[int, int] | None:
        """Return the version in force and the one that follows when it is given up, 0 for the device's own settings.

        None where nothing came from afar. The control thread.
        """
        current = self._record.current
        return None if current is None else (current.version, _version(follower(self._record)))

    def give_up(self, version: int, asked_by: str) -> bool:
        """Go back to the settings before a document because somebody asks; False when it is not in force."""
        if _version(self._record.current) != version or not version:
            return False
        with self._changing():
            self._roll_back("operator", {"asked_by": cut(asked_by, ASKED_BY_CHARS_MAX)})
        return True

    def stopped(self) -> None:
        """Note that this run ends on purpose: its start counts neither against document nor file. At the end."""
        if self._record.starts:
            self._save_or_say(survived(self._record))
        self._own.stopped()

    def snapshot(self) -> dict[str, Any]:
        """Return figures for health. Any thread."""
        record = self._record
        return {
            "version": _version(record.current),
            "seen_version": self._seen_version,
            "state": self._state(),
            "is_proving": self._probation is not None,
            "starts": record.starts,
        }

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        self._is_changing = True
        try:
            yield
        finally:
            self._is_changing = False

    def _take(self, document: Document) -> None:
        """Validate, keep, apply, watch, say."""
        if not self._is_obeyed:
            text = "remote.settings is false on this device: nothing is changed from afar"
            self._reject(document.version, [field_error((), "refused", text)])
            return
        try:
            loaded = load_document(self._own.layers, document)
        except InvalidDocumentError as error:
            self._reject(document.version, error.errors)
            return
        if document.model is not None and (refused := self._check_model(document.model)) is not None:
            self._reject(document.version, [refused])
            return
        old, record, now_ns = self._loaded, self._record, self._around.clock.now_ns()
        on_time, must_deliver = self._before.on_time(), self._must_deliver(loaded.settings)
        next_record = accepted(record, document, on_time=on_time, must_deliver=must_deliver)
        try:
            self._store.save(next_record)
        except OSError as error:
            text = f"cannot be kept on the device, so it is not used: {error.strerror}"
            self._reject(document.version, [field_error((), "not_kept", text)])
            return
        if (problem := self._apply(loaded)) is not None:
            self._save_or_say(record)
            self._reject(document.version, [field_error(("values",), "cannot_apply", problem)])
            return
        self._record, self._loaded, self._rejected = next_record, loaded, ()
        self._begin_probation(now_ns)
        changed = changes(old.settings, loaded.settings)
        self._waiting.note(self.settings)
        log.info("settings v%d from %s: %s", document.version, document.asked_by or "unknown", told(changed))
        self._report_state()
        self._offer_model(document)
        self._reporting.change("applied", document, {"changes": changed, "restart": self._waiting.of_document})

    def _reload(self) -> None:
        """Read the settings file as often as that was asked for meanwhile."""
        try:
            while self._reload_is_asked.is_set():
                self._reload_is_asked.clear()
                self._read_file()
        finally:
            self._around.reloaded()

    def _read_file(self) -> None:
        """Validate the device's own layers and bring them in below the document in force."""
        try:
            layers = self._around.reread()
            layers.load()
            loaded = load_document(layers, self._record.current)
        except ConfigError as error:
            self._reporting.file_rejected(self._own.place, _version(self._record.current), error.problems)
        except InvalidDocumentError as error:
            # A start would give the document up; here nothing forces that.
            version = _version(self._record.current)
            found = [f"v{version} from afar does not hold with it: {e.path}: {e.message}" for e in error.errors]
            self._reporting.file_rejected(self._own.place, version, found)
        else:
            self._take_layers(layers, loaded)

    def _take_layers(self, layers: Layers, loaded: Loaded) -> None:
        """Apply, watch and say what a settings file changed; what only a start brings in waits for it."""
        old, now_ns = self._loaded, self._around.clock.now_ns()
        if loaded.settings == old.settings:
            log.warning("SIGHUP: %s: the settings are as they are in force", layers.place)
            self._loaded = loaded  # Its lines may be others.
            self._own.note(layers, loaded.settings)
            self._report_state()
            return
        version = _version(self._record.current)
        if is_used := usable(self._started_on, loaded.settings) != usable(self._started_on, old.settings):
            on_time, must_deliver = self._before.on_time(), self._must_deliver(loaded.settings)
            take_back = self._own.begin(layers)
            if (problem := self._apply(loaded)) is not None:
                take_back()
                self._reporting.file_rejected(layers.place, version, problem.split("; "))
                return
            self._own.use(layers, on_time, must_deliver)
        self._loaded = loaded
        self._own.note(layers, loaded.settings)
        if is_used:
            self._begin_probation(now_ns)
        changed = {**changes(old.settings, loaded.settings), **local_changes(old.settings, loaded.settings)}
        log.warning("SIGHUP: %s: %s", layers.place, told(changed))
        if waits := self._waiting.for_file:
            log.warning("SIGHUP: in force from the next start on: %s: restart the service", ", ".join(waits))
        self._report_state()
        self._reporting.file_change("applied", version, {"file": layers.place, "changes": changed, "restart": waits})

    def _check_model(self, model: Mapping[str, Any]) -> FieldError | None:
        if self._models is None:
            return field_error(("model",), "not_taken", "this run of the agent takes no model")
        return self._models.check(model)

    def _offer_model(self, document: Document | None) -> None:
        if self._models is not None and document is not None and document.model is not None:
            self._models.offer(document.model, document.asked_by)

    def _apply(self, loaded: Loaded) -> str | None:
        """Bring the agent to settings; return what prevents it."""
        try:
            self._applier.apply(usable(self._started_on, loaded.settings))
        except ConfigError as error:
            return "; ".join(error.problems)
        except Exception as error:
            # Half of it may be done: the old settings are applied again, and the document is refused.
            log.exception("settings: cannot be applied")
            self._restore(f"{type(error).__name__} while settings were applied")
            return f"the agent failed on it: {type(error).__name__}: {error}"
        return None

    def _restore(self, why: str) -> None:
        """Apply the settings in force once more; where that fails, a new run must begin on what is kept."""
        try:
            self._applier.apply(usable(self._started_on, self._loaded.settings))
        except Exception as error:
            log.exception("settings: cannot be restored in place")
            self._around.restart(f"{why}, and {type(error).__name__} while the old ones were restored")

    def _must_deliver(self, settings: Settings) -> frozenset[str]:
        """Return the streams that must deliver under other settings."""
        return (self._before.alive() | touched_streams(self._loaded.settings, settings)) & running(settings)

    def _begin_probation(self, now_ns: int) -> None:
        file = self._own.unproven or Unproven(self._own.layers)
        must_deliver = frozenset(self._record.must_deliver) | file.must_deliver
        self._probation = Probation(
            self._bounds,
            on_time={**file.on_time, **self._record.on_time},
            must_deliver=must_deliver & running(self._loaded.settings),
            readings=self._around.read(),
            now_ns=now_ns,
        )

    def _look(self, readings: Readings, now_ns: int) -> None:
        has_survived = now_ns - self._started_ns >= self._bounds.duration_ns
        is_proven = self._record.is_proven and self._own.unproven is None
        if not is_proven and self._probation is None and not self._waiting.of_document:
            self._begin_probation(now_ns)  # This run began on what is not proven yet.
        if self._probation is None:
            self._before.add(readings)
            if has_survived and self._record.starts and self._record.is_proven:
                self._record = survived(self._record)
                self._save_or_say(self._record)
            return
        outcome = self._probation.update(readings, now_ns)
        if isinstance(outcome, Failed):
            with self._changing():
                self._roll_back(outcome.check, outcome.figures)
        elif isinstance(outcome, Passed):
            self._conclude()

    def _conclude(self) -> None:
        """The watch is over and nothing failed."""
        self._probation = None
        self._before.clear()
        if self._own.unproven is not None:
            self._own.proven()
            log.info("%s: proven", self._own.place)
            self._reporting.file_change("proven", _version(self._record.current), {"file": self._own.place})
        document = self._record.current
        if self._waiting.of_document or self._record.is_proven or document is None:
            # What takes effect at the next start is watched then.
            self._report_state()
            return
        self._record = proven(self._record)
        self._save_or_say(self._record)
        log.info("settings v%d: proven", document.version)
        self._report_state()
        self._reporting.change("proven", document, {})

    def _roll_back(self, check: str, figures: Mapping[str, Any]) -> None:
        """Give up what is not proven, or the document when asked to: keep that first, then apply what was good."""
        old, has_file = self._loaded, self._own.unproven is not None
        failed = self._record.current if check == "operator" or not self._record.is_proven else None
        if failed is not None:
            self._record = stepped_down(self._record, check, figures)
            self._save_or_say(self._record)
        had_waiting = waiting(self._started_on, old.settings)
        place = self._own.place
        if has_file:
            self._own.give_up(check, figures)
        what = " and ".join(([f"v{failed.version}"] if failed else []) + ([place] if has_file else []))
        self._probation = None
        self._before.clear()
        log.warning("settings %s: rolled back: %s: %s", what, check, dict(figures))
        try:
            self._loaded = load_document(self._own.layers, self._record.current)
        except (InvalidDocumentError, InvalidSettingsError):
            # It was valid when it was accepted, with the same file; only a bug leads here.
            log.exception("settings: the last good ones are not valid any more")
            self._around.restart("the last good settings are not valid any more")
            return
        self._restore(f"settings {what} were given up")
        self._waiting.note(self.settings)
        self._report_state()
        version = _version(self._record.current)
        body = {"check": check, "figures": dict(figures), "to_version": version}
        changed = changes(old.settings, self.settings)
        if failed is not None:
            self._reporting.change("rolled_back", failed, {**body, "changes": changed})
        if not has_file:
            return
        log.warning("%s still says otherwise: %s", place, FILE_STAYS)
        changed |= local_changes(old.settings, self.settings)
        self._reporting.file_change("rolled_back", version, {**body, "file": place, "changes": changed})
        if waiting(self._started_on, self.settings) and not had_waiting:
            self._around.restart(f"{place} was given up, and only a start brings back what was before it")

    def _refuse_version(self, document: Document, verdict: Verdict) -> None:
        newest = self._record.version_max
        if verdict is Verdict.STALE:
            text = f"v{newest} was accepted before: a document must have a higher version"
        else:
            text = f"v{newest} was accepted with other values: give the changed document a higher version"
        code = "stale" if verdict is Verdict.STALE else "version_reused"
        self._rejected = (field_error(("version",), code, text, document.version),)
        self._report_state("stale")

    def _reject(self, version: int | None, errors: list[FieldError]) -> None:
        """Say what is wrong; nothing was changed."""
        if version is not None:
            self._seen_version = version
        is_repeated, self._rejected = tuple(errors) == self._rejected, tuple(errors)
        self._report_state("rejected")
        if not is_repeated:  # Each connection brings a retained document again.
            self._reporting.rejected(version, errors)

    def _state(self) -> str:
        if self._record.given_up is not None:
            return "rolled_back"
        return "restart_required" if self._waiting.all else "applied"

    def _report_state(self, state: str | None = None) -> None:
        record, given_up = self._record, self._record.given_up
        body: dict[str, Any] = {
            "version": _version(record.current),
            "seen_version": self._seen_version,
            "state": state or self._state(),
            "proven": record.is_proven,
            "errors": as_body(self._rejected),
            "values": effective(self.settings),
            "accepted": {} if record.current is None else masked_values(record.current.values),
            "overridden": overridden(self._loaded, record.current, self._own.layers),
            "restart": self._waiting.all,
        }
        if self._probation is not None:
            left_ns = self._probation.ends_ns - self._around.clock.now_ns()
            body["probation_s"] = max(0.0, round(left_ns / NS_PER_S, 1))
        if given_up is not None:
            figures = dict(given_up.figures)
            body["rolled_back"] = {"version": given_up.version, "check": given_up.check, "figures": figures}
        if (told_of_file := self._own.given_up) is not None:
            body["file_given_up"] = told_of_file
        self._reporting.state(body)

    def _save_or_say(self, record: Record) -> None:
        """Write what must be known after a restart; a disk that refuses cannot stop a way back."""
        try:
            self._store.save(record)
        except OSError as error:
            self._reporting.not_kept(str(error.strerror))


def _version(document: Document | None) -> int:
    """Return a version, 0 for the device's own settings."""
    return 0 if document is None else document.version


def _asked_by(message: Received) -> str:
    properties = dict(message.user_properties)
    found = next((properties[name] for name in ASKED_BY_PROPERTIES if properties.get(name)), "")
    return cut("".join(char if char.isprintable() else "?" for char in found), ASKED_BY_CHARS_MAX)
