"""From a frame to a model's input, against plain numpy."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from agent.errors import PermanentError
from agent.interfaces import TensorSpec
from agent.models.extra_inputs import build_stamp
from agent.models.manifest import InputSpec
from agent.models.preprocess import build_preprocess


def spec(**changes: Any) -> InputSpec:
    """Build an input description."""
    values = {"name": "x", "layout": "NCHW", "dtype": "float32", "width": 32, "height": 24}
    return InputSpec.model_validate(values | changes)


def picture(height: int, width: int) -> np.ndarray[Any, Any]:
    """Return a random BGR picture."""
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("color", ["RGB", "BGR"])
def test_float_input_is_scaled_and_normalised(layout: str, color: str) -> None:
    """(pixel * scale - mean) / std, channel by channel, in the order of the colour."""
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    pixels = picture(24, 32)
    inputs, _ = build_preprocess(spec(layout=layout, color=color, mean=mean, std=std))(pixels)
    ordered = pixels[..., ::-1] if color == "RGB" else pixels
    expected = (ordered.astype(np.float64) / 255 - mean) / std
    expected = expected[None] if layout == "NHWC" else expected.transpose(2, 0, 1)[None]
    assert inputs["x"].dtype == np.float32
    np.testing.assert_allclose(inputs["x"], expected, atol=1e-6)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_uint8_input_keeps_the_pixels(layout: str) -> None:
    """Nothing is scaled; only colour and axes move."""
    pixels = picture(24, 32)
    inputs, _ = build_preprocess(spec(dtype="uint8", layout=layout))(pixels)
    expected = pixels[..., ::-1]
    np.testing.assert_array_equal(inputs["x"][0], expected if layout == "NHWC" else expected.transpose(2, 0, 1))


def test_grey_frames_and_grey_models() -> None:
    """A grey frame feeds a colour model and the other way round."""
    grey = picture(24, 32)[..., 0]
    colour, _ = build_preprocess(spec(dtype="uint8", layout="NHWC"))(grey)
    np.testing.assert_array_equal(colour["x"][0], np.repeat(grey[..., None], 3, axis=2))
    single, _ = build_preprocess(spec(dtype="uint8", layout="NCHW", color="GRAY"))(picture(24, 32))
    assert single["x"].shape == (1, 1, 24, 32)
    np.testing.assert_array_equal(single["x"][0, 0], cv2.cvtColor(picture(24, 32), cv2.COLOR_BGR2GRAY))
    planes, _ = build_preprocess(spec(color="GRAY", layout="NHWC"))(grey)
    np.testing.assert_allclose(planes["x"][0, ..., 0], grey / 255, atol=1e-6)


@pytest.mark.parametrize("align", ["center", "start"])
@pytest.mark.parametrize(("height", "width"), [(48, 48), (100, 40), (24, 32), (96, 500)])
@pytest.mark.parametrize("resize", ["letterbox", "stretch"])
def test_placement_undoes_the_fit(height: int, width: int, resize: str, align: str) -> None:
    """A white part of a black frame lies in the input where the placement says, and the padding around the frame."""
    x1, y1, x2, y2 = width // 8, height // 4, width // 2, height - height // 8
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[y1:y2, x1:x2] = 255
    inputs, place = build_preprocess(spec(resize=resize, align=align, dtype="uint8", layout="NHWC"))(pixels)
    taken = inputs["x"][0, ..., 0].astype(np.float64)
    # The padding is the one thing that is grey all over.
    rows = np.flatnonzero(~(taken == 114).all(axis=1))
    columns = np.flatnonzero(~(taken == 114).all(axis=0))
    whole = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    inner = np.where(taken == 114, 0, taken) / 255
    (left, right), (top, bottom) = edges(inner.max(axis=0)), edges(inner.max(axis=1))
    part = [left, top, right, bottom]
    offsets, scales = [place.offset_x, place.offset_y] * 2, [place.scale_x, place.scale_y] * 2
    undone = [[(v - o) / s for v, o, s in zip(box, offsets, scales, strict=True)] for box in (whole, part)]
    assert undone[0] == pytest.approx([0, 0, width, height])
    # An edge is found within half a cell of the input.
    for got, wanted, scale in zip(undone[1], (x1, y1, x2, y2), scales, strict=True):
        assert abs(got - wanted) * scale <= 0.5
    if resize == "letterbox":
        ratio = min(32 / width, 24 / height)
        assert place.scale_x == pytest.approx(ratio, abs=0.5 / width)
        assert place.scale_y == pytest.approx(ratio, abs=0.5 / height)
        spare = (32 - whole[2] + whole[0], 24 - whole[3] + whole[1])
        assert whole[:2] == ([0, 0] if align == "start" else [side // 2 for side in spare])
    else:
        assert whole == [0, 0, 32, 24]


def edges(line: Any) -> tuple[int, int]:
    """Return where a line of shares becomes white, and where it ends."""
    white = np.flatnonzero(line > 0.5)
    return int(white[0]), int(white[-1]) + 1


@pytest.mark.parametrize(
    "frame",
    [
        np.empty((0, 4, 3), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4,), np.uint8),
        np.broadcast_to(np.uint8(0), (20_000, 20_000, 3)),
    ],
    ids=["no pixels", "four channels", "floats", "one dimension", "400 megapixels"],
)
def test_an_unusable_frame_is_refused(frame: np.ndarray[Any, Any]) -> None:
    """Its size, dtype or shape is named; nothing is allocated for a huge one."""
    with pytest.raises(PermanentError, match="frame"):
        build_preprocess(spec())(frame)


def test_the_frame_is_not_changed() -> None:
    """Pixels belong to the frame: a picture may still be drawn from them."""
    pixels = picture(24, 32)
    before = pixels.copy()
    build_preprocess(spec(dtype="uint8", layout="NHWC", color="BGR"))(pixels)
    np.testing.assert_array_equal(pixels, before)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize(
    ("dtype", "more", "expected"),
    [
        ("float16", {}, lambda x: x / 255),
        ("float64", {"mean": (0.5,)}, lambda x: x / 255 - 0.5),
        ("int8", {"mean": (128.0,)}, lambda x: x - 128.0),
        ("int8", {}, lambda x: np.minimum(x, 127)),
        ("int16", {"scale": 3}, lambda x: x * 3),
        ("int32", {}, lambda x: x),
        ("int64", {"scale": -1}, lambda x: -x),
        ("bool", {}, lambda x: x > 127),
    ],
)
def test_every_element_type(layout: str, dtype: str, more: dict[str, Any], expected: Any) -> None:
    """Whole numbers are rounded and held in their range; their pixels are not scaled unless that is asked for."""
    pixels = picture(24, 32)
    inputs, _ = build_preprocess(spec(dtype=dtype, layout=layout, **more))(pixels)
    wanted = expected(pixels[..., ::-1].astype(np.float64))
    wanted = wanted[None] if layout == "NHWC" else wanted.transpose(2, 0, 1)[None]
    assert inputs["x"].dtype == np.dtype(dtype)
    assert inputs["x"].flags.c_contiguous
    np.testing.assert_allclose(inputs["x"].astype(np.float64), wanted, atol=1e-3)


def test_a_picture_may_lie_at_the_start() -> None:
    """YOLOX and text recognition pad at the right and below."""
    inputs, place = build_preprocess(spec(resize="letterbox", align="start", dtype="uint8", layout="NHWC"))(
        np.full((24, 16, 3), 7, np.uint8)
    )
    assert (place.offset_x, place.offset_y) == (0, 0)
    assert (inputs["x"][0, :, :16] == 7).all()
    assert (inputs["x"][0, :, 16:] == 114).all()


def test_the_capture_time_goes_along() -> None:
    """Beside the picture, for models that take it."""
    stamp = build_stamp({"t": "captured_ms"}, [TensorSpec("t", np.dtype(np.int64), (1,))], "model.toml")
    inputs, _ = build_preprocess(spec(), [], stamp)(picture(24, 32), 7_000_000)
    assert inputs["t"].tolist() == [7]
