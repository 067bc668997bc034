"""Guesses what a network is for, with the reason for every guess: to run it, or to draft its model.toml."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent.models.clues import Clues, Guess, Port
from agent.models.heads import guess_head
from agent.models.names import COCO_80, coco_90

SIDE_ASSUMED = {"classification": 224, "other": 640}
"""Pixels, where height and width are open and the metadata names no size: what most exports of each kind use."""

FLOATS = ("float32", "float16", "float64")
PICTURES = ("uint8", *FLOATS, "int8", "int16", "int32", "int64", "bool")


def guess(
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    metadata: Mapping[str, Any],
    makers: Mapping[str, str],
    names: Sequence[str] | None = None,
) -> Guess:
    """Guess task, input and decoder.

    Args:
        inputs: of the network.
        outputs: of the network, with inferred shapes where they are known.
        metadata: from `parse_metadata`.
        makers: the operator that makes each output, by its name; empty where they are not known.
        names: of the classes, from a file beside the network, where the metadata has none.
    """
    found = Guess()
    _guess_input(found, inputs, outputs, metadata)
    stated = metadata.get("names")
    clues = Clues(
        outputs=outputs,
        metadata=metadata,
        makers=makers,
        names=stated if stated is not None else None if names is None else list(names),
        width=0 if found.input is None else found.input["width"],
        height=0 if found.input is None else found.input["height"],
        scales_boxes=bool(found.sizes),
    )
    guess_head(found, clues)
    if found.classes is not None and found.labels is None:
        _guess_labels(found, clues, is_metadata=stated is not None)
    _guess_pixels(found)
    return found


def _guess_labels(found: Guess, clues: Clues, *, is_metadata: bool) -> None:
    assert found.classes is not None
    place = "the metadata" if is_metadata else "the file beside the network"
    if clues.names is not None and len(clues.names) == found.classes:
        found.labels = list(clues.names)
        found.why.append(f"labels are the {len(clues.names)} names in {place}")
    elif found.task == "detection" and found.classes == len(COCO_80):
        found.labels = list(COCO_80)
        found.why.append("labels are COCO's 80 categories, assumed from their number")
    elif found.task == "detection" and found.classes == 90:
        found.labels, found.first_id = coco_90(), 1
        found.why.append("labels are COCO's category numbers 1 to 90, assumed from their number")
    else:
        said = "" if clues.names is None else f" ({place} has {len(clues.names)})"
        found.why.append(
            f"the {found.classes} classes have no names in the metadata{said}: they are numbered until labels.txt is "
            "written"
        )


def _guess_input(found: Guess, inputs: Sequence[Port], outputs: Sequence[Port], metadata: Mapping[str, Any]) -> None:
    pictures = [port for port in inputs if _layout(port) is not None]
    if len(pictures) != 1:
        seen = ", ".join(map(str, inputs))
        wanted = f"wanted {', '.join(PICTURES)} with 4 dimensions, 1 or 3 of them channels at place 2 or 4"
        found.obstacles.append(f"no input is a picture: {seen}; {wanted}" if not pictures else f"several are: {seen}")
        return
    (port,) = pictures
    layout = _layout(port)
    assert port.shape is not None
    at, channels_at = ((2, 3), 1) if layout == "NCHW" else ((1, 2), 3)
    channels = port.shape[channels_at]
    found.why.append(f"layout {layout}: {channels} channel(s) at place {channels_at + 1} of {port}")
    kind = "classification" if all(len(one.shape or ()) == 2 for one in outputs) else "other"
    sides = [_side(found, port.shape[place], index, metadata, kind) for index, place in enumerate(at)]
    found.input = {
        "name": port.name,
        "layout": layout,
        "dtype": str(port.dtype),
        "width": sides[1],
        "height": sides[0],
        "color": "GRAY" if channels == 1 else "RGB",
        "resize": "letterbox" if metadata.get("task") not in (None, "classify") else "stretch",
    }
    if isinstance(port.shape[0], int) and port.shape[0] != 1:
        found.obstacles.append(f"input {port} takes {port.shape[0]} pictures at a time, the agent gives one")
    for other in inputs:
        if other is not port:
            _guess_extra(found, other)


def _guess_extra(found: Guess, port: Port) -> None:
    name, is_whole = port.name.lower(), str(port.dtype).startswith("int")
    if "target_sizes" in name:
        found.sizes[port.name] = "source_wh"
        found.why.append(f"input {port} is the source's width and height (RT-DETR)")
    elif is_whole and name in ("sr", "sample_rate"):
        found.constants[port.name] = 16_000
        found.why.append(f"input {port} is a sample rate of 16000, assumed")
    else:
        found.needs_hand = True
        found.obstacles.append(
            f"input {port} is no picture: name it under [constants], [sizes] or [times] in model.toml"
        )


def _guess_pixels(found: Guess) -> None:
    """Say what no graph tells: the order of the colours and the scale."""
    if found.input is None:
        return
    if found.input["color"] == "RGB":
        found.why.append("color RGB is assumed: the graph does not tell it")
    if found.input["dtype"] in FLOATS:
        if "scale" in found.input:
            found.why.append("pixels of -1..1, as this head's authors train it")
        else:
            found.why.append("scale 1/255, mean 0, std 1 are assumed: the graph does not tell what the training used")
    elif found.input["dtype"] == "int8":
        found.input["mean"] = [128.0]
        found.why.append("int8 pixels of -128..127 are assumed")


def _side(found: Guess, stated: int | str | None, index: int, metadata: Mapping[str, Any], kind: str) -> int:
    name = ("height", "width")[index]
    if isinstance(stated, int):
        return stated
    if "imgsz" in metadata:
        side = int(metadata["imgsz"][index])
        found.why.append(f"{name} {side}: the metadata says imgsz={metadata['imgsz']}")
        return side
    called = "" if stated is None else f" ({stated})"
    found.why.append(f"{name} {SIDE_ASSUMED[kind]} is assumed: the network leaves it open{called}")
    return SIDE_ASSUMED[kind]


def _layout(port: Port) -> str | None:
    """Return the order of a picture's axes; None for what is no picture."""
    if port.shape is None or len(port.shape) != 4 or str(port.dtype) not in PICTURES:
        return None
    return "NCHW" if port.shape[1] in (1, 3) else "NHWC" if port.shape[3] in (1, 3) else None
