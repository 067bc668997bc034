"""Which release of a model serves: what is committed, what is on trial, and the way back."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

STARTS_MAX = 2
"""Starts of the agent that one trial may see. The first start after the switch may be a power cut; a third is a crash
that comes again."""

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
    """

    base: str
    seq_max: int = 0
    current: str = ""
    previous: str = ""
    trial: Trial | None = None
    ended: Ended | None = None

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
        """Count a start of the agent, before the model is loaded; a trial that saw too many is over."""
        if self.trial is None:
            return self
        starts = self.trial.starts + 1
        if starts > STARTS_MAX:
            return self.roll_back("crash_loop", f"the agent started {starts} times while it was on trial")
        return replace(self, trial=replace(self.trial, starts=starts))

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
        return replace(self, current=self.previous, previous="", trial=None, ended=ended)
