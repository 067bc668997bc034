"""A device that is told settings and killed at any moment starts on what was accepted, and comes to rest."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any

from agent.clock import NS_PER_S
from agent.core.message import Message
from agent.core.probation import Readings, StreamReading
from agent.core.reconcile import STARTS_MAX_PROVEN, STARTS_MAX_UNPROVEN, Record
from agent.desired.audit import Audit
from agent.desired.receiver import SettingsReceiver
from agent.desired.seams import Surroundings
from agent.desired.start import Start, decide
from agent.errors import ConfigError
from agent.interfaces import Received
from agent.layers import Layers, Leaf
from agent.settings import Settings
from tests.fakes import ManualClock

SEEDS = 50
"""Fifty lives take 2 s of CPU; docs/benchmarks.md has the command for thousands."""
PROBATION_S = 5.0
LAYERS = Layers(
    tuple(
        Leaf(path, value, "agent.toml")
        for path, value in {
            ("remote", "probation_s"): PROBATION_S,
            ("models", 0, "name"): "seen",
            ("models", 0, "path"): "m",
            ("streams", 0, "name"): "door",
            ("streams", 0, "source"): "x",
            ("streams", 0, "model"): "seen",
            ("streams", 0, "max_fps"): 1.0,
        }.items()
    )
)
OWN = LAYERS.load()
# What a document does is in its only value.
GOOD, SLOW, CRASHES, CANNOT_START, REFUSED, EXPLODES, INVALID = 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, -1.0
KINDS = (GOOD, GOOD, SLOW, CRASHES, CANNOT_START, REFUSED, EXPLODES, INVALID)


class Killed(BaseException):
    """The power went."""


class World:
    """What outlives a run: the disk, the broker's retained document, and the clock."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.clock = ManualClock()
        self.record = Record()
        self.retained: bytes | None = None
        self.kinds: dict[int, float] = {}
        self.fuse = -1
        self.reports: list[Mapping[str, Any]] = []
        self.place = "the disk"

    def step(self) -> None:
        """Pass one point at which the power may go."""
        self.fuse -= 1
        if self.fuse == 0:
            raise Killed

    def load(self) -> Record:
        """See `Store.load`."""
        return self.record

    def save(self, record: Record) -> None:
        """See `Store.save`: all of it, or nothing."""
        self.step()
        self.record = record
        self.step()


class NoAudit(Audit):
    """Writes nothing."""

    def __init__(self, world: World) -> None:
        self._world = world

    def add(self, action: str, body: Mapping[str, Any]) -> None:
        """See `Audit.add`."""
        self._world.step()


class Run:
    """One run of the agent, as `cli.run` builds it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._counts = StreamReading()
        self._seconds = 0
        start = decide(LAYERS, OWN, world, NoAudit(world))
        while fps(start.loaded.settings) == CANNOT_START:
            world.step()
            start = start.without_current(["no such source"])
        self.start: Start = start
        self.in_force = start.loaded.settings
        around = Surroundings(self._emit, lambda event, body: world.step(), self._read, self._restart, world.clock)
        self.receiver = SettingsReceiver(
            LAYERS, start.record, start.loaded, store=world, audit=NoAudit(world), applier=self, around=around
        )

    def apply(self, settings: Settings) -> None:
        """See `Applier.apply`."""
        self._world.step()
        kind = fps(settings)
        if kind == EXPLODES:
            raise RuntimeError("half of it is done")
        if kind in (REFUSED, CANNOT_START):
            raise ConfigError("no such source")
        self.in_force, self._seconds = settings, 0
        self._world.step()

    def connect(self) -> None:
        """Let the broker deliver what it keeps."""
        self.receiver.connected()
        if self._world.retained is not None:
            self.receiver.receive(Received("settings/desired", self._world.retained, retain=True))

    def second(self) -> None:
        """Let a second pass; settings that crash the agent do it in the third of theirs."""
        world = self._world
        world.clock.ns += NS_PER_S
        missed = 10 if fps(self.in_force) == SLOW else 0
        self._counts = StreamReading(
            self._counts.captured + 10, self._counts.in_time + 10 - missed, self._counts.not_in_time + missed
        )
        self.receiver.turn(world.clock.now_ns())
        self._seconds += 1
        if fps(self.in_force) == CRASHES and self._seconds > 2:
            raise Killed

    def _read(self) -> Readings:
        return Readings({"door": self._counts})

    def _emit(self, message: Message) -> None:
        self._world.step()
        self._world.reports.append(message.body)

    def _restart(self, reason: str) -> None:
        raise Killed


def fps(settings: Settings) -> float:
    """Return the value that tells what settings do."""
    return settings.streams[0].max_fps or 0.0


def survive(world: World) -> Run:
    """Start again and again until a run lives for the time of a probation; return it."""
    for _ in range(2 * (STARTS_MAX_PROVEN + STARTS_MAX_UNPROVEN)):
        world.fuse = -1
        try:
            run = Run(world)
            check_start(world, run)
            run.connect()
            for _ in range(int(PROBATION_S) + 3):
                run.second()
        except Killed:
            continue
        return run
    raise AssertionError("the device restarts for ever")


def check_start(world: World, run: Run) -> None:
    """What a run starts on was accepted, and not given up since."""
    current = run.start.record.current
    value = fps(run.start.loaded.settings)
    if current is None:
        assert value == fps(OWN.settings)
        return
    assert value == world.kinds[current.version], "a document and its values belong together"
    assert value not in (INVALID, CANNOT_START)
    given_up = run.start.record.given_up
    assert given_up is None or given_up.version != current.version


def play(seed: int) -> None:
    """Play one life with a kill at a random point of most of its events."""
    world = World(seed)
    run = survive(world)
    for version in range(1, world.random.randint(4, 9)):
        kind = world.random.choice(KINDS)
        world.kinds[version] = kind
        world.retained = json.dumps(
            {"schema": 1, "version": version, "values": {"streams": {"door": {"max_fps": kind}}}}
        ).encode()
        world.fuse = world.random.randint(1, 40)
        try:
            run.receiver.receive(Received("settings/desired", world.retained))
            for _ in range(world.random.randint(0, int(PROBATION_S) + 3)):
                run.second()
        except Killed:
            pass
        run = survive(world)
        # Whatever happened: the device is on something that works and is proven. What fails only while it is applied
        # in place works after a start.
        assert fps(run.in_force) in (GOOD, REFUSED, EXPLODES, fps(OWN.settings))
        assert fps(run.in_force) == fps(run.receiver.settings)
        assert world.record.is_proven
        if kind == GOOD:
            assert world.record.current is not None, "what is good is in force in the end"
            assert world.record.current.version == version
            assert world.reports[-1]["state"] == "applied"
            assert world.reports[-1]["proven"]
        elif kind in (SLOW, CRASHES):
            assert world.record.given_up is not None
            assert world.record.given_up.version == version


def test_a_device_that_is_killed_at_any_moment_comes_to_rest_on_good_settings() -> None:
    """Lives of 3 to 8 documents; most events are cut off at one of their first 40 steps."""
    for seed in range(SEEDS):
        play(seed)  # A failure shows the seed among the arguments.
