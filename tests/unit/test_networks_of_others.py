"""Networks that others trained, taken as bare files, on pictures of which the content is known."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from agent.clock import SystemClock
from agent.frame import Pixels
from agent.interfaces import Variant
from agent.loading import load_model, try_variants
from agent.modeltools.draft import manifest_text
from agent.settings import ModelSettings
from agent.sources.video_file import VideoFileSource
from tests.paths import CLIP, COCO_SSD, NETWORKS, REPOSITORY

EACH = 7
"""Every so many frames of the clip: 5 of each picture."""


def frames(shown: str) -> Iterator[Pixels]:
    """Yield some frames of the clip that show a picture."""
    truth = (REPOSITORY / "config/demo/clip.truth.txt").read_text().split()
    # Not OpenCV itself: what another test's stream left in FFmpeg's options would cost it a frame.
    clip = VideoFileSource(CLIP, SystemClock(), is_paced=False, repeat=False, fps=None)
    clip.open()
    seen = 0
    for name in truth:
        capture = clip.read()
        assert capture is not None
        if name == shown:
            seen += 1
            if seen % EACH == 0:
                yield capture.pixels
    clip.close()


def load(path: Path) -> Variant:
    """Load a model as the agent does."""
    return load_model(ModelSettings(name="m", path=path), 1, SystemClock()).variants[0]


def look(model: Variant, pixels: Pixels) -> Any:
    """Take a picture through the whole path."""
    inputs, placement = model.preprocess(pixels)
    return model.decoder.decode(model.engine.run(inputs, model.engine.new_abort()), placement)


def person_in(pixels: Pixels, detector: Variant) -> list[float]:
    """Return the box of the only person, by the default model."""
    (person,) = [one for one in look(detector, pixels)["detections"] if one["label"] == "person"]
    box: list[float] = person["box"]
    return box


@pytest.fixture(scope="module")
def detector() -> Variant:
    """The default model, which knows where the person is."""
    return load(COCO_SSD)


def test_blazeface_finds_the_astronauts_face(detector: Variant) -> None:
    """One face in each frame, sure, in the upper half of the person; eyes, nose and mouth in their order."""
    model = load(NETWORKS / "blazeface_front.onnx")
    for pixels in frames("astronaut"):
        x1, y1, x2, y2 = person_in(pixels, detector)
        (face,) = look(model, pixels)["detections"]
        assert face["label"] == "face"
        assert face["score"] > 0.9
        middle = (face["box"][0] + face["box"][2]) / 2, (face["box"][1] + face["box"][3]) / 2
        assert x1 + 0.25 * (x2 - x1) < middle[0] < x2 - 0.25 * (x2 - x1)
        assert y1 < middle[1] < y1 + 0.5 * (y2 - y1)
        assert 0.15 < (face["box"][2] - face["box"][0]) / (x2 - x1) < 0.5
        points = {point["name"]: point for point in face["keypoints"]}
        # The person's right is the picture's left.
        assert points["right_eye"]["x"] < points["nose"]["x"] < points["left_eye"]["x"]
        eyes_y = (points["right_eye"]["y"] + points["left_eye"]["y"]) / 2
        assert eyes_y < points["nose"]["y"] < points["mouth"]["y"] < face["box"][3]


def test_blazeface_is_not_sure_of_a_cat() -> None:
    """It was trained on people: what it takes for a face elsewhere has 0.63 at most; nothing on an empty frame."""
    model = load(NETWORKS / "blazeface_front.onnx")
    for shown in ("chelsea", "coffee"):
        assert all(one["score"] < 0.75 for pixels in frames(shown) for one in look(model, pixels)["detections"])
    assert not any(look(model, pixels)["detections"] for pixels in frames("none"))


def test_the_selfie_network_cuts_the_astronaut_out(detector: Variant) -> None:
    """Her middle is inside, the upper corners of the frame are not."""
    model = load(NETWORKS / "selfie.onnx")
    for pixels in frames("astronaut"):
        x1, y1, x2, y2 = person_in(pixels, detector)
        (segment,) = look(model, pixels)["segments"]
        assert 0.3 < segment["share"] < 0.5
        rows, columns = segment["mask"]["size"]
        flat = np.concatenate([np.full(n, index % 2) for index, n in enumerate(segment["mask"]["counts"])])
        mask = flat.reshape(columns, rows).T
        height, width = pixels.shape[:2]

        def is_inside(x: float, y: float, mask: Any = mask, size: tuple[int, int] = (width, height)) -> bool:
            return bool(mask[int(y * mask.shape[0] / size[1]), int(x * mask.shape[1] / size[0])])

        assert is_inside((x1 + x2) / 2, (y1 + y2) / 2)
        assert not is_inside(5, 5)
        assert not is_inside(width - 5, 5)
    assert not any(look(model, pixels)["segments"] for pixels in frames("none"))


def test_text_upside_down_is_told_from_upright(tmp_path: Path) -> None:
    """PP-OCR's classifier takes lines at the left of its input, BGR, in -1..1: what a bare file cannot say."""
    file = Path(shutil.copy(NETWORKS / "text_turned.onnx", tmp_path))
    guessed, _ = try_variants(file, 1, SystemClock())
    assert guessed.input is not None
    assert guessed.labels is not None
    size = {"width": 192, "height": 48, "color": "BGR", "resize": "letterbox", "align": "start"}
    stated = guessed.input.model_copy(update={**size, "pad": 127, "mean": (0.5,), "std": (0.5,)})
    labels = guessed.labels.model_copy(update={"names": ("upright", "turned")})
    manifest = guessed.model_copy(update={"input": stated, "labels": labels})
    (tmp_path / "model.toml").write_text(manifest_text(manifest))
    model = load(tmp_path)
    for text in ("a bounded age", "frames 1024", "Ledger adds up"):
        for font in (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_COMPLEX):
            (width, height), below = cv2.getTextSize(text, font, 1.2, 2)
            page = np.full((height + below + 20, width + 20, 3), 235, np.uint8)
            cv2.putText(page, text, (10, height + 10), font, 1.2, (30, 30, 30), 2, cv2.LINE_AA)
            for pixels, label in ((page, "upright"), (np.ascontiguousarray(page[::-1, ::-1]), "turned")):
                best = look(model, pixels)["classes"][0]
                assert (best["label"], best["score"] > 0.9) == (label, True), text
