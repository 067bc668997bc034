"""One thread: brings a release of a model from its manifest to its commit, or back."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from agent.clock import NS_PER_S
from agent.core.backoff import Backoff
from agent.core.message import Message
from agent.core.probation import Before, Bounds, Failed, Passed, Probation
from agent.core.release import ReleaseFile, ReleaseRefusedError
from agent.core.shelf import Ended, Shelf, seq_of
from agent.errors import ConfigError, TransientError
from agent.loops.update_seams import Figures, Offer, Store, Surroundings, WayBack

log = logging.getLogger(__name__)

LOOK_EVERY_NS = NS_PER_S
"""Between two looks at the streams on probation."""
PROGRESS_EVERY_NS = 2 * NS_PER_S
"""Between two reports of a download's progress."""


class UpdateLoop:
    """See the module.

    Args:
        shelves: as this run was started on them, by model.
        bases: the folders that the settings name, by model.
        store: keeps releases.
        around: the rest of the agent.
        bounds: of the probation.
        give_up_ns: how long a download is tried.
        given_up: releases that the start of this run gave up, each with its model, to be told.
    """

    def __init__(
        self,
        shelves: Mapping[str, Shelf],
        bases: Mapping[str, str],
        *,
        store: Store,
        around: Surroundings,
        bounds: Bounds,
        give_up_ns: int,
        given_up: Sequence[tuple[str, Ended]] = (),
    ) -> None:
        self._shelves = dict(shelves)
        self._bases = dict(bases)
        self._store = store
        self._around = around
        self._bounds = bounds
        self._give_up_ns = give_up_ns
        self._given_up = list(given_up)
        self._lives_until_ns = around.clock.now_ns() + bounds.duration_ns
        self._ends_on_purpose = False
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._is_stopping = False
        self._next: Offer | None = None
        self._current: Offer | None = None
        self._unwanted: WayBack | None = None
        self._before = Before()
        self._state: dict[str, Any] = {}

    def offer(self, offer: Offer) -> None:
        """Ask for a release; one that waits or is being fetched gives way to it. Any thread."""
        with self._lock:
            known = self._current or self._next
            if known is not None and known.digest == offer.digest and self._next in (None, known):
                return  # A retained manifest comes again with each connection.
            self._next = offer
        self._wake.set()

    def way_back(self, model: str, asked_by: str) -> WayBack | None:
        """Return what giving up the newest release of a model means; None where there is none. Any thread.

        The newest is the one that is being brought in, then the one on trial, then the committed one.
        """
        with self._lock:
            coming = [known for known in (self._next, self._current) if known and known.release.name == model]
            shelf = self.shelf(model)
        trial = "" if shelf.trial is None else shelf.trial.folder
        if coming and coming[0].folder != trial:
            return WayBack(model, coming[0].folder, shelf.serving, asked_by)
        if trial:
            return WayBack(model, trial, shelf.current, asked_by)
        return WayBack(model, shelf.current, shelf.previous, asked_by) if shelf.current else None

    def give_up(self, way: WayBack) -> None:
        """Ask that a release be given up; never waits, the end is told on `model/state`. Any thread."""
        with self._lock:
            self._unwanted = way
        self._wake.set()

    def stop(self, *, on_purpose: bool = False) -> None:
        """End the thread; what it was doing goes on in the next run. Any thread.

        Args:
            on_purpose: whether this run does not end because something failed.
        """
        self._ends_on_purpose = on_purpose
        self._is_stopping = True
        self._wake.set()

    def run(self) -> None:
        """The thread's body."""
        self._resume()
        while not self._is_stopping:
            with self._lock:
                self._current, self._next = self._next, None
            if self._current is not None:
                self._take(self._current)
                with self._lock:
                    self._current = None
                continue
            self._give_up_committed()
            self._note_life()
            self._before.add(self._around.read())
            self._around.clock.wait(self._wake, LOOK_EVERY_NS)
            self._wake.clear()
        if self._ends_on_purpose:
            self._note_survival()

    def announce(self) -> None:
        """Send the last state again: the retained one may be gone with the broker's memory. Any thread."""
        if self._state:
            self._send(self._state)

    @property
    def models(self) -> list[str]:
        """The models that releases may come for."""
        return sorted(self._bases)

    def shelf(self, name: str) -> Shelf:
        """Return the state of one model. Any thread."""
        return self._shelves.get(name) or Shelf(self._bases[name])

    def snapshot(self) -> dict[str, Any]:
        """Return, by model, what serves, for health. Any thread."""
        shelves = self._shelves
        return {
            name: {
                "seq": shelf.seq_max,
                "serving": shelf.serving or "settings",
                "on_trial": shelf.trial is not None,
            }
            for name, shelf in shelves.items()
        }

    def _resume(self) -> None:
        """Go on with what the run before left: watch a trial, or tell that it is over."""
        for name, ended in self._given_up:
            self._tell_end(name, ended)
        told = {name for name, _ in self._given_up}
        for name, shelf in list(self._shelves.items()):
            if name in told:
                continue
            if shelf.trial is not None and not self._is_stopping:
                log.info("%s: release %d is still on trial", name, shelf.trial.seq)
                self._watch(name, {})
            elif shelf.ended is not None:
                self._tell(name, shelf.ended.seq, shelf.ended.phase, code=shelf.ended.code, reason=shelf.ended.reason)

    def _take(self, offer: Offer) -> None:
        release, name = offer.release, offer.release.name
        shelf = self.shelf(name)
        if shelf.ended is not None and shelf.ended.digest == offer.digest:
            ended = shelf.ended
            self._tell(name, ended.seq, ended.phase, code=ended.code, reason=ended.reason)
            return
        log.info("%s: release %d (%s) from %s", name, release.seq, release.version, offer.asked_by or "unknown")
        try:
            folder = self._stage(offer)
            if folder is None:
                return  # A newer one waits, or the agent stops.
            self._try(offer, folder)
        except ReleaseRefusedError as error:
            self._reject(offer, error.code, str(error))
        except OSError as error:
            self._reject(offer, "disk", f"{error.filename or 'the disk'}: {error.strerror}")

    def _stage(self, offer: Offer) -> str | None:
        """Fetch and verify every file; return the name of the release's folder."""
        release, store = offer.release, self._store
        store.make_room(release)
        done = 0
        for file in release.files:
            if not store.content(file).exists():
                if not self._fetch(offer, file, done):
                    return None
                store.accept(file)
            done += file.size_bytes
        self._tell(release.name, release.seq, "verifying")
        return store.assemble(release, offer.digest)

    def _fetch(self, offer: Offer, file: ReleaseFile, done: int) -> bool:
        """Fetch one file, however often the network goes away; False when something else comes first."""
        release, clock = offer.release, self._around.clock
        backoff, give_up_at_ns = Backoff(), clock.now_ns() + self._give_up_ns
        told_ns = 0

        def on_progress(have: int) -> bool:
            nonlocal told_ns
            now_ns = clock.now_ns()
            if now_ns - told_ns >= PROGRESS_EVERY_NS:
                told_ns = now_ns
                share = round((done + have) / release.size_bytes, 3)
                self._tell(release.name, release.seq, "downloading", progress=share)
                self._note_life()
            return not self._has_to_end() and self._unwanted is None

        while not self._has_to_end():
            self._check_wanted(offer)
            self._note_life()
            try:
                self._around.fetch(file, self._store.partial(file), on_progress)
            except TransientError as error:
                if self._has_to_end():
                    return False
                self._check_wanted(offer)
                if clock.now_ns() >= give_up_at_ns:
                    raise ReleaseRefusedError("download", f"given up: {error}") from error
                share, reason = round(done / release.size_bytes, 3), f"tried again soon: {error}"
                self._tell(release.name, release.seq, "downloading", progress=share, reason=reason)
                clock.wait(self._wake, backoff.next_wait_ns())
                self._wake.clear()
            else:
                return True
        return False

    def _try(self, offer: Offer, folder: str) -> None:
        """Qualify, look at live frames, serve, watch."""
        release, name = offer.release, offer.release.name
        path = self._store.folder(folder)
        self._tell(name, release.seq, "qualifying")
        figures = dict(self._around.qualify(name, path))
        if self._has_to_end():
            return
        self._check_wanted(offer)
        self._tell(name, release.seq, "canary", figures=figures)
        figures |= self._around.canary(name, path)
        if self._has_to_end():
            return
        self._check_wanted(offer)
        before = self.shelf(name)
        self._keep(name, before.begin(folder, release.seq, offer.digest))
        try:
            self._around.serve(self._shelves)
        except ConfigError as error:
            reason = "; ".join(error.problems)
            self._keep(name, self.shelf(name).roll_back("cannot_serve", reason))
            self._conclude(name)
            return
        told = {"model": name, "seq": release.seq, "asked_by": offer.asked_by, "before_seq": seq_of(before.serving)}
        self._around.report("model_trial", told)
        self._watch(name, figures)

    def _watch(self, name: str, figures: Figures) -> None:
        """Watch a trial to its end; a stop leaves it to the next run."""
        clock, trial = self._around.clock, self.shelf(name).trial
        assert trial is not None
        readings = self._around.read()
        probation = Probation(
            self._bounds,
            on_time=self._before.on_time(),
            must_deliver=self._before.alive() & frozenset(readings.streams),
            readings=readings,
            now_ns=clock.now_ns(),
        )
        self._tell(name, trial.seq, "probation", figures=figures)
        outcome: Failed | Passed | None = None
        while outcome is None:
            clock.wait(self._wake, LOOK_EVERY_NS)
            self._wake.clear()
            if self._is_stopping:
                return
            outcome = probation.update(self._around.read(), clock.now_ns())
            if (way := self._taken_way_back(trial.folder)) is not None:
                outcome = Failed("operator", {"asked_by": way.asked_by or "unknown"})
        self._before.clear()
        if isinstance(outcome, Passed):
            self._keep(name, self.shelf(name).commit())
        else:
            reason = ", ".join(f"{key} {value}" for key, value in outcome.figures.items())
            self._keep(name, self.shelf(name).roll_back(outcome.check, reason), must=False)
            self._serve_again(name)
        self._conclude(name)

    def _give_up_committed(self) -> None:
        """Bring the release before the committed one back, where somebody asked for it."""
        with self._lock:
            way, self._unwanted = self._unwanted, None
        if way is None:
            return
        shelf = self.shelf(way.model)
        if shelf.trial is not None or shelf.current != way.folder:
            log.info("%s: release %d, which %s, serves no more", way.model, way.seq, _asked(way))
            return
        reason = _asked(way)
        self._keep(way.model, shelf.revert("operator", reason), must=False)
        self._serve_again(way.model)
        self._before.clear()
        self._tell_end(way.model, Ended("", way.seq, "rolled_back", "operator", reason))

    def _taken_way_back(self, folder: str) -> WayBack | None:
        """Return and forget that somebody wants this release to be given up."""
        with self._lock:
            way = self._unwanted
            if way is None or not folder or way.folder != folder:
                return None
            self._unwanted = None
            return way

    def _check_wanted(self, offer: Offer) -> None:
        """Act on what somebody wants to be given up before a release is on trial: this one, or another model's."""
        if (way := self._taken_way_back(offer.folder)) is not None:
            raise ReleaseRefusedError("operator", _asked(way))
        self._give_up_committed()

    def _serve_again(self, name: str) -> None:
        try:
            self._around.serve(self._shelves)
        except ConfigError as error:
            # It served before; what it needs has gone since. The next start says so, too.
            log.error("%s: the release before cannot be brought back: %s", name, "; ".join(error.problems))

    def _reject(self, offer: Offer, code: str, reason: str) -> None:
        release = offer.release
        self._keep(release.name, self.shelf(release.name).reject(release.seq, offer.digest, code, reason), must=False)
        self._conclude(release.name)

    def _conclude(self, name: str) -> None:
        ended = self.shelf(name).ended
        assert ended is not None
        self._tell_end(name, ended)

    def _tell_end(self, name: str, ended: Ended) -> None:
        self._tell(name, ended.seq, ended.phase, code=ended.code, reason=ended.reason)
        serving_seq = seq_of(self.shelf(name).serving)
        self._around.report(f"model_{ended.phase}", {"model": name, **_told(ended), "serving_seq": serving_seq})
        level = logging.INFO if ended.phase == "committed" else logging.WARNING
        what = ended.phase.replace("_", " ") + f": {ended.reason}" * bool(ended.reason)
        log.log(level, "%s: release %d %s", name, ended.seq, what)
        self._store.prune(self._shelves)

    def _note_life(self) -> None:
        """Forget the starts on what is committed, once this run has lived long enough on it."""
        if self._around.clock.now_ns() >= self._lives_until_ns and all(
            s.trial is None for s in self._shelves.values()
        ):
            self._note_survival()

    def _note_survival(self) -> None:
        for name, shelf in list(self._shelves.items()):
            if (survived := shelf.survived()) != shelf:
                self._keep(name, survived, must=False)

    def _has_to_end(self) -> bool:
        return self._is_stopping or self._next is not None

    def _keep(self, name: str, shelf: Shelf, *, must: bool = True) -> None:
        """Write a model's next state down, then act on it.

        Raises:
            OSError: the disk, where the state must be there before anything else happens.
        """
        shelves = {**self._shelves, name: shelf}
        try:
            self._store.save(shelves)
        except OSError as error:
            if must:
                raise
            # The way back must not depend on the disk; the next start counts the trial and ends it.
            log.error("%s: the state cannot be written: %s", name, error.strerror)
        self._shelves = shelves

    def _tell(self, name: str, seq: int, phase: str, **more: Any) -> None:
        body = {"name": name, "seq": seq, "phase": phase, **{key: value for key, value in more.items() if value}}
        self._state = body
        self._send(body)

    def _send(self, body: dict[str, Any]) -> None:
        now_ns = self._around.clock.now_ns()
        self._around.emit(
            Message(kind="state", topic="model/state", body=body, captured_at_ns=now_ns, qos=1, retain=True)
        )


def _asked(way: WayBack) -> str:
    return f"{way.asked_by or 'somebody unknown'} asked for it"


def _told(ended: Ended) -> dict[str, Any]:
    return {"seq": ended.seq, **({"code": ended.code, "reason": ended.reason} if ended.code else {})}
