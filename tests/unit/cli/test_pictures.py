"""Pictures that a viewer asks for, keeps and shows."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from agent.cli.pictures import LEASE_S, PICTURE_BYTES_MAX, RENEW_NS, STREAMS_MAX, Pictures
from agent.errors import ConfigError
from tests.fakes import ManualClock

PREFIX = "edgebeat/v1"
JPEG = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()


class Bench:
    """Pictures that are kept in a folder."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        self.shown: list[bytes] = []
        self.pictures = Pictures(PREFIX, folder=folder, show=self.shown.append, clock=self.clock)

    def hear(self, topic: str, payload: bytes = b"{}") -> None:
        """Take in a message below the prefix."""
        self.pictures.message(f"{PREFIX}/{topic}", payload)

    def asked(self) -> list[tuple[str, int]]:
        """Return the leases that were asked for since the last call."""
        found = [(topic, json.loads(payload)["duration_s"]) for topic, payload in self.pictures.requests]
        self.pictures.requests.clear()
        return found


def test_a_stream_that_is_seen_is_watched_and_the_lease_renewed_and_given_back(tmp_path: Path) -> None:
    """Each request has an id of its own and the same address, so that it renews one lease."""
    bench = Bench(tmp_path)
    bench.hear("porch/results/door")
    bench.hear("porch/results/door")
    requests = [json.loads(payload) for _, payload in bench.pictures.requests]
    assert bench.asked() == [("porch/commands/watch", LEASE_S)]
    bench.pictures.refresh()
    assert bench.asked() == []
    bench.clock.ns += RENEW_NS
    bench.pictures.refresh()
    requests += [json.loads(payload) for _, payload in bench.pictures.requests]
    assert len(bench.asked()) == 1
    assert requests[0]["reply"] == requests[1]["reply"]
    assert requests[0]["id"] != requests[1]["id"]
    bench.pictures.close()
    assert bench.asked() == [("porch/commands/watch", 0)]


def test_the_newest_picture_is_kept_and_shown(tmp_path: Path) -> None:
    """One file a stream, with a name that no topic can lead astray; the empty payload changes nothing."""
    bench = Bench(tmp_path)
    bench.hear("../results/..")
    for payload in (JPEG, JPEG + b"2", b""):
        bench.hear("../image/..", payload)
    (file,) = tmp_path.iterdir()
    assert (file.name, file.read_bytes()) == ("__-__.jpg", JPEG + b"2")
    assert bench.shown == [JPEG, JPEG + b"2"]
    assert bench.pictures.received == 2


def test_what_was_not_asked_for_or_is_no_picture_is_not_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Anybody may send anything; it is said once."""
    bench = Bench(tmp_path)
    bench.hear("porch/image/door", JPEG)
    bench.hear("porch/results/door")
    for payload in (b"GIF89a", JPEG + b"x" * PICTURE_BYTES_MAX, b"\xff\xd8"):
        bench.hear("porch/image/door", payload)
    for topic in ("porch/image", "porch/image/a/b", "porch"):
        bench.hear(topic, JPEG)
    bench.pictures.message("elsewhere/porch/image/door", JPEG)
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err.count("is no JPEG") == 1


def test_streams_are_bounded_and_a_refusal_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first that are seen; what the device answers to somebody else is none of ours."""
    bench = Bench(tmp_path)
    for number in range(STREAMS_MAX + 5):
        bench.hear(f"porch/results/s{number}")
    client = json.loads(bench.pictures.requests[0][1])["reply"]
    assert len(bench.asked()) == STREAMS_MAX
    for name in (client, "other"):
        for payload in (b'{"state":"error","message":"too many\\u0007"}', b"[]", b"\xff"):
            bench.hear(f"porch/responses/{name}", payload)
    assert capsys.readouterr().err == "edgebeat: porch sends no pictures: too many?\n"


def test_a_folder_that_cannot_be_written_ends_the_command(tmp_path: Path) -> None:
    """With the option and the reason."""
    bench = Bench(tmp_path / "gone")
    bench.hear("porch/results/door")
    with pytest.raises(ConfigError, match=r"--images .*: No such file or directory"):
        bench.hear("porch/image/door", JPEG)
