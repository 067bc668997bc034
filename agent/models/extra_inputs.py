"""Inputs beside the picture: constants such as a sample rate or a threshold, and sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from agent.errors import ConfigError
from agent.frame import Tensor
from agent.interfaces import Placement, TensorSpec
from agent.models.manifest import ExtraInput

ELEMENTS_MAX = 1 << 24
"""Of one constant: 64 MiB in float32, more than any mask or prompt that is the same for every frame."""


@dataclass(frozen=True, slots=True, eq=False)
class Extra:
    """One input beside the picture.

    Attributes:
        name: of the model's input.
        constant: the tensor itself, or None for a size.
        spec: what the model takes.
        kind: which size.
        is_width_first: its order.
    """

    name: str
    constant: Tensor | None
    spec: TensorSpec
    kind: str
    is_width_first: bool

    def tensor(self, placement: Placement) -> Tensor:
        """Return the input for one frame, in the model's dtype and shape."""
        if self.constant is not None:
            return self.constant
        size = [placement.source_height, placement.source_width]
        if self.kind == "input_size":
            size = [placement.input_height, placement.input_width]
        values = np.array(size[::-1] if self.is_width_first else size, self.spec.dtype)
        return values.reshape(_closed(self.spec, 2))


def build_extra(described: ExtraInput, inputs: Sequence[TensorSpec], place: str) -> Extra:
    """Return an input that fits what the model takes.

    Args:
        described: in the manifest.
        inputs: of the model; one has the name.
        place: names the manifest in errors.

    Raises:
        ConfigError: the value or the size does not fit.
    """
    spec = next(known for known in inputs if known.name == described.name)
    where = f"{place}: [[extra_inputs]] {spec}"
    is_width_first = described.order == "wh"
    if described.value is None:
        if math.prod(_closed(spec, 2)) != 2 or spec.dtype.kind not in "iuf":
            raise ConfigError(f"{where}: a size is two numbers, this input does not take two")
        return Extra(spec.name, None, spec, described.kind, is_width_first)
    shape = _closed(spec, 1)
    count = math.prod(shape)
    values: Sequence[Any] = described.value if isinstance(described.value, tuple) else [described.value]
    if count > ELEMENTS_MAX or len(values) not in (1, count):
        raise ConfigError(f"{where}: has {count} elements, value has {len(values)}: give 1 or as many")
    try:
        constant = _filled(values, spec.dtype, shape)
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"{where}: value {described.value!r} does not fit: {error}") from error
    return Extra(spec.name, constant, spec, described.kind, is_width_first)


def _filled(values: Sequence[Any], dtype: np.dtype[Any], shape: Sequence[int]) -> Tensor:
    if dtype.hasobject:
        if not all(isinstance(value, str) for value in values):
            raise TypeError("the model takes text")
    elif not all(isinstance(value, int | float) for value in values):
        raise TypeError("the model takes numbers")
    elif dtype.kind in "iu" and any(float(value) != int(value) for value in values):
        raise ValueError("the model takes whole numbers")
    return np.full(shape, values[0], dtype) if len(values) == 1 else np.array(values, dtype).reshape(shape)


def _closed(spec: TensorSpec, free: int) -> list[int]:
    """Return the shape with 1 for open dimensions, but `free` for the last of them."""
    shape = [1 if size is None else size for size in spec.shape]
    if spec.shape and spec.shape[-1] is None:
        shape[-1] = free
    return shape
