"""Builds model updates: what the updater needs of the agent."""

from __future__ import annotations

import hashlib
import logging
import platform
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from agent.assembly import load_models, used_models
from agent.clock import NS_PER_S, Clock
from agent.core.field_errors import FieldError, field_error
from agent.core.message import Message
from agent.core.probation import Bounds, Readings
from agent.core.release import ReleaseFile, ReleaseRefusedError, Terms, check_terms, parse_release
from agent.core.shelf import Shelf
from agent.engine.process import give_back, loading
from agent.engine.session import runtime_version
from agent.errors import ConfigError, DoesNotFitError
from agent.loops.inference import Canary, InferenceLoop
from agent.loops.update_seams import Offer, Surroundings, WayBack
from agent.loops.updater import UpdateLoop
from agent.marks import Marks
from agent.provision import Provision
from agent.qualification import qualify
from agent.settings import Settings
from agent.shelves import Shelves
from agent.updates.download import fetch
from agent.updates.signature import Signed, envelope_of, load_keys, verify
from agent.updates.store import ReleaseStore

log = logging.getLogger(__name__)

CANARY_LIMIT_S = 60.0
"""A model in service that is never idle leaves no time for another one; its probation then tells."""
SPARE_BYTES = 32 << 20
"""Of the memory limit, what a second model beside the one in service leaves to the rest."""


class Agent(Protocol):
    """What updates need of the running agent."""

    def serve_models(self) -> None:
        """Load the models that `Shelves.effective` names. Raises ConfigError, and then nothing was changed."""

    def readings(self) -> Readings:
        """Look at streams, memory and broker."""

    def inference(self, model: str) -> InferenceLoop | None:
        """Return the loop that serves a model."""

    def spare_bytes(self) -> int:
        """Return what is left of the memory limit."""

    def provision(self) -> Provision:
        """Return what the models of the moment were given."""

    def emit(self, message: Message) -> None:
        """Hand a message to egress."""

    def report(self, event: str, body: Mapping[str, Any]) -> None:
        """Send an event."""


class Updates:
    """Takes releases of models while the agent runs.

    Args:
        settings: those of the device's own file count for what is local-only.
        marks: of models that hung.
        clock: the agent's.
        is_check: see `Shelves`.

    Raises:
        ConfigError: the keys or the authority that the settings name cannot be used; no start was counted.
    """

    def __init__(self, settings: Settings, marks: Marks, clock: Clock, *, is_check: bool = False) -> None:
        self._settings = settings
        self._marks = marks
        self._updates = settings.updates
        self._clock = clock
        self._keys = {} if self._updates.keys_file is None else load_keys(self._updates.keys_file)
        self._context = _context(self._updates.ca_file)
        self._loop: UpdateLoop | None = None
        self.shelves = Shelves(ReleaseStore(settings.state.dir), is_check=is_check)
        """Which release of each model serves."""

    def build_loop(self, agent: Agent, note: Callable[[str, Mapping[str, Any]], None]) -> UpdateLoop:
        """Return the updater of the running agent. Once.

        Args:
            agent: see `Agent`.
            note: writes each change of a model to the audit.
        """

        def report(event: str, body: Mapping[str, Any]) -> None:
            agent.report(event, body)
            note(event, body)

        def serve(shelves: Mapping[str, Shelf]) -> None:
            before = self.shelves.exchange(shelves)
            try:
                agent.serve_models()
            except ConfigError:
                self.shelves.exchange(before)
                raise

        around = Surroundings(
            fetch=self._fetch,
            qualify=lambda name, folder: self._qualify(agent, name, folder),
            canary=lambda name, folder: self._show_live_frames(agent, name, folder),
            serve=serve,
            read=agent.readings,
            emit=agent.emit,
            report=report,
            clock=self._clock,
        )
        self._loop = UpdateLoop(
            self.shelves.current,
            {model.name: str(model.path) for model in self._settings.models},
            store=self.shelves.store,
            around=around,
            bounds=Bounds(int(self._updates.probation_s * NS_PER_S), self._settings.remote.on_time_loss_max),
            give_up_ns=int(self._updates.give_up_hours * 3600 * NS_PER_S),
            given_up=self.shelves.given_up,
        )
        return self._loop

    def check(self, body: Any) -> FieldError | None:
        """Return why a document's `model` is refused, None when this device takes it. The control thread."""
        try:
            self._read(body)
        except ReleaseRefusedError as error:
            return field_error(("model",), error.code, str(error))
        return None

    def offer(self, body: Any, asked_by: str) -> None:
        """Ask for the release of a document's `model`. The control thread."""
        try:
            signed, release = self._read(body)
        except ReleaseRefusedError as error:
            log.warning("model: refused: %s", error)  # It was accepted once; the keys were changed since.
            return
        assert self._loop is not None
        self._loop.offer(Offer(release, _digest(signed), asked_by))

    def way_back(self, model: str, asked_by: str) -> WayBack | None:
        """Return what giving up a model's newest release means. The control thread.

        Args:
            model: its name; empty where the device has one only.
            asked_by: who asks.

        Raises:
            KeyError: no model is called so, or several could be meant; with the names that are known.
        """
        assert self._loop is not None
        known = self._loop.models
        name = model or (known[0] if len(known) == 1 else "")
        if name not in known:
            raise KeyError(", ".join(known))
        return self._loop.way_back(name, asked_by)

    def give_up(self, way: WayBack) -> None:
        """Ask that a release be given up. The control thread."""
        assert self._loop is not None
        self._loop.give_up(way)

    def announce(self) -> None:
        """Send the last state again. The control thread."""
        if self._loop is not None:
            self._loop.announce()

    def snapshot(self) -> dict[str, Any]:
        """Return what serves, by model, for health. Any thread."""
        return {} if self._loop is None else self._loop.snapshot()

    def _read(self, body: Any) -> tuple[Signed, Any]:
        if self._updates.keys_file is None:
            raise ReleaseRefusedError("not_taken", "updates.keys_file is not set on this device: it takes no model")
        signed = envelope_of(body)
        release = parse_release(verify(signed, self._keys))
        terms = Terms(
            models=frozenset(model.name for model in used_models(self._settings)),
            hosts=frozenset(self._updates.hosts),
            bytes_max=self._updates.max_mb << 20,
            architecture=platform.machine(),
            onnxruntime=runtime_version(),
        )
        shelf = self._loop.shelf(release.name) if self._loop is not None else None
        is_known = shelf is not None and _digest(signed) in shelf.digests
        check_terms(release, terms, 0 if shelf is None or is_known else shelf.seq_max)
        return signed, release

    def _fetch(self, file: ReleaseFile, partial: Path, on_progress: Callable[[int], bool]) -> None:
        fetch(file, partial, on_progress, self._context)

    def _qualify(self, agent: Agent, name: str, folder: Path) -> Mapping[str, Any]:
        settings, spare = self._settings, agent.spare_bytes()
        alone = _alone(settings, name, folder)
        deadlines = [s.budget_ms for s in settings.streams if s.model == name and s.budget_ms is not None]
        figures = qualify(alone, deadline_ms=min(deadlines, default=None), sessions=agent.provision().sessions)
        needed = int(figures["memory_mb"] * (1 << 20)) + SPARE_BYTES
        if needed > spare and not self._settings.engine.cold_swap:
            raise ReleaseRefusedError(
                "too_big",
                f"it takes {figures['memory_mb']} MiB beside the model in service; {spare >> 20} MiB are left of "
                f"the agent's limit, {SPARE_BYTES >> 20} of them must stay free",
            )
        return figures

    def _show_live_frames(self, agent: Agent, name: str, folder: Path) -> Mapping[str, Any]:
        wanted, loop = self._updates.canary_frames, agent.inference(name)
        if not wanted or loop is None:
            return {"canary": {"frames": 0}}
        try:
            with loading():
                alone = _alone(self._settings, name, folder)
                serving = agent.provision()
                # It is to be judged with the threads that it will have beside the other models.
                provision = serving.follow(alone, sessions=serving.sessions)
                models, refused = load_models(alone.models, provision, self._marks, self._clock, must_all_load=True)
        except ConfigError as error:
            if isinstance(error, DoesNotFitError) and self._settings.engine.cold_swap:
                return {"canary": {"frames": 0}}  # It takes the place of the one in service, or is refused then.
            raise ReleaseRefusedError(error.harm or "not_verified", "; ".join(error.problems)[:1000]) from error
        if refused:
            raise ReleaseRefusedError("not_verified", "its network hung before and is not loaded again")
        canary = Canary(models[name].variants[0], wanted)
        loop.canary = canary
        try:
            durations_ns = canary.wait(CANARY_LIMIT_S)
        finally:
            loop.canary = None
            provision.renew_arena()  # That of the canary goes with it, not with the next load.
        if canary.failure is not None:
            raise ReleaseRefusedError("canary", f"fails on a live frame: {canary.failure}")
        stopped = canary.stopped
        middle_ms = round(durations_ns[len(durations_ns) // 2] / 1e6, 2) if durations_ns else None
        del models, canary
        give_back()
        return {"canary": {"frames": len(durations_ns), "stopped": stopped, "p50_ms": middle_ms}}


def _alone(settings: Settings, name: str, folder: Path) -> Settings:
    """Return settings with one model, from a folder of a release, and the streams that it would serve."""
    models = tuple(m.model_copy(update={"path": folder}) for m in settings.models if m.name == name)
    streams = tuple(stream for stream in settings.streams if stream.model == name)
    return settings.model_copy(update={"models": models, "streams": streams})


def _digest(signed: Signed) -> str:
    return hashlib.sha256(signed.payload).hexdigest()


def _context(ca_file: Path | None) -> ssl.SSLContext | None:
    if ca_file is None:
        return None
    try:
        return ssl.create_default_context(cafile=str(ca_file))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"updates.ca_file {ca_file}: cannot be used: {error}") from error
