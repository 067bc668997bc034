"""Pictures that a viewer asks for, keeps and shows."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from agent.cli.pictures import LEASE_S, PICTURE_BYTES_MAX, RENEW_NS, STREAMS_MAX, Pictures, terminal_painter
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


class Terminal(io.StringIO):
    """A terminal that keeps what it is told."""

    def __init__(self, *, is_terminal: bool = True) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


def test_a_terminal_that_says_nothing_is_sent_nothing() -> None:
    """Nor is a pipe, whatever the variables say."""
    assert terminal_painter({"TERM": "xterm-256color"}, Terminal()) is None
    assert terminal_painter({"TERM": "xterm-kitty"}, Terminal(is_terminal=False)) is None


@pytest.mark.parametrize(
    "environ", [{"TERM_PROGRAM": "iTerm.app"}, {"TERM_PROGRAM": "WezTerm"}, {"LC_TERMINAL": "iTerm2"}]
)
def test_iterm2_gets_the_jpeg_itself(environ: dict[str, str]) -> None:
    """In one escape sequence."""
    terminal = Terminal()
    paint = terminal_painter(environ, terminal)
    assert paint is not None
    paint(JPEG)
    found = re.fullmatch(r"\x1b\]1337;File=inline=1;size=(\d+);height=16:(.*)\x07\n", terminal.getvalue())
    assert found is not None
    assert int(found[1]) == len(JPEG)
    assert base64.b64decode(found[2]) == JPEG


@pytest.mark.parametrize("environ", [{"KITTY_WINDOW_ID": "1"}, {"TERM": "xterm-ghostty"}])
def test_kitty_gets_a_png_in_chunks(environ: dict[str, str]) -> None:
    """Each below its limit, the last one marked; what is no picture is left out."""
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    terminal = Terminal()
    paint = terminal_painter(environ, terminal)
    assert paint is not None
    paint(b"\xff\xd8\xff no picture")
    assert terminal.getvalue() == ""
    paint(cv2.imencode(".jpg", noise)[1].tobytes())
    chunks = re.findall(r"\x1b_G(.*?);(.*?)\x1b\\", terminal.getvalue())
    assert len(chunks) > 1
    assert chunks[0][0] == "a=T,f=100,r=16,q=2,m=1"
    assert [keys for keys, _ in chunks[1:]] == ["m=1"] * (len(chunks) - 2) + ["m=0"]
    assert all(len(content) <= 4096 for _, content in chunks)
    png = base64.b64decode("".join(content for _, content in chunks))
    assert cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR).shape == (64, 64, 3)  # type: ignore[union-attr]
