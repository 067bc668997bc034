"""A bare .onnx file: what it is taken for, what is said about it, and that the whole path is right."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx.helper import make_node

from agent.clock import SystemClock
from agent.errors import ConfigError
from agent.loading import digests, load_model, try_variants
from agent.models.clues import parse_metadata
from agent.models.guess import guess
from agent.models.names import COCO_80, coco_90
from agent.modeltools.network import Port
from agent.settings import ModelSettings
from tests.heads import save, ultralytics
from tests.paths import COCO_SSD
from tests.unit.modeltools.networks import classifier, network, saved

WIDTH, HEIGHT = 200, 120
BOX = [60, 40, 100, 80]


def picture(color: tuple[int, int, int] = (0, 255, 0)) -> Any:
    """Return a dark frame with one square of a colour, RGB, on it."""
    pixels = np.full((HEIGHT, WIDTH, 3), 20, np.uint8)
    pixels[BOX[1] : BOX[3], BOX[0] : BOX[2]] = color[::-1]
    return pixels


def look(file: Path, pixels: Any = None) -> Any:
    """Load a bare network, take a picture through the whole path and return the payload."""
    model = load_model(ModelSettings(name="m", path=file), 1, SystemClock()).variants[0]
    inputs, placement = model.preprocess(picture() if pixels is None else pixels)
    return model.decoder.decode(model.engine.run(inputs, model.engine.new_abort()), placement)


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("head", ["v8", "v5", "end_to_end", "segment", "pose"])
def test_an_ultralytics_export_needs_no_model_toml(tmp_path: Path, head: str, is_open: bool) -> None:
    """Task, size and names from its metadata; boxes in source pixels, through a letterbox and back."""
    task = head if head in ("segment", "pose") else "detect"
    more = {"kpt_shape": "[1, 3]"} if head == "pose" else {"args": "{'nms': True}"} if head == "end_to_end" else {}
    (found,) = look(save(tmp_path / "m.onnx", head, metadata=ultralytics(task, **more), is_open=is_open))[
        "detections"
    ]
    assert (found["label"], found["class_id"], found["score"]) == ("green", 1, 1.0)
    # A cell of the letterboxed input is 3.1 source pixels.
    assert np.allclose(found["box"], BOX, atol=2.5)
    if head == "pose":
        assert found["keypoints"][0]["x"] == pytest.approx(80, abs=1.6)
        assert found["keypoints"][0]["y"] == pytest.approx(60, abs=1.6)
    if head == "segment":
        (outline,) = found["mask"]["polygons"]
        corners = np.array(outline).reshape(-1, 2)
        # The prototypes' cells are 12.5 source pixels.
        assert np.allclose([*corners.min(axis=0), *corners.max(axis=0)], BOX, atol=6.5)


@pytest.mark.parametrize(
    ("head", "label"),
    [
        ("v8", "class 1"),
        ("v5", "class 1"),
        ("end_to_end", COCO_80[1]),
    ],
)
def test_shapes_and_names_tell_a_head_without_metadata(tmp_path: Path, head: str, label: str) -> None:
    """The number of rows is that of a grid; labels are COCO's where the number is, or where nothing tells."""
    (found,) = look(save(tmp_path / "m.onnx", head))["detections"]
    assert found["label"] == label
    assert np.allclose(found["box"], BOX, atol=4)


def test_tensorflows_names_tell_a_head(tmp_path: Path) -> None:
    """Shares of a stretched input, y first, category numbers from 1."""
    pixels = np.full((128, 128, 3), 20, np.uint8)
    pixels[30:70, 50:90] = (0, 255, 0)
    (found,) = look(save(tmp_path / "m.onnx", "tfod"), pixels)["detections"]
    assert (found["label"], found["class_id"]) == ("bicycle", 2)
    assert np.allclose(found["box"], [50, 30, 90, 70], atol=2)


def test_yolox_is_known_by_its_grid(tmp_path: Path) -> None:
    """And fed as its authors do: 0..255, BGR, at the left and the top."""
    (tmp_path / "m.txt").write_text("b\ng\nr\n")
    file = save(tmp_path / "m.onnx", "yolox")
    manifest, _ = try_variants(file, 1, SystemClock())
    assert manifest.decoder["head"] == "yolox"
    taken = manifest.input
    assert taken is not None
    assert (taken.color, taken.align, taken.resize, taken.scale) == ("BGR", "start", "letterbox", 1.0)


def test_names_in_a_file_beside_the_network_are_labels(tmp_path: Path) -> None:
    """`{stem}.txt` or `labels.txt`, when their number fits."""
    file = save(tmp_path / "m.onnx", "v8")
    (tmp_path / "labels.txt").write_text("rot\ngrün\nblau\n")
    assert look(file)["detections"][0]["label"] == "grün"
    (tmp_path / "m.txt").write_text("one\ntwo\n")
    assert look(file)["detections"][0]["label"] == "class 1"


def test_maps_and_vectors(tmp_path: Path) -> None:
    """A map as large as the input is a segmentation; a vector that is called so is an embedding."""
    (segment,) = look(save(tmp_path / "m.onnx", "semantic"))["segments"]
    assert segment["label"] == "foreground"
    assert segment["share"] == pytest.approx(40 * 40 / (WIDTH * HEIGHT), abs=0.01)
    (embedding,) = look(save(tmp_path / "e.onnx", "embedding"))["embeddings"]
    assert embedding["values"] == pytest.approx([0, 1, 0], abs=0.01)  # The edge is blended by the resize.


def test_a_classifier_gives_its_names(tmp_path: Path) -> None:
    """Ultralytics' classify; its Softmax is seen in its numbers."""
    metadata = {"task": "classify", "names": "{0: 'r', 1: 'g', 2: 'b'}", "imgsz": "[32, 32]"}
    (best, *_) = look(saved(classifier(side="s", metadata=metadata), tmp_path / "m.onnx"))["classes"]
    assert best["label"] == "g"
    assert 0.3 < best["score"] < 1


def test_what_was_assumed_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In one line of the log, that names the file."""
    with caplog.at_level(logging.WARNING):
        look(save(tmp_path / "m.onnx", "v8"))
    text = caplog.records[0].getMessage()
    assert text.startswith(f"{tmp_path / 'm.onnx'}: has no model.toml beside it and is taken for this: ")
    for said in ("a YOLO head (v8)", "color RGB is assumed", "scale 1/255", "the 3 classes have no names"):
        assert said in text


def test_a_manifest_beside_it_overrides_everything(tmp_path: Path) -> None:
    """What people wrote counts, even if it is wrong."""
    file = save(tmp_path / "m.onnx", "v8", metadata=ultralytics("detect"))
    manifest, _ = try_variants(file, 1, SystemClock())
    assert digests(file) == {manifest.model.sha256}
    (tmp_path / "model.toml").write_text("schema = 1\n")
    with pytest.raises(ConfigError, match=r"model.toml:1: task: is missing"):
        look(file)


def test_outputs_that_fit_nothing_are_refused_with_what_would(tmp_path: Path) -> None:
    """What the network takes and gives, what is known, and what to write."""
    node = make_node("Concat", ["images"] * 4, ["y"], axis=1)
    file = saved(network([node], [("y", TensorProto.FLOAT, [1, 12, 32, 32])]), tmp_path / "m.onnx")
    look(file)  # A map of 12 classes: taken, and said.
    pool = make_node("Unsqueeze", ["images", "axes"], ["y"])
    model = network([pool], [("y", TensorProto.FLOAT, [1, 3, 64, 64, 1])], weights={"axes": np.array([4])}, inputs=[
        ("images", TensorProto.FLOAT, [1, 3, 64, 64])
    ])  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        look(saved(model, file))
    text = str(caught.value)
    for said in ("gives y float32[1,3,64,64,1]", "known are: boxes [1,N,4]", "write a model.toml"):
        assert said in text


def test_a_network_without_a_picture_is_refused(tmp_path: Path) -> None:
    """With its inputs."""
    model = network(
        [make_node("Relu", ["x"], ["y"])],
        [("y", TensorProto.FLOAT, [1, 8])],
        inputs=[("x", TensorProto.FLOAT, [1, 8])],
    )
    with pytest.raises(ConfigError, match=r"no input is a picture: x float32\[1,8\]"):
        look(saved(model, tmp_path / "m.onnx"))


def test_a_folder_needs_its_manifest(tmp_path: Path) -> None:
    """Only a file that is named is taken for what it seems to be."""
    save(tmp_path / "m.onnx", "v8")
    with pytest.raises(ConfigError, match=r"has no model.toml: .* name the .onnx file itself"):
        look(tmp_path)


def test_half_precision_is_taken_as_it_is(tmp_path: Path) -> None:
    """float16 in and out."""
    nodes = [make_node("GlobalAveragePool", ["images"], ["p"]), make_node("Flatten", ["p"], ["embed"])]
    model = network(
        nodes,
        [("embed", TensorProto.FLOAT16, [1, 3])],
        inputs=[("images", TensorProto.FLOAT16, [1, 3, 32, 32])],
    )
    onnx.checker.check_model(model)
    values = look(saved(model, tmp_path / "m.onnx"), np.full((9, 9, 3), 255, np.uint8))["embeddings"][0]["values"]
    assert values == pytest.approx([3**-0.5] * 3, abs=1e-3)


def test_the_default_network_alone_is_what_its_manifest_says(tmp_path: Path) -> None:
    """COCO-SSD by its shapes, uint8 input, COCO's category numbers."""
    file = tmp_path / "m.onnx"
    file.write_bytes((COCO_SSD / "model.onnx").read_bytes())
    manifest, _ = try_variants(file, 1, SystemClock())
    assert manifest.decoder["name"] == "ssd"
    assert manifest.labels is not None
    assert manifest.input is not None
    assert (manifest.labels.first_id, manifest.input.dtype, manifest.input.width) == (1, "uint8", 300)
    names = [line.strip() for line in (COCO_SSD / "labels.txt").read_text().splitlines()]
    ours = coco_90()
    assert [name for name in ours if not name.startswith("unused")] == list(COCO_80)
    assert [ours.index(name) for name in COCO_80] == [names.index(name) for name in COCO_80]


def guessed(outputs: list[Port], side: int = 416, properties: Any = (), more: Any = (), names: Any = None) -> Any:
    """Guess from shapes alone."""
    images = Port("images", "float32", (1, 3, side, side))
    return guess([images, *more], outputs, parse_metadata(dict(properties)), {}, names)


def out(name: str, *shape: Any, dtype: str = "float32") -> Port:
    """Describe an output."""
    return Port(name, dtype, shape)


@pytest.mark.parametrize(
    ("outputs", "side", "decoder"),
    [
        ([out("o", 1, 84, 8400)], 640, {"name": "yolo", "head": "v8"}),
        ([out("o", 1, 8400, 84)], 640, {"name": "yolo", "head": "v8"}),
        ([out("o", 1, 8400, 85)], 640, {"name": "yolo", "head": "yolox"}),
        ([out("o", 1, 25200, 85)], 640, {"name": "yolo", "head": "v5"}),
        ([out("o", 1, 300, 6)], 640, {"name": "yolo", "head": "end_to_end"}),
        ([out("o", 1, 3598, 112)], 416, {"name": "gfl", "point": 0.0}),
        ([out("o", 1, 2100, 112)], 320, {"name": "gfl", "point": 0.5}),
        ([out("s", 1, 896, 1), out("b", 1, 896, 16)], 128, {"name": "anchors", "boxes": ["b"]}),
        ([out("heat", 1, 17, 64, 64)], 256, {"name": "pose", "kind": "heatmap"}),
        ([out("o", 1, 21, 104, 104)], 416, {"name": "segmentation", "layout": "NCHW"}),
        ([out("o", 1, 1000)], 224, {"name": "classification", "activation": "auto"}),
        ([out("o", 1, 1)], 224, {"name": "regression", "names": ["o"]}),
    ],
)
def test_published_shapes(outputs: list[Port], side: int, decoder: dict[str, Any]) -> None:
    """As the families export them."""
    found = guessed(outputs, side)
    assert found.obstacles == []
    assert decoder.items() <= found.decoder.items()


def test_rt_detr_is_told_the_sources_size() -> None:
    """Its second input is a size, and its boxes are in source pixels."""
    size = Port("orig_target_sizes", "int64", (1, 2))
    found = guessed(
        [out("labels", 1, 300, dtype="int64"), out("boxes", 1, 300, 4), out("scores", 1, 300)], more=[size]
    )
    assert found.sizes == {"orig_target_sizes": "source_wh"}
    assert (found.decoder["name"], found.decoder["box_unit"], found.decoder["box_format"]) == (
        "tfod",
        "source",
        "xyxy",
    )


def test_the_characters_of_text_recognition_come_from_the_metadata() -> None:
    """A blank before them, and a space behind them where there is room for it."""
    characters = "\n".join("abc")
    found = guessed([out("o", 1, 40, 5)], properties={"character": characters})
    assert (found.decoder["name"], found.labels) == ("ctc", ["a", "b", "c", " "])
    assert guessed([out("o", 1, 40, 4)], properties={"character": characters}).labels == ["a", "b", "c"]
    assert guessed([out("o", 1, 40, 9)], properties={"character": characters}).decoder["name"] != "ctc"
