"""Inputs beside the picture: every dtype, and what does not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from agent.errors import ConfigError
from agent.interfaces import Placement, TensorSpec
from agent.models.extra_inputs import build_extras, build_stamp

PLACE = Placement(1, 1, 0, 0, 64, 32, 640, 480)


def tensor(dtype: Any, shape: tuple[int | None, ...], *, value: Any = None, size: str = "") -> Any:
    """Build an input and return what the model gets."""
    specs = [TensorSpec("x", np.dtype(dtype), shape)]
    given_value = tuple(value) if isinstance(value, list) else value
    (extra,) = build_extras({} if size else {"x": given_value}, {"x": size} if size else {}, specs, "model.toml")
    return extra.tensor(PLACE)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "uint8", "int8", "int32", "int64", "uint64"])
def test_a_number_fills_a_tensor_of_any_dtype(dtype: str) -> None:
    """A scalar such as a sample rate, one a batch, or all elements alike."""
    for shape, wanted in [((), ()), ((None,), (1,)), ((2, None, 3), (2, 1, 3))]:
        made = tensor(dtype, shape, value=16)
        assert (made.dtype, made.shape) == (np.dtype(dtype), wanted)
        assert (made == 16).all()


def test_bools_and_texts() -> None:
    """Text is Python's own: ONNX Runtime reads numpy's bytes as garbage."""
    assert tensor(bool, (1,), value=True).tolist() == [True]
    assert tensor(object, (2,), value=["a", "ö"]).tolist() == ["a", "ö"]
    assert tensor(object, (), value="a").dtype == object


def test_as_many_values_as_elements() -> None:
    """In row-major order."""
    assert tensor("int64", (1, 2, 2), value=[1, 2, 3, 4]).tolist() == [[[1, 2], [3, 4]]]


@pytest.mark.parametrize(
    ("size", "shape", "expected"),
    [
        ("source_hw", (1, 2), [[480, 640]]),
        ("source_wh", (None, 2), [[640, 480]]),
        ("input_hw", (None,), [32, 64]),
    ],
)
def test_sizes_follow_the_frame(size: str, shape: Any, expected: Any) -> None:
    """RT-DETR scales its boxes by the size of the source."""
    for dtype in ("int64", "float32"):
        made = tensor(dtype, shape, size=size)
        assert (made.dtype, made.tolist()) == (np.dtype(dtype), expected)


@pytest.mark.parametrize(
    ("dtype", "shape", "described", "said"),
    [
        ("float32", (3,), {"value": [1, 2]}, "has 3 elements, got 2"),
        ("float32", (1,), {"value": "a"}, "the model takes numbers"),
        ("int64", (1,), {"value": 0.5}, "the model takes whole numbers"),
        ("uint8", (1,), {"value": 300}, "does not fit"),
        (object, (1,), {"value": 1}, "the model takes text"),
        ("float32", (3,), {"size": "source_hw"}, "a size is two numbers"),
        ("float32", (1 << 25,), {"value": 1}, "has 33554432 elements"),
    ],
)
def test_what_does_not_fit_is_refused_at_load(dtype: Any, shape: Any, described: Any, said: str) -> None:
    """With the input as the model has it."""
    with pytest.raises(ConfigError, match=said):
        tensor(dtype, shape, **described)


def test_a_capture_time_is_stamped_on_each_frame() -> None:
    """In milliseconds or nanoseconds, in the model's shape."""
    specs = [TensorSpec("ms", np.dtype(np.float64), (1, 1)), TensorSpec("ns", np.dtype(np.int64), ())]
    stamp = build_stamp({"ms": "captured_ms", "ns": "captured_ns"}, specs, "model.toml")
    assert stamp is not None
    made = stamp(1_500_000)
    assert (made["ms"].tolist(), made["ns"].tolist()) == ([[1.5]], 1_500_000)
    assert build_stamp({}, specs, "model.toml") is None


@pytest.mark.parametrize(("dtype", "shape"), [("float32", (1,)), ("int32", ()), ("int64", (2,))])
def test_a_time_needs_room(dtype: str, shape: tuple[int, ...]) -> None:
    """float32 cannot tell two milliseconds apart after five hours."""
    with pytest.raises(ConfigError, match="a time is one number in int64 or float64, the model takes x"):
        build_stamp({"x": "captured_ms"}, [TensorSpec("x", np.dtype(dtype), shape)], "model.toml")
