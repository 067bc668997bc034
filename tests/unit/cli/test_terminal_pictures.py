"""Pictures on a terminal, read back the way that a terminal would."""

from __future__ import annotations

import base64
import io
import re

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from agent.cli.terminal_pictures import SIXEL_HEIGHT_MAX, sixel, terminal_painter

JPEG = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()


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


def read_sixel(text: str) -> npt.NDArray[np.int64]:
    """Return what a terminal would show, percents of red, green and blue; -1 where nothing was painted."""
    found = re.fullmatch(r'\x1bP0;1q"1;1;(\d+);(\d+)(.*)\x1b\\', text, re.DOTALL)
    assert found is not None
    width, height = int(found[1]), int(found[2])
    shown = np.full((height + 6, width, 3), -1)
    palette: dict[int, list[int]] = {}
    colour, x, top = -1, 0, 0
    for token in re.finditer(r"#(\d+)(?:;2;(\d+);(\d+);(\d+))?|!(\d+)(.)|([$-])|([?-~])", found[3]):
        number, red, green, blue, times, repeated, move, single = token.groups()
        if number is not None:
            colour = int(number)
            if red is not None:
                palette[colour] = [int(red), int(green), int(blue)]
        elif move is not None:
            x, top = 0, top + 6 * (move == "-")
        else:
            end, bits = x + int(times or 1), ord(repeated or single) - 63
            for row in range(6):
                if bits >> row & 1:
                    shown[top + row, x:end] = palette[colour]
            x = end
    assert (shown[height:] == -1).all()
    return shown[:height]


@pytest.mark.parametrize("size", [(1, 1), (6, 5), (13, 40)])
def test_a_sixel_shows_each_pixel_in_the_nearest_colour(size: tuple[int, int]) -> None:
    """Heights that are no multiple of six; runs of one colour and noise."""
    pixels = np.random.default_rng(size[0]).integers(0, 256, (*size, 3), np.uint8)
    pixels[:, : size[1] // 2] = (0, 128, 255)
    shown = read_sixel(sixel(pixels))
    wanted = pixels[..., ::-1] / 2.55
    assert np.abs(shown - wanted).max() <= 10.5  # Half a step of a sixth, and what is lost to whole percents.


@pytest.mark.parametrize(
    ("environ", "protocol"),
    [
        ({"TERM": "foot"}, "auto"),
        ({"TERM": "mlterm-256color"}, "auto"),
        ({"KONSOLE_VERSION": "230802"}, "auto"),
        ({"TERM": "xterm"}, "sixel"),
    ],
)
def test_a_terminal_with_sixel_gets_one_of_a_bounded_height(environ: dict[str, str], protocol: str) -> None:
    """What is no picture is left out."""
    terminal = Terminal()
    paint = terminal_painter(environ, terminal, protocol)
    assert paint is not None
    paint(b"\xff\xd8\xff no picture")
    assert terminal.getvalue() == ""
    paint(cv2.imencode(".jpg", np.full((720, 1280, 3), 255, np.uint8))[1].tobytes())
    shown = read_sixel(terminal.getvalue().rstrip("\n"))
    assert shown.shape == (SIXEL_HEIGHT_MAX, 427, 3)
    assert (shown == 100).all()
