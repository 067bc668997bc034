"""Pictures for those who watch."""

from __future__ import annotations

from collections.abc import Collection

import cv2
import numpy as np
import pytest

from agent.clock import NEVER_NS, NS_PER_S
from agent.core.message import Message
from agent.frame import Frame, Pixels
from agent.loops.images import SNAPSHOTS_MAX, ImageLoop, ImagePolicy, encode_within
from agent.result import Payload
from tests.fakes import ManualClock


def found(*labels: str) -> Payload:
    """Build a payload."""
    return {
        "detections": [
            {"label": label, "class_id": 1, "score": 0.9, "box": [5.0, 5.0, 50.0, 40.0]} for label in labels
        ]
    }


def noise(height: int, width: int) -> Pixels:
    """Build what JPEG cannot make small."""
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)


class Bench:
    """A loop in virtual time."""

    def __init__(self, leftovers: Collection[str] = (), *, on_find: bool = False, bytes_max: int = 32_000) -> None:
        self.clock = ManualClock()
        self.sent: list[Message] = []
        policy = ImagePolicy(NS_PER_S, bytes_max, on_find)
        self.loop = ImageLoop(leftovers, policy, self.sent.append, self.clock)
        self.sequence = 0

    def show(self, payload: Payload | None = None, pixels: Pixels | None = None) -> None:
        """Offer one frame of the door."""
        self.sequence += 1
        shown = np.full((60, 80, 3), 90, np.uint8) if pixels is None else pixels
        self.loop.show(Frame("door", self.sequence, 0, NEVER_NS, shown), found("cat") if payload is None else payload)

    def step(self) -> list[bytes]:
        """Let the loop look around once and return the pictures that it sent."""
        before = len(self.sent)
        self.next_ns = self.loop.step(self.clock.now_ns())
        return [message.payload or b"" for message in self.sent[before:]]


def test_a_watched_stream_is_shown_at_its_rate_until_the_lease_ends() -> None:
    """The newest frame of each interval; then an empty payload, which takes the retained picture away."""
    bench = Bench()
    bench.show()
    assert bench.step() == []
    assert bench.loop.watch("door", "desk", 3 * NS_PER_S)
    bench.show()
    (jpeg,) = bench.step()
    assert cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) is not None
    message = bench.sent[0]
    assert (message.kind, message.topic, message.qos, message.retain) == ("image", "image/door", 0, True)
    assert message.content_type == "image/jpeg"
    bench.show()
    assert bench.step() == []
    assert bench.next_ns == bench.clock.ns + NS_PER_S
    bench.clock.ns += NS_PER_S
    assert len(bench.step()) == 1
    bench.clock.ns += 2 * NS_PER_S
    bench.show()
    assert bench.step() == [b""]
    assert bench.loop.snapshot()["watched"] == []
    bench.show()
    assert bench.step() == []


def test_a_lease_that_is_given_back_or_an_end_takes_the_picture_away() -> None:
    """Nothing stays at the broker after us."""
    bench = Bench()
    bench.loop.watch("door", "desk", 60 * NS_PER_S)
    bench.show()
    assert len(bench.step()) == 1
    bench.loop.watch("door", "desk", 0)
    assert bench.step() == [b""]
    bench.loop.watch("door", "desk", 60 * NS_PER_S)
    bench.clock.ns += NS_PER_S
    bench.show()
    assert len(bench.step()) == 1
    bench.loop.stop()
    bench.loop.run()
    assert bench.sent[-1].payload == b""
    assert bench.loop.snapshot()["removed"] == 2


def test_a_snapshot_is_the_next_frame_and_leaves_nothing_behind() -> None:
    """Plain or annotated, within its own bound; nothing goes to `image/`."""
    bench = Bench()
    told: list[bytes | None] = []
    for is_annotated in (True, False):
        assert bench.loop.take_snapshot(
            "door",
            is_annotated=is_annotated,
            bytes_max=9_000,
            wait_ns=NS_PER_S,
            tell=lambda _, jpeg: told.append(jpeg),
        )
    bench.step()
    assert told == []
    bench.show()
    assert bench.step() == []
    annotated, plain = (cv2.imdecode(np.frombuffer(jpeg or b"", np.uint8), cv2.IMREAD_COLOR) for jpeg in told)
    assert annotated is not None
    assert plain is not None
    assert annotated.max() > 150 > plain.max()
    bench.show()
    assert bench.step() == []
    assert bench.next_ns == NEVER_NS


def test_snapshots_that_wait_are_bounded_and_forgotten() -> None:
    """A stream without frames must not gather them."""
    bench = Bench()

    def take() -> bool:
        return bench.loop.take_snapshot(
            "door", is_annotated=True, bytes_max=9_000, wait_ns=NS_PER_S, tell=lambda *_: pytest.fail("told")
        )

    assert all(take() for _ in range(SNAPSHOTS_MAX))
    assert not take()
    bench.clock.ns += NS_PER_S
    bench.step()
    bench.show()
    bench.step()
    assert take()


def test_on_find_sends_what_is_new_and_lets_it_stay() -> None:
    """The cat that stays is not sent again; the dog beside it is."""
    bench = Bench(on_find=True)
    for labels, pictures in ((("cat",), 1), (("cat",), 0), (("cat", "dog"), 1), ((), 0), (("dog",), 1)):
        bench.clock.ns += NS_PER_S
        bench.show(found(*labels))
        assert len(bench.step()) == pictures, labels
    assert all(message.expiry_s is None for message in bench.sent)
    bench.loop.stop()
    bench.loop.run()
    assert bench.sent[-1].payload


def test_what_a_killed_run_left_is_taken_away_at_the_first_connection() -> None:
    """Unless somebody watches it again by then."""
    bench = Bench({"door", "yard"})
    bench.loop.watch("door", "desk", NS_PER_S)
    assert bench.step() == []
    bench.loop.connected()
    bench.step()
    bench.loop.connected()
    bench.step()
    assert [(message.topic, message.payload) for message in bench.sent] == [("image/yard", b"")]


@pytest.mark.parametrize(("size", "bytes_max"), [((2160, 3840), 262_144), ((720, 1280), 60_000), ((480, 640), 8_192)])
def test_quality_and_size_fall_until_a_picture_fits(size: tuple[int, int], bytes_max: int) -> None:
    """Noise is the worst that a camera can send."""
    jpeg = encode_within(noise(*size), bytes_max)
    assert jpeg is not None
    assert len(jpeg) <= bytes_max
    shown = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert shown is not None
    assert shown.shape[1] / shown.shape[0] == pytest.approx(size[1] / size[0], rel=0.02)


def test_what_cannot_fit_is_dropped_and_counted() -> None:
    """A bound below any picture."""
    bench = Bench(bytes_max=200)
    bench.loop.watch("door", "desk", NS_PER_S)
    bench.show(pixels=noise(480, 640))
    assert bench.step() == []
    assert bench.loop.snapshot()["oversize"] == 1
    assert encode_within(np.zeros((40, 60), np.uint8), 10_000) is not None
