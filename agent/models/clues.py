"""What a guess is made from, and what it becomes."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

ULTRALYTICS_TASKS = {
    "detect": "detection",
    "classify": "classification",
    "segment": "segmentation",
    "pose": "keypoints",
}


class Port(Protocol):
    """An input or output: of a session, where open dimensions are None, or of a file, where they have names."""

    @property
    def name(self) -> str:
        """As in the graph."""

    @property
    def dtype(self) -> Any:
        """Numpy's name, or a dtype."""

    @property
    def shape(self) -> Sequence[int | str | None] | None:
        """None without any shape."""


@dataclass(slots=True)
class Guess:
    """What a network seems to be.

    Attributes:
        task: what model.toml would say.
        kind: the task in the network's own words.
        why: one sentence for each thing that was concluded or assumed.
        input: `[input]` of model.toml; None when no picture fits the network.
        constants: `[constants]`.
        sizes: `[sizes]`.
        decoder: `[decoder]`.
        classes: how many, where the task has classes.
        labels: their names, where they are known.
        first_id: `class_id` of the first.
        obstacles: why the agent would refuse this network with what was guessed.
    """

    task: str = "raw"
    kind: str = "raw"
    why: list[str] = field(default_factory=list)
    input: dict[str, Any] | None = None
    constants: dict[str, Any] = field(default_factory=dict)
    sizes: dict[str, str] = field(default_factory=dict)
    decoder: dict[str, Any] = field(default_factory=lambda: {"name": "raw"})
    classes: int | None = None
    labels: list[str] | None = None
    first_id: int = 0
    obstacles: list[str] = field(default_factory=list)
    needs_hand: bool = False
    """Whether an input has no section that could be guessed."""


@dataclass(frozen=True, slots=True)
class Clues:
    """What a guess is made from.

    Attributes:
        outputs: of the network.
        metadata: from `parse_metadata`.
        makers: the operator that makes each output, by its name; empty where only a session is at hand.
        names: of the classes, from the metadata or a file beside the network; None without.
        width: of the input, pixels; 0 where there is no picture.
        height: of the input.
        scales_boxes: whether the network is told the source's size.
    """

    outputs: Sequence[Port]
    metadata: Mapping[str, Any]
    makers: Mapping[str, str]
    names: list[str] | None
    width: int
    height: int
    scales_boxes: bool


Head = Callable[[Guess, Clues], bool]
"""Fills in task, decoder and classes and returns True, if the outputs look like this head's."""


def parse_metadata(properties: Mapping[str, str]) -> dict[str, Any]:
    """Return what exporters state, checked.

    Ultralytics' task, stride, imgsz [height, width], names and kpt_shape; the characters of text recognition.
    """
    found: dict[str, Any] = {}
    if properties.get("task") in ULTRALYTICS_TASKS:
        found["task"] = properties["task"]
    for key in ("stride", "imgsz", "names", "kpt_shape", "args", "end2end"):
        try:
            # As they are written: a Python literal. 1 MB of text is 20 times the longest list of names.
            value = ast.literal_eval(properties.get(key, "")[:1_000_000])
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if key == "stride" and isinstance(value, int):
            found[key] = value
        elif key in ("imgsz", "kpt_shape") and _is_pair(value):
            found[key] = list(value)
        elif key == "names" and isinstance(value, dict) and sorted(value) == list(range(len(value))):
            found[key] = [" ".join(str(value[index]).split()) or f"class {index}" for index in range(len(value))]
        elif (key == "args" and isinstance(value, dict) and value.get("nms") is True) or (
            key == "end2end" and value is True
        ):
            found["suppresses"] = True
    if characters := properties.get("character", "")[:1_000_000]:
        found["characters"] = characters.split("\n")
    return found


def _is_pair(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(isinstance(side, int) and 1 <= side <= 8192 for side in value)
    )
