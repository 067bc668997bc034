"""The device's own settings file while the agent runs: in force, on trial, or given up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from agent.core.reconcile import Record
from agent.desired.file_trial import FileTrial, FileTrials
from agent.desired.local_file import Unproven, Waiting
from agent.desired.start import file_given_up
from agent.layers import Layers
from agent.settings import Settings


class OwnFile:
    """The layers in force below the document, what was good before them, and what the next start must know.

    The control thread, and whoever stops it afterwards.

    Args:
        layers: of this run.
        waiting: what of them and of the document is in force only from the next start on.
        good: the layers before, where these are not proven; None for none.
        trials: keeps on disk what is on trial.
        not_kept: told why the disk does not take it. It is on trial all the same: the file lies there already.

    Attributes:
        layers: in force.
        unproven: what was good before a file that is on probation; None without one.
    """

    def __init__(
        self,
        layers: Layers,
        waiting: Waiting,
        *,
        good: Layers | None,
        trials: FileTrials,
        not_kept: Callable[[str], None],
    ) -> None:
        self.layers = layers
        self.unproven = None if good is None else Unproven(good)
        self._waiting = waiting
        self._started = layers
        self._trials = trials
        self._not_kept = not_kept

    @property
    def place(self) -> str:
        """The file, for people."""
        return self.layers.place

    @property
    def given_up(self) -> dict[str, Any] | None:
        """What `settings/reported` says of a file that was given up; None for none."""
        trial = self._trials.trial
        if trial is None or not trial.is_given_up:
            return None
        return {"file": self.place, "check": trial.check, "figures": dict(trial.figures)}

    def begin(self, layers: Layers) -> Callable[[], None]:
        """Put what a file says on trial, before it is applied; return what takes that back."""
        before = self._trials.trial
        good = self.layers if self.unproven is None else self.unproven.good
        self._keep(FileTrial.of(layers, good))
        return lambda: self._keep(before)

    def use(self, layers: Layers, on_time: Mapping[str, float], must_deliver: frozenset[str]) -> None:
        """Take note that a file is applied; see `note` for the rest.

        Args:
            layers: with it.
            on_time: share of frames that ended in time before it, by stream.
            must_deliver: streams that must deliver frames if it is to count as good.
        """
        before = self.unproven or Unproven(self.layers, self._waiting.of_file)
        # What was good stays the measure, as it does for a document that follows an unproven one.
        shares = {**on_time, **before.on_time}
        self.unproven = Unproven(before.good, before.waiting, shares, must_deliver | before.must_deliver)
        self.layers = layers

    def note(self, layers: Layers, settings: Settings) -> None:
        """Take note of what a file says, whether something of it was applied, waits for a start, or is in force."""
        self.layers = layers
        self._waiting.note_file(settings)
        self._keep_state()

    def proven(self) -> None:
        """Take note that what is in force has passed its probation."""
        self.unproven = None
        self._keep_state()

    def give_up(self, check: str, figures: Mapping[str, Any]) -> None:
        """Go back to what was good."""
        assert self.unproven is not None
        self._keep(FileTrial.of(self.layers, self.unproven.good).given_up(check, figures))
        self.layers, self._waiting.of_file = self.unproven.good, self.unproven.waiting
        self.unproven = None

    def stopped(self) -> None:
        """Note that this run ends on purpose: its start does not count against the file."""
        if (trial := self._trials.trial) is not None and not trial.is_given_up:
            self._keep(replace(trial, starts=0))

    def for_next_run(self, *, has_hung: bool) -> tuple[Layers, Layers | None]:
        """Return the device's layers that a restart in place goes on with, and those that it goes back to.

        A hang counts against a settings file that is not proven.
        """
        if self.unproven is not None and has_hung:
            return self.unproven.good, None
        if self.unproven is not None:
            return self.layers, self.unproven.good
        # What takes effect at the next start is watched then.
        return self.layers, self._started if self._waiting.for_file else None

    def given_up_by_hang(self, reason: str, record: Record) -> list[dict[str, Any]]:
        """Return what the next run tells of a settings file that a hang counted against; empty for none."""
        if self.unproven is None or not reason:
            return []
        return [file_given_up(self.place, record, "hung", {"reason": reason})]

    def _keep_state(self) -> None:
        layers, good = self.for_next_run(has_hung=False)
        self._keep(None if good is None else FileTrial.of(layers, good))

    def _keep(self, trial: FileTrial | None) -> None:
        try:
            self._trials.put(trial)
        except OSError as error:
            self._not_kept(str(error.strerror))
