"""Windows of recordings to calibrate and to measure with, the two sets never the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.errors import ConfigError
from agent.frame import Samples
from agent.models.recording import golden_windows
from agent.models.signal import SignalSpec

SUFFIXES = (".csv", ".wav")

WINDOWS_MAX = 4000
"""In both sets together: two minutes of a network that takes 32 ms, about 32 MB with what comes out."""

WINDOWS_MIN = 2
"""In each set: one window fixes no range and proves nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class Take:
    """One recording, or a part of it: its windows in order, the state starting anew before the first.

    Attributes:
        file: where it is from.
        windows: float32 [context + length, channels] each.
    """

    file: Path
    windows: Sequence[Samples]


@dataclass(frozen=True, slots=True, eq=False)
class Takes:
    """Two sets of recordings without a window in common."""

    calibration: tuple[Take, ...]
    held_out: tuple[Take, ...]


def split_recordings(calibrate: Path, held_out: Path | None, spec: SignalSpec, *, is_dynamic: bool) -> Takes:
    """Choose what calibrates and what judges.

    Of several recordings every second one calibrates; of one, its first half does. Nothing has to be calibrated for
    dynamic quantisation: then everything judges, or `held_out` alone where it is named.

    Raises:
        ConfigError: unreadable, of another rate or other channels, or too few windows.
    """
    if is_dynamic:
        chosen = Takes((), _takes(held_out or calibrate, spec, WINDOWS_MAX))
    elif held_out is not None:
        chosen = Takes(_takes(calibrate, spec, WINDOWS_MAX // 2), _takes(held_out, spec, WINDOWS_MAX // 2))
    else:
        every = _takes(calibrate, spec, WINDOWS_MAX)
        chosen = Takes(every[::2], every[1::2]) if len(every) > 1 else _halves(every[0])
    sets = [(chosen.held_out, held_out or calibrate)] + ([] if is_dynamic else [(chosen.calibration, calibrate)])
    for takes, source in sets:
        found = sum(len(take.windows) for take in takes)
        if found < WINDOWS_MIN:
            raise ConfigError(
                f"{source}: {found} window(s) of {spec.length} samples: calibration and measurement need at least "
                f"{WINDOWS_MIN} each of their own, and 100 are better"
            )
    return chosen


def _halves(take: Take) -> Takes:
    middle = len(take.windows) // 2
    return Takes((Take(take.file, take.windows[:middle]),), (Take(take.file, take.windows[middle:]),))


def _takes(source: Path, spec: SignalSpec, windows_max: int) -> tuple[Take, ...]:
    """Return the recordings of a folder, or the one that is named, as many windows as there is room for."""
    if source.is_dir():
        files = sorted(file for file in source.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
        if not files:
            raise ConfigError(f"{source}: holds no recordings ({', '.join(SUFFIXES)})")
    elif source.is_file():
        files = [source]
    else:
        raise ConfigError(f"{source}: there is no such folder or recording")
    takes: list[Take] = []
    left = windows_max
    for file in files:
        windows = golden_windows(file, spec)[:left]
        left -= len(windows)
        if windows:
            takes.append(Take(file, windows))
    return tuple(takes)
