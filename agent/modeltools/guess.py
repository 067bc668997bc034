"""Guesses what a network is for, with the reason for every guess: the start of a model.toml for a person to check."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agent.modeltools.network import Port

ULTRALYTICS_TASKS = {
    "detect": "detection",
    "classify": "classification",
    "segment": "segmentation",
    "pose": "keypoints",
}

SIDE_ASSUMED = {"classification": 224, "detection": 640, "raw": 640}
"""Pixels, where height and width are open and the metadata names no size: what most exports of each kind use."""

PROBABILITY_OPERATORS = ("Softmax", "Sigmoid")
RAW_NUMBERS_MAX = 10_000
"""As `agent.decoders.raw.VALUES_MAX`."""


@dataclass(slots=True)
class Guess:
    """What a network seems to be.

    Attributes:
        task: `detection`, `classification` or `raw`: what model.toml would say.
        kind: the task in the network's own words, which may have no decoder here.
        why: one sentence for each thing that was concluded or assumed.
        input: `[input]` of model.toml; None when no picture fits the network.
        decoder: `[decoder]`.
        classes: how many, where the task has classes.
        labels: their names, where the metadata has them.
        obstacles: why the agent would refuse this network with what was guessed.
    """

    task: str = "raw"
    kind: str = "raw"
    why: list[str] = field(default_factory=list)
    input: dict[str, Any] | None = None
    decoder: dict[str, Any] = field(default_factory=lambda: {"name": "raw"})
    classes: int | None = None
    labels: list[str] | None = None
    obstacles: list[str] = field(default_factory=list)


def parse_metadata(properties: Mapping[str, str]) -> dict[str, Any]:
    """Return what Ultralytics exports state, checked: task, stride, imgsz [height, width] and names."""
    found: dict[str, Any] = {}
    if properties.get("task") in ULTRALYTICS_TASKS:
        found["task"] = properties["task"]
    for key in ("stride", "imgsz", "names"):
        try:
            # As they are written: a Python literal. 1 MB of text is 20 times the longest list of names.
            value = ast.literal_eval(properties.get(key, "")[:1_000_000])
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if key == "stride" and isinstance(value, int):
            found[key] = value
        elif (
            key == "imgsz" and isinstance(value, list | tuple) and len(value) == 2 and all(_is_side(v) for v in value)
        ):
            found[key] = list(value)
        elif key == "names" and isinstance(value, dict) and sorted(value) == list(range(len(value))):
            found[key] = [" ".join(str(value[index]).split()) or f"class {index}" for index in range(len(value))]
    return found


def guess(
    inputs: Sequence[Port], outputs: Sequence[Port], metadata: Mapping[str, Any], makers: Mapping[str, str]
) -> Guess:
    """Guess task, input and decoder.

    Args:
        inputs: of the network.
        outputs: of the network, with inferred shapes.
        metadata: from `parse_metadata`.
        makers: the operator that makes each output, by its name.
    """
    found = Guess()
    _guess_task(found, outputs, metadata, makers)
    _guess_input(found, inputs, metadata)
    names = metadata.get("names")
    if found.classes is not None:
        if names is not None and len(names) == found.classes:
            found.labels = names
            found.why.append(f"labels are the {len(names)} names in the metadata")
        else:
            found.why.append(
                f"the {found.classes} classes have no names in the metadata: labels.txt is to be written"
            )
    return found


def _guess_task(
    found: Guess, outputs: Sequence[Port], metadata: Mapping[str, Any], makers: Mapping[str, str]
) -> None:
    stated = metadata.get("task")
    if stated is not None:
        found.kind = ULTRALYTICS_TASKS[stated]
        found.why.append(f"{found.kind}: the metadata says task={stated} (Ultralytics)")
    boxes = next((port for port in outputs if _ends(port, 3) == 4), None)
    scores = next((port for port in outputs if port is not boxes and _ends(port, 3) is not None), None)
    if stated in (None, "classify") and len(outputs) == 1 and (_ends(outputs[0], 2) or 0) >= 2:
        _classification(found, outputs[0], makers)
    elif stated in (None, "detect") and boxes and scores and _rows(boxes) == _rows(scores):
        _ssd(found, boxes, scores)
    else:
        if stated is None and len(outputs) == 1 and _is_yolo(outputs[0]):
            found.kind = "detection"
            found.why.append(f"detection, a YOLO head: one output {outputs[0]}, 4 sides and the classes by anchors")
        if found.kind == "raw":
            found.why.append(f"raw: no known head has outputs like {', '.join(map(str, outputs))}")
        else:
            found.why.append(f"raw in model.toml: this version has no decoder for such a {found.kind} head")
        _raw(found, outputs)


def _classification(found: Guess, scores: Port, makers: Mapping[str, str]) -> None:
    maker = makers.get(scores.name, "")
    activation = "none" if maker in PROBABILITY_OPERATORS else "softmax"
    found.task = found.kind = "classification"
    found.classes = _ends(scores, 2)
    found.decoder = {"name": "classification", "scores": scores.name, "activation": activation}
    found.why.append(f"classification: one output {scores}, a number for each class")
    found.why.append(f"activation {activation}: {scores.name} is made by {maker or 'nothing known'}")


def _ssd(found: Guess, boxes: Port, scores: Port) -> None:
    found.task = found.kind = "detection"
    found.classes = _ends(scores, 3)
    found.decoder = {"name": "ssd", "boxes": boxes.name, "scores": scores.name, "box_format": "yxyx"}
    found.why.append(f"detection: {boxes} are boxes and {scores} their scores, one row each")
    found.why.append("box_format yxyx is assumed (TensorFlow's order): the graph does not tell it")


def _raw(found: Guess, outputs: Sequence[Port]) -> None:
    numbers = 0
    for port in outputs:
        sizes = [size if isinstance(size, int) else 1 for size in port.shape or ()]
        own = 1
        for size in sizes:
            own *= size
        numbers += own
    if numbers > RAW_NUMBERS_MAX:
        found.obstacles.append(
            f"raw would publish {numbers} numbers a frame, more than {RAW_NUMBERS_MAX}: name fewer outputs under "
            "[decoder], or export the model with its decoding"
        )


def _guess_input(found: Guess, inputs: Sequence[Port], metadata: Mapping[str, Any]) -> None:
    if len(inputs) != 1:
        found.obstacles.append(f"the network takes {len(inputs)} inputs, model.toml describes one")
        return
    (port,) = inputs
    if port.shape is None or len(port.shape) != 4 or port.dtype not in ("uint8", "float32"):
        found.obstacles.append(f"input {port} is no picture: wanted uint8 or float32 with 4 dimensions")
        return
    layout = "NCHW" if port.shape[1] in (1, 3) else "NHWC" if port.shape[3] in (1, 3) else None
    if layout is None:
        found.obstacles.append(f"input {port} has 1 or 3 channels neither at place 2 nor at place 4")
        return
    at, channels_at = ((2, 3), 1) if layout == "NCHW" else ((1, 2), 3)
    channels = port.shape[channels_at]
    found.why.append(f"layout {layout}: {channels} channel(s) at place {channels_at + 1} of {port}")
    sides = [_side(found, port.shape[place], index, metadata) for index, place in enumerate(at)]
    color = "GRAY" if channels == 1 else "RGB"
    found.input = {
        "name": port.name,
        "layout": layout,
        "dtype": port.dtype,
        "width": sides[1],
        "height": sides[0],
        "color": color,
        "resize": "letterbox" if metadata.get("task") not in (None, "classify") else "stretch",
    }
    if port.shape[0] not in (1, None) and isinstance(port.shape[0], int):
        found.obstacles.append(f"input {port} takes {port.shape[0]} pictures at a time, the agent gives one")
    if color == "RGB":
        found.why.append("color RGB is assumed: the graph does not tell it")
    if port.dtype == "float32":
        found.why.append("scale 1/255, mean 0, std 1 are assumed: the graph does not tell what the training used")


def _side(found: Guess, stated: int | str | None, index: int, metadata: Mapping[str, Any]) -> int:
    name = ("height", "width")[index]
    if isinstance(stated, int):
        return stated
    if "imgsz" in metadata:
        side = int(metadata["imgsz"][index])
        found.why.append(f"{name} {side}: the metadata says imgsz={metadata['imgsz']}")
        return side
    side = SIDE_ASSUMED[found.task if found.kind != "detection" else "detection"]
    found.why.append(f"{name} {side} is assumed: the network leaves it open ({stated})")
    return side


def _ends(port: Port, rank: int) -> int | None:
    """Return the last dimension of a [1, ...] tensor of that rank, when it is a number above 0."""
    if port.shape is None or len(port.shape) != rank:
        return None
    last = port.shape[-1]
    return last if isinstance(last, int) and last > 0 else None


def _rows(port: Port) -> int | str | None:
    return None if port.shape is None else port.shape[1]


def _is_yolo(port: Port) -> bool:
    """[1, 4 + classes, anchors], or the same turned: many more anchors than values a box."""
    if port.shape is None or len(port.shape) != 3:
        return False
    sizes = [size for size in port.shape[1:] if isinstance(size, int)]
    return len(sizes) == 2 and min(sizes) > 4 and max(sizes) >= 8 * min(sizes)


def _is_side(value: Any) -> bool:
    return isinstance(value, int) and 1 <= value <= 8192
