"""Writes the folder of a quantised model, complete and proven, or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

from agent.errors import ConfigError
from agent.frame import Pixels
from agent.models.golden import differences
from agent.models.manifest import MANIFEST_NAME, GoldenSpec, Manifest, ModelFile
from agent.modeltools.draft import manifest_text
from agent.result import Payload

LICENSES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE")

TOLERANCE_LEVELS = (1.0, 2.0, 4.0)
"""Factors on the smallest tolerance of a golden sample: 0.05 of a score, 0.02 of the picture's longer side, 0.02 of
the largest number."""

MARGIN = 0.5
"""Share of the tolerance that int8 may use up here; the rest is for other CPUs."""

SCORE_STEADY = 0.6
"""Scores from here on do not come and go with rounding, at the usual threshold of 0.5."""


@dataclass(frozen=True, slots=True)
class Golden:
    """A golden sample that was chosen: which held-out picture, and how far numbers may be off."""

    index: int
    expected: Payload
    tolerance: dict[str, float]


def choose_golden(
    expected: Sequence[Payload], actual: Sequence[Payload | None], sides_px: Sequence[int]
) -> Golden | None:
    """Return the picture that says most and on which int8 stays within half of the tightest tolerance.

    Args:
        expected: what fp32 makes of each held-out picture; a wrong int8 network cannot write its own expectation.
        actual: what int8 makes of them.
        sides_px: each picture's longer side.
    """
    for level in TOLERANCE_LEVELS:
        choices = []
        for index, (wanted, got) in enumerate(zip(expected, actual, strict=True)):
            tolerance = _tolerance(wanted, sides_px[index], level)
            half = {name: value * MARGIN for name, value in tolerance.items()}
            if got is not None and _content(wanted) and not differences(wanted, got, half):
                choices.append((_steadiness(wanted), -index, Golden(index, wanted, tolerance)))
        if choices:
            return max(choices, key=lambda choice: choice[:2])[2]
    return None


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Give an empty folder beside `target` that takes its name when the body ends well and left something in it.

    A reader never sees half a model: the name appears last. What the body leaves as `.work` is not kept. Folders
    above `target` that were made for it stay only with it.

    Raises:
        ConfigError: `target` exists, or cannot be made.
        OSError: the disk is full.
    """
    if target.exists() or target.is_symlink():
        raise ConfigError(f"{target}: is there already and is never overwritten: name another --output")
    made = [above for above in target.parents if not above.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        _remove_empty(made)
        raise ConfigError(f"{target}: cannot be made: {error.strerror}") from error
    try:
        (folder / ".work").mkdir()
        yield folder
        shutil.rmtree(folder / ".work")
        if any(folder.iterdir()):
            for file in folder.iterdir():
                _sync(file)
            folder.chmod(0o755)
            folder.rename(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _remove_empty(made)


def _remove_empty(folders: Sequence[Path]) -> None:
    """Remove folders, the innermost first, up to the first one that holds something or is not there."""
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()


def write_model(
    folder: Path,
    original: tuple[Path, Manifest],
    sha256: str,
    golden: tuple[Golden, Pixels] | None,
    comments: Sequence[str],
) -> None:
    """Write all that belongs to a model but its network, which is there as model.onnx.

    Args:
        folder: to write into.
        original: the fp32 model's folder and manifest.
        sha256: of the network.
        golden: a chosen sample; None to take over the original's own.
        comments: for the head of model.toml.
    """
    source, manifest = original
    own = manifest.golden
    if golden is not None:
        chosen, pixels = golden
        own = GoldenSpec(image="golden.png", expected="golden.json", tolerance=chosen.tolerance)
        encoded, png = cv2.imencode(".png", pixels)
        assert encoded
        (folder / "golden.png").write_bytes(png.tobytes())
        (folder / own.expected).write_text(json.dumps(chosen.expected, indent=2) + "\n", encoding="utf-8")
    elif own is not None:
        for name in filter(None, (own.image, own.recording, own.expected)):
            shutil.copyfile(source / name, folder / name)
    if manifest.labels is not None and manifest.labels.path is not None:
        shutil.copyfile(source / manifest.labels.path, folder / manifest.labels.path)
    for name in LICENSES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    update = {
        "model": ModelFile(path="model.onnx", sha256=sha256),
        "version": f"{manifest.version[:58]}+int8",
        "golden": own,
        "variants": (),
    }
    text = manifest_text(manifest.model_copy(update=update), comments)
    (folder / MANIFEST_NAME).write_text(text, encoding="utf-8")


def _tolerance(payload: Payload, side_px: int, level: float) -> dict[str, float]:
    """Return how far each field of a payload may be off, by its name; what is not named must be the same."""
    largest: dict[str, float] = {}
    _find_largest(payload, "", largest)
    return {
        name: round(0.05 * level, 4)
        if name in _SCORES
        else round(0.02 * level * side_px, 2)
        if name in _PIXELS
        else float(f"{0.02 * level * size:.3g}")
        for name, size in largest.items()
    }


_SCORES = frozenset({"score", "share", "box_normalized"})
_PIXELS = frozenset({"box", "polygons", "x", "y"})
_EXACT = frozenset({"class_id", "counts", "shape", "size", "threshold"})


def _find_largest(value: Any, name: str, largest: dict[str, float]) -> None:
    """Collect the largest magnitude of each field of real numbers in a payload."""
    if isinstance(value, Mapping):
        for inner, content in value.items():
            _find_largest(content, inner, largest)
    elif isinstance(value, list):
        for content in value:
            _find_largest(content, name, largest)
    elif isinstance(value, int | float) and not isinstance(value, bool) and name not in _EXACT:
        largest[name] = max(largest.get(name, 0.0), abs(value))


def _content(payload: Mapping[str, Any]) -> bool:
    """Tell whether a payload says anything: a model that detects nothing must not pass."""
    return any(payload.values())


def _steadiness(payload: Payload) -> float:
    """Rank payloads: those whose every score is far from the threshold first, then those with more objects."""
    scores = [float(one["score"]) for one in payload.get("detections", [])]
    if not scores:
        return 0.0
    return (1000.0 if min(scores) >= SCORE_STEADY else 0.0) + len(scores) + min(scores)


def _sync(file: Path) -> None:
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
