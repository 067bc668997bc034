"""From which folder each model is loaded: its release's, or the settings' own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import Any

from agent.assembly import load_models, used_models
from agent.clock import Clock
from agent.core.shelf import Ended, Shelf, given_up
from agent.errors import ConfigError
from agent.interfaces import LoadedModel
from agent.marks import Marks
from agent.provision import Provision
from agent.settings import ModelSettings, Settings
from agent.updates.store import ReleaseStore

log = logging.getLogger(__name__)


class Shelves:
    """What the state folder holds of each model's releases, and which of them serves.

    Args:
        store: of the releases.
        is_check: whether nobody runs on this: no start is counted, nothing is given up, and nothing written.
    """

    def __init__(self, store: ReleaseStore, *, is_check: bool = False) -> None:
        self.store = store
        self._is_check = is_check
        self._lock = threading.Lock()
        kept = store.load(sets_aside=not is_check)
        self._shelves = kept if is_check else {name: shelf.start() for name, shelf in kept.items()}
        self.given_up: list[tuple[str, Ended]] = []
        """By this start, to be told once there is a connection."""
        self._note_given_up(kept, "crash_loop", "the agent does not live on it")
        self._save(kept)

    @property
    def current(self) -> dict[str, Shelf]:
        """Return the shelves of the moment by model. Any thread."""
        with self._lock:
            return self._shelves

    def exchange(self, shelves: Mapping[str, Shelf]) -> dict[str, Shelf]:
        """Put others in their place and return those before; who does it saves them. Any thread."""
        with self._lock:
            before, self._shelves = self._shelves, dict(shelves)
        return before

    def effective(self, settings: Settings) -> Settings:
        """Return the settings with the folders that serve in the place of those that a release replaced."""
        shelves = self.current
        models = tuple(self._placed(model, shelves.get(model.name)) for model in settings.models)
        return settings.model_copy(update={"models": models})

    def load(
        self, settings: Settings, provision: Provision, marks: Marks, clock: Clock, *, must_all_load: bool
    ) -> tuple[dict[str, LoadedModel], dict[str, dict[str, Any]]]:
        """Load the models, each from its release where it has one that can be loaded. See `assembly.load_models`.

        Raises:
            ConfigError: the settings' own cannot be loaded either; in a check, what a start would begin with cannot.
        """
        while True:
            wanted = used_models(self.effective(settings))
            try:
                return load_models(wanted, provision, marks, clock, must_all_load=must_all_load)
            except ConfigError as error:
                if self._is_check or not self.step_down(error.problems):
                    raise

    def step_down(self, problems: list[str]) -> bool:
        """Give up what serves and is not the settings' own, one step, because it cannot be loaded.

        Returns:
            Whether there was something to give up.
        """
        kept = dict(self._shelves)
        reason = "; ".join(problems)[:500]
        trials = {name: shelf for name, shelf in kept.items() if shelf.trial is not None}
        if trials:
            self._shelves |= {name: shelf.roll_back("cannot_start", reason) for name, shelf in trials.items()}
        else:
            committed = {name: shelf for name, shelf in kept.items() if shelf.current}
            self._shelves |= {name: shelf.revert("cannot_start", reason) for name, shelf in committed.items()}
        if self._shelves == kept:
            return False
        self._note_given_up(kept, "cannot_start", reason)
        self._save(kept)
        return True

    def _note_given_up(self, kept: Mapping[str, Shelf], code: str, reason: str) -> None:
        ended = given_up(kept, self._shelves, code, reason)
        for name, one in ended:
            log.error("%s: release %d given up: %s: %s", name, one.seq, one.code, one.reason)
        self.given_up += ended

    def _placed(self, model: ModelSettings, shelf: Shelf | None) -> ModelSettings:
        if shelf is None or not shelf.serving:
            return model
        if shelf.base != str(model.path):
            log.warning(
                "%s: the settings name %s now: its releases for %s are not used", model.name, model.path, shelf.base
            )
            return model
        return model.model_copy(update={"path": self.store.folder(shelf.serving)})

    def _save(self, kept: Mapping[str, Shelf]) -> None:
        if self._shelves == kept:
            return
        try:
            self.store.save(self._shelves)
        except OSError as error:
            log.error("%s: the state of updates cannot be written: %s", error.filename, error.strerror)
