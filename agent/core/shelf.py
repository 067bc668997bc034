"""Which release of a model serves: what is committed, what is on trial, and the way back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

STARTS_MAX = 2
"""Starts of the agent that one trial may see. The first start after the switch may be a power cut; a third is a crash
that comes again."""
STARTS_MAX_COMMITTED = 6
"""Runs in a row on a committed release that may end within the time of a probation, as for settings that have proven
themselves: what kills the agent may be a picture that the release did not see before."""

_FOLDER = re.compile(r".+-(\d{1,16})-[0-9a-f]{12}")


def folder_name(model: str, seq: int, digest: str) -> str:
    """Return what the folder of a release is called, from the digest of its manifest."""
    return f"{model}-{seq}-{digest[:12]}"


def seq_of(folder: str) -> int:
    """Return the `seq` of the release in a folder, 0 for the folder that the settings name."""
    found = _FOLDER.fullmatch(folder)
    return 0 if found is None else int(found[1])


@dataclass(frozen=True, slots=True)
class Trial:
    """A release that serves and has not proven itself.

    Attributes:
        folder: its name on the shelf.
        seq: of the release.
        digest: of its manifest.
        starts: of the agent since it came in.
    """

    folder: str
    seq: int
    digest: str
    starts: int = 0


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of the last release that was offered, so that it is not tried for ever.

    Attributes:
        digest: of its manifest.
        seq: of the release.
        phase: `committed`, `rolled_back` or `rejected`.
        code: why; empty when it was committed.
        reason: for people.
    """

    digest: str
    seq: int
    phase: str
    code: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Shelf:
    """The releases of one model. Every method returns the next state; the caller writes it down before acting on it.

    Attributes:
        base: the folder that the settings name. A shelf holds for that one: who names another means that.
        seq_max: the highest `seq` that was committed here.
        current: folder of the committed release; empty for the one that the settings name.
        previous: what to go back to by hand; empty for the settings' own.
        trial: what serves now, where that is on trial.
        ended: see `Ended`.
        starts: runs on `current` since the last one that lived for the time of a probation.
    """

    base: str
    seq_max: int = 0
    current: str = ""
    previous: str = ""
    trial: Trial | None = None
    ended: Ended | None = None
    starts: int = 0

    @property
    def serving(self) -> str:
        """The folder to load; empty for the one that the settings name."""
        return self.current if self.trial is None else self.trial.folder

    @property
    def digests(self) -> frozenset[str]:
        """The manifests that are known here: delivered again, they are no downgrade."""
        on_trial = set() if self.trial is None else {self.trial.digest}
        return frozenset(on_trial | (set() if self.ended is None else {self.ended.digest}))

    @property
    def kept(self) -> frozenset[str]:
        """The folders that must not be removed."""
        on_trial = set() if self.trial is None else {self.trial.folder}
        return frozenset({self.current, self.previous} | on_trial) - {""}

    def start(self) -> Shelf:
        """Count a start of the agent, before the model is loaded; what saw too many is given up."""
        if self.trial is None:
            return self._start_committed()
        starts = self.trial.starts + 1
        if starts > STARTS_MAX:
            return self.roll_back("crash_loop", f"the agent started {starts} times while it was on trial")
        return replace(self, trial=replace(self.trial, starts=starts))

    def _start_committed(self) -> Shelf:
        if not self.current:
            return self
        if self.starts < STARTS_MAX_COMMITTED:
            return replace(self, starts=self.starts + 1)
        reason = f"{self.starts} runs in a row did not live for the time of a probation"
        return self.revert("crash_loop", reason).start()

    def survived(self) -> Shelf:
        """Note that a run lived long enough, or was ended on purpose: its start counts against nothing."""
        trial = None if self.trial is None else replace(self.trial, starts=0)
        return replace(self, trial=trial, starts=0)

    def begin(self, folder: str, seq: int, digest: str) -> Shelf:
        """Put a release on trial; one that was on trial is given up for it."""
        return replace(self, trial=Trial(folder, seq, digest))

    def commit(self) -> Shelf:
        """Make the release on trial the current one."""
        assert self.trial is not None
        trial = self.trial
        return replace(
            self,
            seq_max=max(self.seq_max, trial.seq),
            current=trial.folder,
            previous=self.previous if trial.folder == self.current else self.current,
            trial=None,
            ended=Ended(trial.digest, trial.seq, "committed"),
            starts=0,
        )

    def roll_back(self, code: str, reason: str) -> Shelf:
        """Go back to what served before the trial."""
        assert self.trial is not None
        ended = Ended(self.trial.digest, self.trial.seq, "rolled_back", code, reason)
        return replace(self, trial=None, ended=ended)

    def reject(self, seq: int, digest: str, code: str, reason: str) -> Shelf:
        """Remember a release that never served."""
        return replace(self, ended=Ended(digest, seq, "rejected", code, reason))

    def revert(self, code: str, reason: str) -> Shelf:
        """Give up the committed release for the one before it, and that one for the settings' own.

        `seq_max` stays, so an older manifest does not come in by itself. What is given up is not the way back from
        the way back: two releases that cannot be loaded would take turns for ever.
        """
        assert self.current
        ended = self.ended
        if ended is not None and ended.phase == "committed":
            # Of this very release; another one that was refused since stays remembered as refused.
            ended = replace(ended, phase="rolled_back", code=code, reason=reason)
        return replace(self, current=self.previous, previous="", trial=None, ended=ended, starts=0)


def given_up(
    before: Mapping[str, Shelf], after: Mapping[str, Shelf], code: str, reason: str
) -> list[tuple[str, Ended]]:
    """Return what became of the releases that served before and do not any more, each with its model, to be told.

    Args:
        before: the shelves by model.
        after: the same, or what followed them.
        code: why, where the shelf does not say it: something else was refused since that release was committed.
        reason: likewise, for people.
    """
    told = []
    for name, shelf in after.items():
        known = before[name]
        if shelf.serving != known.serving:
            said = shelf.ended if shelf.ended != known.ended else None
            told.append((name, said or Ended("", seq_of(known.serving), "rolled_back", code, reason)))
    return told
