"""JPEGs on a terminal that can show pictures: kitty's protocol, iTerm2's, or sixel."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

PROTOCOLS = ("auto", "kitty", "iterm2", "sixel")
KITTY_CHUNK = 4096
"""Characters of base64 in one escape sequence, the protocol's limit."""
SIXEL_HEIGHT_MAX = 240
"""Pixels, about the 16 lines of the other two."""
SIXEL_LEVELS = 6
"""Of each of red, green and blue: 216 colours, of the 256 that terminals with sixel have."""
SIXEL_TERMINALS = ("foot", "mlterm", "contour", "xterm-sixel", "yaft")
"""Beginnings of TERM whose terminals show sixel as they come."""
KONSOLE_WITH_SIXEL = 220_400


def terminal_painter(
    environ: Mapping[str, str], terminal: TextIO, protocol: str = "auto"
) -> Callable[[bytes], None] | None:
    """Return what shows a JPEG on this terminal, None where nothing says that it can.

    Args:
        environ: `auto` goes by the variables that terminals set. A plain xterm tells of sixel only in an answer, and
            a program that reads nothing from the terminal does not ask it.
        terminal: never a pipe, whatever the protocol.
        protocol: one of `PROTOCOLS`: kitty's (https://sw.kovidgoyal.net/kitty/graphics-protocol/), iTerm2's inline
            images (https://iterm2.com/documentation-images.html), or sixel (DEC STD 070, chapter 9).
    """
    if not terminal.isatty():
        return None
    paint = _PAINTERS.get(_protocol_of(environ) if protocol == "auto" else protocol)
    return None if paint is None else lambda jpeg: paint(jpeg, terminal)


def _protocol_of(environ: Mapping[str, str]) -> str:
    term, konsole = environ.get("TERM", ""), environ.get("KONSOLE_VERSION", "")
    if "KITTY_WINDOW_ID" in environ or term in ("xterm-kitty", "xterm-ghostty"):
        return "kitty"
    if environ.get("TERM_PROGRAM") in ("iTerm.app", "WezTerm") or environ.get("LC_TERMINAL") == "iTerm2":
        return "iterm2"
    if term.startswith(SIXEL_TERMINALS) or (konsole.isdecimal() and int(konsole) >= KONSOLE_WITH_SIXEL):
        return "sixel"
    return "none"


def _paint_iterm2(jpeg: bytes, terminal: TextIO) -> None:
    content = base64.b64encode(jpeg).decode()
    terminal.write(f"\x1b]1337;File=inline=1;size={len(jpeg)};height=16:{content}\x07\n")
    terminal.flush()


def _paint_kitty(jpeg: bytes, terminal: TextIO) -> None:
    """The protocol takes PNG, no JPEG."""
    import cv2

    pixels = _decode(jpeg)
    if pixels is None:
        return
    content = base64.b64encode(cv2.imencode(".png", pixels)[1].tobytes()).decode()
    chunks = [content[start : start + KITTY_CHUNK] for start in range(0, len(content), KITTY_CHUNK)]
    for index, chunk in enumerate(chunks):
        # Shown at once (a=T), as PNG (f=100), 16 lines high, without an answer (q=2); m tells whether more follows.
        head = "a=T,f=100,r=16,q=2," if index == 0 else ""
        terminal.write(f"\x1b_G{head}m={int(index < len(chunks) - 1)};{chunk}\x1b\\")
    terminal.write("\n")
    terminal.flush()


def _paint_sixel(jpeg: bytes, terminal: TextIO) -> None:
    import cv2
    import numpy as np

    pixels = _decode(jpeg)
    if pixels is None:
        return
    height, width = pixels.shape[:2]
    if height > SIXEL_HEIGHT_MAX:
        size = (max(1, round(width * SIXEL_HEIGHT_MAX / height)), SIXEL_HEIGHT_MAX)
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    terminal.write(sixel(pixels) + "\n")
    terminal.flush()


def _decode(jpeg: bytes) -> npt.NDArray[np.uint8] | None:
    import cv2
    import numpy as np

    pixels = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    return None if pixels is None else pixels.astype(np.uint8, copy=False)


def sixel(pixels: npt.NDArray[np.uint8]) -> str:
    """Return a picture as a sixel sequence, in the nearest of 216 colours.

    A character paints a column of six pixels in one colour, so that a band of six rows is gone over once for
    each colour in it (DEC STD 070, chapter 9).

    Args:
        pixels: uint8 (height, width, 3), BGR.
    """
    import numpy as np

    height, width = pixels.shape[:2]
    steps = SIXEL_LEVELS - 1
    levels = (pixels.astype(np.uint16) * steps + 127) // 255
    colours = levels[..., 2] * SIXEL_LEVELS**2 + levels[..., 1] * SIXEL_LEVELS + levels[..., 0]
    padded = np.full((-(-height // 6) * 6, width), SIXEL_LEVELS**3, np.uint16)  # The rest of the last band has none.
    padded[:height] = colours
    parts = [f'\x1bP0;1q"1;1;{width};{height}']
    for colour in np.unique(colours):
        percents = ((colour // SIXEL_LEVELS**power % SIXEL_LEVELS) * 100 // steps for power in (2, 1, 0))
        parts.append(f"#{colour};2;" + ";".join(map(str, percents)))
    weights = (1 << np.arange(6, dtype=np.uint8))[:, np.newaxis]
    for top in range(0, height, 6):
        band = padded[top : top + 6]
        rows = []
        for colour in np.unique(band[: height - top]):
            columns = ((band == colour) * weights).sum(axis=0, dtype=np.uint8) + 63
            rows.append(f"#{colour}" + _shorten(columns.astype(np.uint8).tobytes().decode("ascii")))
        parts.append("$".join(rows) + "-")
    return "".join(parts) + "\x1b\\"


def _shorten(characters: str) -> str:
    """Write runs of four and more with their length; that of nothing at the end is left out."""
    return re.sub(r"(.)\1{3,}", lambda run: f"!{len(run[0])}{run[1]}", characters.rstrip("?"))


_PAINTERS = {"kitty": _paint_kitty, "iterm2": _paint_iterm2, "sixel": _paint_sixel}
