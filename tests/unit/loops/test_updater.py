"""The updater: from a manifest to its commit or back, with power cuts wherever there may be one."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.clock import NS_PER_S
from agent.core.message import Message
from agent.core.probation import Bounds, Readings, StreamReading
from agent.core.release import Release, ReleaseFile, ReleaseRefusedError
from agent.core.shelf import STARTS_MAX_COMMITTED, Shelf, given_up
from agent.errors import ConfigError, TransientError
from agent.loops.update_seams import Offer, Surroundings
from agent.loops.updater import UpdateLoop
from agent.updates.store import ReleaseStore
from tests.fakes import ManualClock

BASE = "/models/coco"
IDLE_BEFORE = 4
"""Seconds before the first offer: enough to know how the streams did before it."""


class PowerCutError(BaseException):
    """Nobody catches it: the process is gone."""


def content(seq: int, path: str) -> bytes:
    """Return what is in a file of a release; labels are the same in each."""
    return b"labels" if path == "labels.txt" else f"{path} of {seq}".encode()


def offer(seq: int) -> Offer:
    """Return a release of two files."""
    files = tuple(
        ReleaseFile(path, f"https://models.test/{seq}/{path}", len(content(seq, path)), _sha(content(seq, path)))
        for path in ("model.toml", "labels.txt")
    )
    return Offer(Release("coco", seq, f"{seq}.0", files), _sha(str(seq).encode()))


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Device:
    """A device in the small: disk and broker stay, the process may end at any call.

    Attributes:
        serving: the folder that serves; empty for the one that the settings name.
        faults: by the name of a call, what it raises.
    """

    def __init__(self, folder: Path) -> None:
        self.store = ReleaseStore(folder)
        self.clock = ManualClock()
        self.states: list[Mapping[str, Any]] = []
        self.events: list[str] = []
        self.fetched: list[str] = []
        self.served: list[str] = []
        self.faults: dict[str, Exception] = {}
        self.readings: Callable[[], Readings] = self._all_in_time
        self.cut_after: int | None = None
        self.gives_up_at = ""
        self.start()

    def start(self) -> None:
        """Begin a run as the composition root does: count the start, then serve."""
        self.states.clear()
        kept = self.store.load()
        shelves = {name: shelf.start() for name, shelf in kept.items()}
        self.store.save(shelves)
        self.serving = shelves["coco"].serving if "coco" in shelves else ""
        self.loop = UpdateLoop(
            shelves,
            {"coco": BASE},
            store=self.store,
            around=Surroundings(
                fetch=self._fetch,
                qualify=lambda name, path: self._tried("qualify"),
                canary=lambda name, path: self._tried("canary"),
                serve=self._serve,
                read=self._read,
                emit=self._emit,
                report=lambda event, body: self.events.append(event),
                clock=self.clock,
            ),
            bounds=Bounds(10 * NS_PER_S, 0.1),
            give_up_ns=3600 * NS_PER_S,
            given_up=given_up(kept, shelves, "crash_loop", "no run lives on it"),
        )

    def run(self, *offers: Offer) -> None:
        """Let the loop go until it has nothing to do."""
        waiting = list(offers)
        idle = 0

        def wait(event: object, timeout_ns: int) -> bool:
            nonlocal idle
            self._step("wait")
            self.clock.ns += max(0, timeout_ns)
            is_watching = bool(self.states) and self.states[-1]["phase"] == "probation"
            if self.loop._current is None and not is_watching:
                idle += 1
                if waiting and idle > IDLE_BEFORE:
                    self.loop.offer(waiting.pop(0))
                elif idle > IDLE_BEFORE + 2 + len(offers):
                    self.loop.stop()
            return False

        self.clock.wait = wait  # type: ignore[method-assign]
        self.loop.run()

    def give_up(self) -> int:
        """Ask for the way back and return the `seq` that it is meant to leave."""
        way = self.loop.way_back("coco", "ada")
        assert way is not None
        self.loop.give_up(way)
        return way.seq

    @property
    def last(self) -> tuple[str, str]:
        """The phase and code that the operator sees."""
        state = self.states[-1]
        return state["phase"], state.get("code", "")

    def _step(self, name: str) -> None:
        if self.cut_after is not None:
            self.cut_after -= 1
            if self.cut_after < 0:
                raise PowerCutError
        if name == self.gives_up_at:
            self.gives_up_at = ""
            self.give_up()
        if name in self.faults:
            raise self.faults[name]

    def _tried(self, name: str) -> dict[str, Any]:
        self._step(name)
        return {name: 1}

    def _read(self) -> Readings:
        return self.readings()

    def _all_in_time(self) -> Readings:
        frames = self.clock.ns // 10**8
        return Readings({"door": StreamReading(frames, frames, 0)})

    def _fetch(self, file: ReleaseFile, partial: Path, on_progress: Callable[[int], bool]) -> None:
        self._step("fetch")
        self.fetched.append(file.path)
        data = content(int(file.url.split("/")[3]), file.path)
        half = len(data) // 2
        if not partial.exists():
            partial.write_bytes(data[:half])
            self._step("half")
        if not on_progress(half):
            raise TransientError("stopped")
        partial.write_bytes(data)

    def _serve(self, shelves: Mapping[str, Shelf]) -> None:
        self._step("serve")
        self.serving = shelves["coco"].serving
        self.served.append(self.serving)

    def _emit(self, message: Message) -> None:
        self._step("emit")
        assert message.topic == "model/state"
        self.states.append(message.body)


def test_a_good_release_is_committed(tmp_path: Path) -> None:
    """Through every phase; the state is kept, and the next one leaves two on the shelf."""
    device = Device(tmp_path)
    device.run(offer(1))
    phases = list(dict.fromkeys(state["phase"] for state in device.states))
    assert phases == ["downloading", "verifying", "qualifying", "canary", "probation", "committed"]
    folder = device.store.folder(device.serving)
    assert (folder / "model.toml").read_bytes() == b"model.toml of 1"
    for seq in (2, 3):
        device.start()
        device.run(offer(seq))
    shelf = device.store.load()["coco"]
    assert (device.store.folder(shelf.serving) / "model.toml").read_bytes() == b"model.toml of 3"
    assert shelf.seq_max == 3
    assert sorted(path.name[:6] for path in (tmp_path / "updates/releases").iterdir()) == ["coco-2", "coco-3"]
    # The labels of all three are one content, fetched once.
    assert device.fetched.count("labels.txt") == 1
    assert len(list((tmp_path / "updates/contents").iterdir())) == 3


@pytest.mark.parametrize(
    ("call", "fault", "last"),
    [
        ("fetch", ReleaseRefusedError("download", "HTTP 403"), ("rejected", "download")),
        ("fetch", TransientError("gone"), ("rejected", "download")),
        ("fetch", OSError(28, "No space left on device"), ("rejected", "disk")),
        ("qualify", ReleaseRefusedError("crashes", "signal SIGSEGV"), ("rejected", "crashes")),
        ("canary", ReleaseRefusedError("canary", "fails"), ("rejected", "canary")),
        ("serve", ConfigError("refused"), ("rolled_back", "cannot_serve")),
    ],
)
def test_what_fails_never_serves(tmp_path: Path, call: str, fault: Exception, last: tuple[str, str]) -> None:
    """And is not tried again when the retained manifest comes once more."""
    device = Device(tmp_path)
    device.run(offer(1))
    good = device.serving
    device.start()
    device.faults[call] = fault
    device.run(offer(2))
    assert device.last == last
    assert device.serving == good
    device.faults.clear()
    fetched = len(device.fetched)
    device.start()
    device.run(offer(2))
    assert device.last == last
    assert len(device.fetched) == fetched
    device.start()
    device.run(offer(3))
    assert device.last == ("committed", "")


def test_a_corrupt_byte_is_found(tmp_path: Path) -> None:
    """The content is thrown away, the model in service stays."""
    device = Device(tmp_path)
    wrong = offer(1)
    release = wrong.release
    files = (release.files[0], ReleaseFile("labels.txt", release.files[1].url, 6, _sha(b"other!")))
    device.run(Offer(Release("coco", 1, "", files), wrong.digest))
    assert device.last == ("rejected", "corrupt")
    assert list((tmp_path / "updates/contents").iterdir()) == []


def test_a_release_that_makes_frames_late_goes_back(tmp_path: Path) -> None:
    """With the check that failed and its figures."""
    device = Device(tmp_path)
    device.run(offer(1))
    good = device.serving
    device.start()

    seen = {"in time": 0, "late": 0}

    def one_second() -> Readings:
        seen["in time" if device.serving == good else "late"] += 10
        return Readings({"door": StreamReading(sum(seen.values()), seen["in time"], seen["late"])})

    device.readings = one_second
    device.run(offer(2))
    assert device.last == ("rolled_back", "on_time")
    assert "before 1.0" in device.states[-1]["reason"]
    assert device.serving == good
    assert device.events[-1] == "model_rolled_back"


@pytest.mark.parametrize(
    ("call", "phase"),
    [
        ("fetch", "rejected"),
        ("half", "rejected"),
        ("qualify", "rejected"),
        ("canary", "rejected"),
        ("serve", "rolled_back"),
    ],
)
def test_a_release_that_is_being_brought_in_is_given_up_on_demand(tmp_path: Path, call: str, phase: str) -> None:
    """Wherever it stands; what served before serves, and the retained manifest does not bring it again."""
    device = Device(tmp_path)
    device.run(offer(1))
    good = device.serving
    device.start()
    device.gives_up_at = call
    device.run(offer(2))
    assert device.last == (phase, "operator")
    assert device.states[-1]["reason"] in ("ada asked for it", "asked_by ada")
    assert device.serving == good
    device.start()
    device.run(offer(2))
    assert device.last == (phase, "operator")
    assert device.serving == good


def test_a_committed_release_is_given_up_on_demand_one_step_at_a_time(tmp_path: Path) -> None:
    """Back to the one before, then to the settings' own; then there is nothing to give up."""
    device = Device(tmp_path)
    device.run(offer(1))
    first = device.serving
    device.start()
    device.run(offer(2))
    device.start()
    assert device.give_up() == 2
    device.run()
    assert device.serving == first
    assert device.last == ("rolled_back", "operator")
    device.start()
    device.run(offer(2))
    assert (device.serving, device.last) == (first, ("rolled_back", "operator"))
    device.start()
    assert device.give_up() == 1
    device.run()
    assert device.serving == ""
    assert device.loop.way_back("coco", "ada") is None
    assert list((tmp_path / "updates/releases").iterdir()) == []


def test_a_wish_that_came_too_late_gives_nothing_up(tmp_path: Path) -> None:
    """It names its release: what was committed meanwhile stays."""
    device = Device(tmp_path)
    device.run(offer(1))
    device.start()
    way = device.loop.way_back("coco", "ada")
    assert way is not None
    device.run(offer(2))
    good = device.serving
    device.start()
    device.loop.give_up(way)
    device.run()
    assert device.serving == good


def test_a_newer_release_takes_the_place_of_one_that_is_fetched(tmp_path: Path) -> None:
    """The older one is left where it is, and never mentioned as failed."""
    device = Device(tmp_path)
    device.faults["fetch"] = TransientError("away")
    waits = 0

    def wait(event: object, timeout_ns: int) -> bool:
        nonlocal waits
        waits += 1
        device.clock.ns += max(0, timeout_ns)
        if waits == 1:
            device.loop.offer(offer(1))
        elif waits == 4:
            device.faults.clear()
            device.loop.offer(offer(2))
        elif waits > 30 and device.loop._current is None:
            device.loop.stop()
        return False

    device.clock.wait = wait  # type: ignore[method-assign]
    device.loop.run()
    assert device.last == ("committed", "")
    assert device.states[-1]["seq"] == 2
    assert {state["phase"] for state in device.states if state["seq"] == 1} == {"downloading"}


def test_a_release_that_the_agent_does_not_survive(tmp_path: Path) -> None:
    """Two starts may be power cuts; the third finds the release before in service, and says so."""
    device = Device(tmp_path)
    device.run(offer(1))
    good = device.serving
    shelf = device.store.load()["coco"].begin("coco-2-x", 2, "d2")
    device.store.folder("coco-2-x").mkdir()
    device.store.save({"coco": shelf})
    for _ in range(2):
        device.start()
        assert device.serving == "coco-2-x"
    device.start()
    assert device.serving == good
    device.run()
    assert device.last == ("rolled_back", "crash_loop")
    assert device.events[-1] == "model_rolled_back"


def test_a_committed_release_that_the_agent_does_not_survive_any_more(tmp_path: Path) -> None:
    """What it sees now it did not see in its trial: at last the one before serves, and that is told once."""
    device = Device(tmp_path)
    device.run(offer(1))
    first = device.serving
    device.start()
    device.run(offer(2))
    device.store.save({name: shelf.survived() for name, shelf in device.store.load().items()})
    for _ in range(STARTS_MAX_COMMITTED):
        device.start()
        assert device.serving != first
    device.start()
    assert device.serving == first
    device.run()
    assert device.last == ("rolled_back", "crash_loop")
    assert device.events.count("model_rolled_back") == 1
    device.start()
    device.run(offer(2))
    assert (device.serving, device.last) == (first, ("rolled_back", "crash_loop"))
    assert device.events.count("model_rolled_back") == 1


def test_a_run_that_lives_or_is_ended_on_purpose_counts_for_what_is_committed(tmp_path: Path) -> None:
    """After the time of a probation, and at a stop in order."""
    device = Device(tmp_path)
    device.run(offer(1))
    device.start()
    assert device.store.load()["coco"].starts == 1
    device.run()
    assert device.store.load()["coco"].starts == 1
    device.clock.ns += 11 * NS_PER_S
    device.loop._is_stopping = False
    device.run()
    assert device.store.load()["coco"].starts == 0
    device.start()
    device.loop.stop(on_purpose=True)
    device.loop.run()
    assert device.store.load()["coco"].starts == 0


@pytest.mark.parametrize("seed", range(10))
def test_power_may_fail_at_any_step(tmp_path: Path, seed: int) -> None:
    """What serves after it is the settings' own model, or a release whose files are whole and verified."""
    rng = random.Random(seed)
    device = Device(tmp_path)
    seq, is_bad = 1, False
    for _ in range(25):
        device.cut_after = rng.choice([None, rng.randrange(60)])
        device.faults = {"qualify": ReleaseRefusedError("crashes", "")} if is_bad else {}
        try:
            device.start()
            device.run(offer(seq))
            assert device.last[0] in ("committed", "rejected", "rolled_back")
            seq, is_bad = seq + 1, rng.random() < 0.3
        except PowerCutError:
            pass
        shelves = ReleaseStore(tmp_path).load()
        shelf = shelves.get("coco") or Shelf(BASE)
        for folder in shelf.kept:
            own = int(folder.split("-")[1])
            for path in ("model.toml", "labels.txt"):
                assert (device.store.folder(folder) / path).read_bytes() == content(own, path)
    device.cut_after = None
    device.faults = {}
    device.start()
    device.run(offer(100))
    assert device.last == ("committed", "")
