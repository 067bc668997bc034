"""The heads that outputs can be recognised as: by metadata, by names, by shapes, in this order."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any

from agent.models.clues import ULTRALYTICS_TASKS, Clues, Guess, Head, Port
from agent.models.names import FACE_6, keypoint_names
from agent.models.ssd_anchors import tensorflow_anchors, tensorflow_cells

PROBABILITY_OPERATORS = ("Softmax", "Sigmoid")
RAW_NUMBERS_MAX = 10_000
"""As `agent.decoders.raw.VALUES_MAX`."""

END_TO_END_ROWS_MAX = 1000
"""Rows of a head that has its suppression in the graph: 300 in what is published."""

FITTING = (
    "known are: boxes [1,N,4] with scores [1,N,classes]; YOLO [1,4+classes,N], [1,N,5+classes], [1,300,6]; "
    "detection_boxes/scores/classes; classes [1,N]; maps as large as the input, or a part of it"
)


def guess_head(found: Guess, clues: Clues) -> None:
    """Fill in task and decoder by the first head that fits; raw where none does."""
    stated = clues.metadata.get("task")
    if stated is not None:
        found.kind = ULTRALYTICS_TASKS[stated]
        found.why.append(f"{found.kind}: the metadata says task={stated} (Ultralytics)")
        heads: Sequence[Head] = (_classification,) if stated == "classify" else (_ultralytics,)
        if stated == "detect":
            heads = (*heads, _ssd)
    else:
        heads = (_tfod, _text, _anchors, _ssd, _gfl, _yolo, _map, _vector, _classification)
    if any(head(found, clues) for head in heads):
        return
    seen = ", ".join(map(str, clues.outputs))
    found.why.append(
        f"raw: no known head has outputs like {seen}"
        if stated is None
        else f"raw in model.toml: no {found.kind} head has outputs like {seen}"
    )
    _raw(found, clues.outputs)


def _ultralytics(found: Guess, clues: Clues) -> bool:
    """A YOLO head of which the metadata tells task and names."""
    boxes = _first(clues.outputs, 3)
    if boxes is None or clues.names is None:
        return False
    stated, decoder = clues.metadata["task"], {"name": "yolo", "output": boxes.name}
    more = 0
    if stated == "segment":
        prototypes = _first(clues.outputs, 4)
        if prototypes is None:
            return False
        more = _number(prototypes, 1) or 32
        decoder["prototypes"] = prototypes.name
    elif stated == "pose":
        count, values = clues.metadata.get("kpt_shape", [17, 3])
        more = count * values
        decoder |= {"keypoints": keypoint_names(count), "keypoint_values": values}  # type: ignore[dict-item]
    head = _yolo_head(boxes, len(clues.names), more, suppresses=clues.metadata.get("suppresses", False))
    if head is None:
        return False
    found.task = "detection"
    found.classes = len(clues.names)
    found.decoder = {**decoder, "head": head}
    found.why.append(f"YOLO head {head}: {boxes}, {len(clues.names)} classes and {more} values more a box")
    return True


def _yolo_head(boxes: Port, classes: int, more: int, *, suppresses: bool) -> str | None:
    """Return how rows of so many classes are laid out; the common layout where the shape is open."""
    first, last = _number(boxes, 1), _number(boxes, 2)
    if first is None and last is None:
        return "end_to_end" if suppresses else "v8"
    if last == 6 + more and (first is None or first <= END_TO_END_ROWS_MAX):
        return "end_to_end"
    if 4 + classes + more in (first, last):
        return "v8"
    return "v5" if last == 5 + classes + more else None


def _yolo(found: Guess, clues: Clues) -> bool:
    """A YOLO head by its shape: one row for each cell of the grids of 8, 16 and 32 pixels, or three."""
    (boxes, *rest) = clues.outputs
    first, last = _number(boxes, 1), _number(boxes, 2)
    if rest or len(boxes.shape or ()) != 3 or first is None or last is None:
        return False
    cells = {_cells(clues, strides) for strides in ((8, 16, 32), (8, 16, 32, 64))} - {0}
    known = None if clues.names is None else len(clues.names)
    if last == 6 and first <= END_TO_END_ROWS_MAX:
        head, classes = "end_to_end", known or 80
    elif last in cells and first > 4:
        head, classes = "v8", first - 4
    elif first in cells and last > 5:
        # v8 turned, or YOLOX: what makes a known number of classes.
        is_turned = last - 4 in (known, 80)
        head, classes = ("v8", last - 4) if is_turned else ("yolox", last - 5)
    elif first in {3 * count for count in cells} and last > 5:
        head, classes = "v5", last - 5
    elif min(first, last) > 4 and max(first, last) >= 8 * min(first, last):
        head, classes = ("v8", first - 4) if first < last else ("v5", last - 5)
        found.why.append("the number of boxes is not that of a YOLO grid on this input: the head is a guess")
    else:
        return False
    if classes < 1:
        return False
    _is_detection(found, classes)
    found.decoder = {"name": "yolo", "output": boxes.name, "head": head}
    found.why.append(f"detection, a YOLO head ({head}): one output {boxes}, values and boxes")
    if head == "yolox":
        assert found.input is not None
        found.input |= {"resize": "letterbox", "align": "start", "scale": 1.0, "color": "BGR"}
        found.why.append("YOLOX takes pixels of 0..255, BGR, at the left and the top (its authors' preprocessing)")
    elif found.input is not None:
        found.input["resize"] = "letterbox"
        found.why.append("resize letterbox, as YOLO is trained")
    return True


def _gfl(found: Guess, clues: Clues) -> bool:
    """NanoDet: rows of the grids of 8, 16, 32 and 64 pixels, of classes and four distributions of 8 numbers."""
    (rows, *rest) = clues.outputs
    first, last = _number(rows, 1), _number(rows, 2)
    if rest or len(rows.shape or ()) != 3 or first is None or last is None or last <= 32 or not clues.width:
        return False
    for strides, point in (((8, 16, 32, 64), 0.0), ((8, 16, 32), 0.5)):
        count = sum(ceil(clues.width / stride) * ceil(clues.height / stride) for stride in strides)
        # YOLOX has the same rows as the older NanoDet: 80 classes and 5, or 32, values tell them apart.
        if first == count and (len(strides) == 4 or last - 32 in (80, len(clues.names or ()))) and last - 5 != 80:
            _is_detection(found, last - 32)
            found.decoder = {"name": "gfl", "output": rows.name, "strides": list(strides), "point": point}
            found.why.append(f"detection, a NanoDet head: {rows}, {last - 32} classes and 4 distributions of 8")
            return True
    return False


def _anchors(found: Guess, clues: Clues) -> bool:
    """BlazeFace: 2 anchors a cell of 8 pixels and 6 of 16, with one score and 16 numbers each."""
    scores = [port for port in clues.outputs if len(port.shape or ()) == 3 and _number(port, 2) == 1]
    boxes = [port for port in clues.outputs if len(port.shape or ()) == 3 and _number(port, 2) == 16]
    rows = [_number(port, 1) for port in scores]
    wanted = 2 * _cells(clues, (8,)) + 6 * _cells(clues, (16,))
    if not scores or len(scores) + len(boxes) != len(clues.outputs) or rows != [_number(port, 1) for port in boxes]:
        return False
    if sum(count or 0 for count in rows) != wanted or found.input is None:
        return False
    found.task = found.kind = "detection"
    found.classes, found.labels = 1, ["face"]
    found.decoder = {
        "name": "anchors",
        "boxes": [port.name for port in boxes],
        "scores": [port.name for port in scores],
        "keypoints": list(FACE_6),
    }
    found.input |= {"resize": "letterbox", "scale": 1 / 127.5, "mean": [1.0], "pad": 0}
    found.why.append(f"detection, BlazeFace's anchors: {wanted} rows of a score and 16 numbers; resize letterbox")
    return True


def _tfod(found: Guess, clues: Clues) -> bool:
    """Outputs that are called boxes, scores and classes, with one score a box."""
    boxes, scores = _named(clues.outputs, "box"), _named(clues.outputs, "score")
    classes = _named(clues.outputs, "class", "label")
    if boxes is None or scores is None or classes is None or len(scores.shape or ()) > 2:
        return False
    count = _named(clues.outputs, "num")
    is_tensorflow = boxes.name.startswith("detection_")
    _is_detection(found, len(clues.names) if clues.names is not None else 90 if is_tensorflow else 80)
    unit = "source" if clues.scales_boxes else "share" if is_tensorflow else "input"
    found.decoder = {
        "name": "tfod",
        "boxes": boxes.name,
        "scores": scores.name,
        "classes": classes.name,
        **({} if count is None else {"count": count.name}),
        "box_format": "yxyx" if is_tensorflow else "xyxy",
        "box_unit": unit,
    }
    found.why.append(f"detection that ends in suppression: {boxes}, {scores}, {classes}")
    found.why.append(f"boxes are {found.decoder['box_format']} in units of the {unit}, assumed from their names")
    return True


def _ssd(found: Guess, clues: Clues) -> bool:
    boxes = next((port for port in clues.outputs if _ends(port, 3) == 4), None)
    scores = next((port for port in clues.outputs if port is not boxes and _ends(port, 3) is not None), None)
    if boxes is None or scores is None or len(clues.outputs) != 2 or _row(boxes) != _row(scores):
        return False
    if "encoding" in boxes.name.lower():
        return _ssd_codes(found, clues, boxes, scores)
    _is_detection(found, _ends(scores, 3) or 0)
    found.decoder = {"name": "ssd", "boxes": boxes.name, "scores": scores.name, "box_format": "yxyx"}
    found.why.append(f"detection: {boxes} are boxes and {scores} their scores, one row each")
    found.why.append("box_format yxyx is assumed (TensorFlow's order): the graph does not tell it")
    return True


def _ssd_codes(found: Guess, clues: Clues, boxes: Port, scores: Port) -> bool:
    """TensorFlow's `raw_outputs/box_encodings`: codes against anchors that the graph does not hold."""
    cells = tensorflow_cells(clues.width, clues.height)
    anchors = tensorflow_anchors(clues.width, clues.height)
    count = sum(columns * rows * len(own) for (columns, rows), own in zip(cells, anchors, strict=True))
    classes = (_ends(scores, 3) or 0) - 1
    if not clues.width or _row(boxes) != count or classes < 1 or found.input is None:
        found.why.append(
            f"{boxes} are box codes; TensorFlow's anchors on {clues.width}x{clues.height} are {count}: others must "
            "be stated, as anchors with cells or strides under [decoder]"
        )
        return False
    _is_detection(found, classes)
    found.decoder = {
        "name": "ssd",
        "boxes": boxes.name,
        "scores": scores.name,
        "background": True,
        "cells": cells,
        "anchors": anchors,
    }
    if found.input["dtype"] in ("float32", "float16"):
        found.input |= {"scale": 1 / 127.5, "mean": [1.0]}
    found.why.append(f"detection: {boxes} are codes against TensorFlow's {count} SSD anchors, its defaults")
    found.why.append(f"{scores} are taken as 0..1 with the background first, as TensorFlow exports them")
    return True


def _text(found: Guess, clues: Clues) -> bool:
    """A sequence over the characters that the metadata lists (PaddleOCR as RapidOCR exports it)."""
    characters = clues.metadata.get("characters")
    (scores, *rest) = clues.outputs
    if characters is None or rest or len(scores.shape or ()) != 3:
        return False
    columns = _number(scores, 2)
    if columns == len(characters) + 2:
        characters = [*characters, " "]  # PaddleOCR adds it when it reads its list.
    elif columns not in (None, len(characters) + 1):
        return False
    found.task = found.kind = "text"
    found.classes, found.labels = len(characters), characters
    found.decoder = {"name": "ctc", "output": scores.name}
    found.why.append(f"text: {scores} are a blank and the {len(characters)} characters in the metadata")
    return True


def _map(found: Guess, clues: Clues) -> bool:
    """A map over the picture: segmentation, or heat maps where there are 17 of a quarter of its size."""
    (values, *rest) = clues.outputs
    shape = list(values.shape or ())
    if rest or len(shape) != 4 or not clues.width:
        return False
    for layout, rows_at in (("NCHW", 2), ("NHWC", 1)):
        rows, columns = shape[rows_at : rows_at + 2]
        channels = _number(values, 1 if layout == "NCHW" else 3)
        if channels is None or not isinstance(rows, int) or not isinstance(columns, int):
            continue
        if rows < 1 or columns < 1 or clues.height % rows or clues.width * rows != clues.height * columns:
            continue
        if layout == "NCHW" and channels == 17 and clues.height == 4 * rows:
            found.task = found.kind = "keypoints"
            found.decoder = {"name": "pose", "kind": "heatmap", "output": values.name}
            found.decoder["keypoints"] = keypoint_names(17)
            found.why.append(f"keypoints: {values} are heat maps of COCO's 17 on a quarter of the input")
            return True
        found.task = found.kind = "segmentation"
        found.classes = channels
        found.decoder = {"name": "segmentation", "output": values.name, "layout": layout}
        if channels == 1 and clues.names is None:
            found.labels = ["foreground"]
        found.why.append(f"segmentation: {values} is a map of {channels} class(es) over the input")
        if channels == 1:
            found.why.append(f"its numbers are taken as 0..1: {values.name} is made by {_maker(clues, values)}")
        return True
    return False


def _vector(found: Guess, clues: Clues) -> bool:
    """One number, or a vector that is called an embedding."""
    (values, *rest) = clues.outputs
    numbers = _ends(values, 2)
    if rest or numbers is None:
        return False
    if any(word in values.name.lower() for word in ("embed", "feature")):
        found.task = found.kind = "embedding"
        found.decoder = {"name": "embedding", "output": values.name}
        found.why.append(f"embedding: the name of {values}")
        return True
    if numbers == 1:
        found.task = found.kind = "regression"
        found.decoder = {"name": "regression", "output": values.name, "names": [values.name]}
        found.why.append(f"regression: {values} is one number")
        return True
    return False


def _classification(found: Guess, clues: Clues) -> bool:
    (scores, *rest) = clues.outputs
    if rest or (_ends(scores, 2) or 0) < 2:
        return False
    maker = clues.makers.get(scores.name, "")
    activation = "none" if maker in PROBABILITY_OPERATORS else "softmax"
    if not clues.makers:
        activation = "auto"
    found.task = found.kind = "classification"
    found.classes = _ends(scores, 2)
    found.decoder = {"name": "classification", "scores": scores.name, "activation": activation}
    found.why.append(f"classification: one output {scores}, a number for each class")
    found.why.append(f"activation {activation}: {scores.name} is made by {_maker(clues, scores)}")
    return True


def _raw(found: Guess, outputs: Sequence[Port]) -> None:
    numbers = 0
    for port in outputs:
        own = 1
        for size in port.shape or ():
            own *= size if isinstance(size, int) else 1
        numbers += own
    if numbers > RAW_NUMBERS_MAX:
        found.obstacles.append(
            f"raw would publish {numbers} numbers a frame, more than {RAW_NUMBERS_MAX}: {FITTING}; name the decoder, "
            "or fewer outputs, under [decoder] in model.toml"
        )


def _is_detection(found: Guess, classes: int) -> None:
    found.task = found.kind = "detection"
    found.classes = classes


def _maker(clues: Clues, port: Port) -> str:
    return clues.makers.get(port.name) or ("nothing known" if clues.makers else "what a session does not tell")


def _cells(clues: Clues, strides: Sequence[int]) -> int:
    return sum((clues.width // stride) * (clues.height // stride) for stride in strides)


def _first(outputs: Sequence[Port], rank: int) -> Port | None:
    return next((port for port in outputs if len(port.shape or ()) == rank), None)


def _named(outputs: Sequence[Port], *words: str) -> Port | None:
    return next((port for port in outputs if any(word in port.name.lower() for word in words)), None)


def _number(port: Port, at: int) -> int | None:
    """Return a dimension of a tensor, when it is a number above 0."""
    if port.shape is None or len(port.shape) <= at:
        return None
    size = port.shape[at]
    return size if isinstance(size, int) and size > 0 else None


def _ends(port: Port, rank: int) -> int | None:
    """Return the last dimension of a tensor of that rank, when it is a number above 0."""
    return _number(port, rank - 1) if port.shape is not None and len(port.shape) == rank else None


def _row(port: Port) -> Any:
    return None if port.shape is None else port.shape[1]
