"""The last seconds for a bug report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from agent.clock import NEVER_NS, NS_PER_S
from agent.core.recording import Recorded, Recording
from agent.frame import Frame
from agent.loops.recorder import CAPTURES_MAX, INTERVAL_NS, RecorderLoop
from tests.fakes import ManualClock


@given(st.lists(st.tuples(st.integers(0, 3 * NS_PER_S), st.integers(0, 60)), max_size=30))
def test_a_recording_stays_within_its_time_and_its_bytes(steps: list[tuple[int, int]]) -> None:
    """And holds the newest without a gap."""
    recording = Recording(5 * NS_PER_S, 100)
    now_ns = 0
    for number, (wait_ns, size) in enumerate(steps):
        now_ns += wait_ns
        recording.add(Recorded("s", number, now_ns, bytes(size), {}), now_ns)
        frames = recording.frames()
        assert recording.bytes_held == sum(len(frame.jpeg) for frame in frames) <= 100
        assert all(now_ns - frame.captured_at_ns <= 5 * NS_PER_S for frame in frames)
        assert [frame.sequence for frame in frames] == list(range(number + 1 - len(frames), number + 1))


class Bench:
    """A recorder that is stepped by hand."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        self.loop = RecorderLoop(2 * NS_PER_S, 1 << 20, folder, self.clock)
        self.told: list[Mapping[str, Any] | OSError] = []

    def show(self, sequence: int, *, size: int = 40) -> None:
        """Offer a frame of now."""
        pixels = np.full((size, size, 3), sequence, np.uint8)
        frame = Frame("door", sequence, self.clock.ns, NEVER_NS, pixels)
        self.loop.show(frame, {"classes": [{"label": f"n{sequence}", "class_id": 1, "score": 0.5}]})
        self.loop.step()

    def capture(self) -> Any:
        """Ask for a capture and return what is told."""
        self.loop.capture(self.told.append)
        self.loop.step()
        self.clock.ns += NS_PER_S // 1000  # A folder is named after its millisecond.
        return self.told.pop()


def test_a_capture_holds_the_last_seconds_and_what_was_found(tmp_path: Path) -> None:
    """A picture a line; what is older is gone, what comes faster than five a second is left out."""
    bench = Bench(tmp_path / "captures")
    for sequence in range(1, 31):
        bench.show(sequence)
        bench.clock.ns += INTERVAL_NS // 2
    told = bench.capture()
    folder = Path(told["folder"])
    lines = [json.loads(line) for line in (folder / "results.ndjson").read_text().splitlines()]
    assert [line["frame"] for line in lines] == [11, 13, 15, 17, 19, 21, 23, 25, 27, 29]
    assert lines[0]["classes"][0]["label"] == "n11"
    assert all((folder / line["picture"]).read_bytes().startswith(b"\xff\xd8") for line in lines)
    assert (told["frames"], told["span_s"]) == (10, 1.8)


def test_captures_are_bounded_on_disk(tmp_path: Path) -> None:
    """The oldest makes room; half of one, after a power cut, is removed."""
    folder = tmp_path / "captures"
    bench = Bench(folder)
    bench.show(1)
    (folder / ".half.part").mkdir(parents=True)
    places = [bench.capture()["folder"] for _ in range(CAPTURES_MAX + 2)]
    assert sorted(str(path) for path in folder.iterdir()) == places[2:]


def test_a_disk_that_refuses_is_told_and_the_recording_goes_on(tmp_path: Path) -> None:
    """A file stands where the folder should be."""
    place = tmp_path / "captures"
    place.write_text("")
    bench = Bench(place)
    bench.show(1)
    assert isinstance(bench.capture(), OSError)
    place.unlink()
    assert bench.capture()["frames"] == 1
