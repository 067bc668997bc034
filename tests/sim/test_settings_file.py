"""A device whose settings file is read again, and that is killed at any moment, comes to rest on what works."""

from __future__ import annotations

import random
from pathlib import Path

from agent.clock import NS_PER_S
from agent.core.message import Message
from agent.core.probation import Readings, StreamReading
from agent.core.reconcile import STARTS_MAX_UNPROVEN
from agent.desired.receiver import SettingsReceiver
from agent.desired.start import begin
from agent.desired.surroundings import Surroundings
from agent.errors import ConfigError
from agent.layers import Layers, Leaf
from agent.settings import Settings
from tests.fakes import ManualClock

SEEDS = 20
"""Each start and each change is written to a real disk."""
PROBATION_S = 5.0
# What a file does is in its only value: the hundreds of `max_fps`; the rest makes it another file.
GOOD, SLOW, CRASHES, CANNOT_START, REFUSED, EXPLODES = 100, 200, 300, 400, 500, 600
KINDS = (GOOD, GOOD, SLOW, CRASHES, CANNOT_START, REFUSED, EXPLODES)


class Killed(BaseException):
    """The power went."""


class World:
    """What outlives a run: the state folder, the settings file and the clock."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.clock = ManualClock()
        self.folder = folder
        self.file = GOOD
        self.fuse = -1

    def step(self) -> None:
        """Pass one point at which the power may go."""
        self.fuse -= 1
        if self.fuse == 0:
            raise Killed

    def layers(self) -> Layers:
        """Read the settings file."""
        values = {
            ("remote", "probation_s"): PROBATION_S,
            ("state", "dir"): str(self.folder),
            ("models", 0, "name"): "seen",
            ("models", 0, "path"): "m",
            ("streams", 0, "name"): "door",
            ("streams", 0, "source"): "x",
            ("streams", 0, "model"): "seen",
            ("streams", 0, "max_fps"): self.file,
        }
        return Layers(tuple(Leaf(path, value, "agent.toml") for path, value in values.items()), place="agent.toml")


class Run:
    """One run of the agent, as `cli.run` builds it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._counts = StreamReading()
        self._seconds = 0
        start = begin(world.layers(), world.clock)
        if kind(start.loaded.settings) == CANNOT_START:
            start = start.without_file(["no such source"])
        self.files = start.files
        self.in_force = start.loaded.settings
        around = Surroundings(
            emit=self._emit,
            report=lambda event, body: world.step(),
            read=lambda: Readings({"door": self._counts}),
            restart=self._restart,
            clock=world.clock,
            reread=world.layers,
        )
        self.receiver = SettingsReceiver(
            start.layers,
            start.record,
            start.loaded,
            store=start.store,
            audit=start.audit,
            applier=self,
            around=around,
            good=start.good,
            files=start.files,
        )

    def apply(self, settings: Settings) -> None:
        """See `Applier.apply`."""
        self._world.step()
        if kind(settings) == EXPLODES:
            raise RuntimeError("half of it is done")
        if kind(settings) == REFUSED:
            raise ConfigError("no such source")
        self.in_force, self._seconds = settings, 0
        self._world.step()

    def second(self) -> None:
        """Let a second pass; a file that crashes the agent does it in its third."""
        self._world.clock.ns += NS_PER_S
        missed = 10 if kind(self.in_force) == SLOW else 0
        self._counts = StreamReading(
            self._counts.captured + 10, self._counts.in_time + 10 - missed, self._counts.not_in_time + missed
        )
        self.receiver.turn(self._world.clock.now_ns())
        self._seconds += 1
        if kind(self.in_force) == CRASHES and self._seconds > 2:
            raise Killed

    def _emit(self, message: Message) -> None:
        del message
        self._world.step()

    def _restart(self, reason: str) -> None:
        raise Killed


def value(settings: Settings) -> int:
    """Return the value that tells what a file does."""
    return int(settings.streams[0].max_fps or 0)


def kind(settings: Settings) -> int:
    """Return what a file does."""
    return value(settings) // 100 * 100


def survive(world: World) -> Run:
    """Start again and again until a run lives for the time of a probation; return it."""
    for _ in range(STARTS_MAX_UNPROVEN + 2):
        world.fuse = -1
        try:
            run = Run(world)
            for _ in range(int(PROBATION_S) + 3):
                run.second()
        except Killed:
            continue
        return run
    raise AssertionError("the device restarts for ever")


def play(folder: Path, seed: int) -> None:
    """Play one life of some edits, with a kill at a random point of most of them."""
    world = World(folder, seed)
    run = survive(world)
    for number in range(1, world.random.randint(4, 9)):
        last_good = value(run.in_force)
        edited = world.random.choice(KINDS)
        world.file = edited + number
        world.fuse = world.random.randint(1, 20)
        try:
            run.receiver.request_reload()
            # One on which no run can start must end before it is proven: then it would be the device's own.
            most = 3 if edited == CANNOT_START else int(PROBATION_S) + 3
            for _ in range(world.random.randint(1, most)):
                run.second()
        except Killed:
            pass
        run = survive(world)
        found, trial = value(run.in_force), run.files.trial
        if edited == GOOD:
            assert found == world.file, "what is good is in force in the end"
            assert trial is None
        elif edited in (SLOW, CRASHES, CANNOT_START):
            assert found == last_good, "what was good before returns"
            assert trial is not None
            assert trial.is_given_up
        else:
            # What fails only while it is applied in place works after a start.
            assert found in (last_good, world.file)


def test_a_device_that_is_killed_at_any_moment_comes_to_rest_on_a_file_that_works(tmp_path: Path) -> None:
    """Lives of 3 to 8 edits; most are cut off at one of their first 20 steps."""
    for seed in range(SEEDS):
        folder = tmp_path / str(seed)
        folder.mkdir()
        play(folder, seed)  # A failure shows the seed among the arguments.
