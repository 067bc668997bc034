"""One thread: brings a release of a model from its manifest to its commit, or back."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from agent.clock import NS_PER_S, Clock
from agent.core.backoff import Backoff
from agent.core.message import Message
from agent.core.probation import Before, Bounds, Failed, Passed, Probation, Readings
from agent.core.release import Release, ReleaseFile, ReleaseRefusedError
from agent.core.shelf import Ended, Shelf
from agent.errors import ConfigError, TransientError

log = logging.getLogger(__name__)

LOOK_EVERY_NS = NS_PER_S
"""Between two looks at the streams on probation."""
PROGRESS_EVERY_NS = 2 * NS_PER_S
"""Between two reports of a download's progress."""

Figures = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Offer:
    """A manifest whose signature holds and whose terms fit.

    Attributes:
        release: what it says.
        digest: SHA-256 of its payload, in hex.
        asked_by: who published it, as far as the broker tells.
    """

    release: Release
    digest: str
    asked_by: str = ""


class Store(Protocol):
    """See `updates.store.ReleaseStore`. Everything but `folder`, `content` and `partial` may raise OSError."""

    def save(self, shelves: Mapping[str, Shelf]) -> None:
        """Write the shelves down."""

    def folder(self, release: str) -> Path:
        """Return where a release's folder is."""

    def content(self, file: ReleaseFile) -> Path:
        """Return where a file's content is."""

    def partial(self, file: ReleaseFile) -> Path:
        """Return where its first bytes are."""

    def make_room(self, release: Release) -> None:
        """See that it fits. Raises ReleaseRefusedError."""

    def accept(self, file: ReleaseFile) -> None:
        """Verify a partial file. Raises ReleaseRefusedError."""

    def assemble(self, release: Release, digest: str) -> str:
        """Make the release's folder and return its name."""

    def prune(self, shelves: Mapping[str, Shelf]) -> None:
        """Remove what no shelf keeps."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the updater needs of the agent.

    Attributes:
        fetch: gets what is missing of a file into its partial file, calling back with the bytes that are there;
            raises TransientError, ReleaseRefusedError or OSError.
        qualify: tries a release's folder in a child process; returns figures, raises ReleaseRefusedError.
        canary: lets it see live frames beside the model that serves; likewise.
        serve: lets the models serve that the shelves name; raises ConfigError, and then nothing was changed.
        read: looks at streams, memory and broker.
        emit: hands a message to egress.
        report: sends an event.
        clock: the agent's.
    """

    fetch: Callable[[ReleaseFile, Path, Callable[[int], bool]], None]
    qualify: Callable[[str, Path], Figures]
    canary: Callable[[str, Path], Figures]
    serve: Callable[[Mapping[str, Shelf]], None]
    read: Callable[[], Readings]
    emit: Callable[[Message], None]
    report: Callable[[str, Figures], None]
    clock: Clock


class UpdateLoop:
    """See the module.

    Args:
        shelves: as this run was started on them, by model.
        bases: the folders that the settings name, by model.
        store: keeps releases.
        around: the rest of the agent.
        bounds: of the probation.
        give_up_ns: how long a download is tried.
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
    ) -> None:
        self._shelves = dict(shelves)
        self._bases = dict(bases)
        self._store = store
        self._around = around
        self._bounds = bounds
        self._give_up_ns = give_up_ns
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._is_stopping = False
        self._next: Offer | None = None
        self._current: Offer | None = None
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

    def stop(self) -> None:
        """End the thread; what it was doing goes on in the next run. Any thread."""
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
            self._before.add(self._around.read())
            self._around.clock.wait(self._wake, LOOK_EVERY_NS)
            self._wake.clear()

    def announce(self) -> None:
        """Send the last state again: the retained one may be gone with the broker's memory. Any thread."""
        if self._state:
            self._send(self._state)

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
        for name, shelf in list(self._shelves.items()):
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
            return not self._has_to_end()

        while not self._has_to_end():
            try:
                self._around.fetch(file, self._store.partial(file), on_progress)
            except TransientError as error:
                if self._has_to_end():
                    return False
                if clock.now_ns() >= give_up_at_ns:
                    raise ReleaseRefusedError("download", f"given up: {error}") from error
                reason = f"tried again soon: {error}"
                self._tell(
                    release.name,
                    release.seq,
                    "downloading",
                    progress=round(done / release.size_bytes, 3),
                    reason=reason,
                )
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
        self._tell(name, release.seq, "canary", figures=figures)
        figures |= self._around.canary(name, path)
        if self._has_to_end():
            return
        before = self.shelf(name)
        self._keep(name, before.begin(folder, release.seq, offer.digest))
        try:
            self._around.serve(self._shelves)
        except ConfigError as error:
            reason = "; ".join(error.problems)
            self._keep(name, self.shelf(name).roll_back("cannot_serve", reason))
            self._conclude(name)
            return
        self._around.report("model_trial", {"model": name, "seq": release.seq, "asked_by": offer.asked_by})
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
        self._before.clear()
        if isinstance(outcome, Passed):
            self._keep(name, self.shelf(name).commit())
        else:
            reason = ", ".join(f"{key} {value}" for key, value in outcome.figures.items())
            self._keep(name, self.shelf(name).roll_back(outcome.check, reason), must=False)
            self._serve_again(name)
        self._conclude(name)

    def _serve_again(self, name: str) -> None:
        try:
            self._around.serve(self._shelves)
        except ConfigError as error:
            # It served before; what it needs has gone since. The next start says so, too.
            log.error("%s: the release before cannot be brought back: %s", name, "; ".join(error.problems))  # noqa: TRY400

    def _reject(self, offer: Offer, code: str, reason: str) -> None:
        release = offer.release
        self._keep(release.name, self.shelf(release.name).reject(release.seq, offer.digest, code, reason), must=False)
        self._conclude(release.name)

    def _conclude(self, name: str) -> None:
        ended = self.shelf(name).ended
        assert ended is not None
        self._tell(name, ended.seq, ended.phase, code=ended.code, reason=ended.reason)
        self._around.report(f"model_{ended.phase}", {"model": name, **_told(ended)})
        level = logging.INFO if ended.phase == "committed" else logging.WARNING
        log.log(
            level,
            "%s: release %d %s%s",
            name,
            ended.seq,
            ended.phase.replace("_", " "),
            f": {ended.reason}" * bool(ended.reason),
        )
        self._store.prune(self._shelves)

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
            log.error("%s: the state cannot be written: %s", name, error.strerror)  # noqa: TRY400
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


def _told(ended: Ended) -> dict[str, Any]:
    return {"seq": ended.seq, **({"code": ended.code, "reason": ended.reason} if ended.code else {})}
