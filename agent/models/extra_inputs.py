"""Inputs beside the picture: constants such as a sample rate or a threshold, and sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from agent.clock import NS_PER_MS
from agent.errors import ConfigError
from agent.frame import Tensor
from agent.interfaces import Placement, TensorSpec
from agent.models.manifest import Constant

ELEMENTS_MAX = 1 << 24
"""Of one constant: 64 MiB in float32, more than any mask or prompt that is the same for every frame."""


@dataclass(frozen=True, slots=True, eq=False)
class Extra:
    """One input beside the picture.

    Attributes:
        spec: what the model takes.
        constant: the tensor itself, or None for a size.
        kind: which size.
    """

    spec: TensorSpec
    constant: Tensor | None
    kind: str = ""

    def tensor(self, placement: Placement) -> Tensor:
        """Return the input for one frame, in the model's dtype and shape."""
        if self.constant is not None:
            return self.constant
        return self.spec.filled(size_of(self.kind, placement), free=2)


def size_of(kind: str, placement: Placement) -> tuple[int, int]:
    """Return the two numbers that a size of `[sizes]` is for one frame."""
    height, width = placement.source_height, placement.source_width
    if kind.startswith("input"):
        height, width = placement.input_height, placement.input_width
    return (width, height) if kind.endswith("wh") else (height, width)


def build_extras(
    constants: Mapping[str, Constant], sizes: Mapping[str, str], inputs: Sequence[TensorSpec], place: str
) -> list[Extra]:
    """Return the inputs beside the picture, each as the model takes it.

    Args:
        constants: values by name, as in the manifest.
        sizes: which size, by name.
        inputs: of the model; every name is among them.
        place: names the manifest in errors.

    Raises:
        ConfigError: a value or a size does not fit.
    """
    known = {spec.name: spec for spec in inputs}
    return [
        *(_constant(known[name], value, f"{place}: constants.{name}") for name, value in constants.items()),
        *(_size(known[name], kind, f"{place}: sizes.{name}") for name, kind in sizes.items()),
    ]


Stamp = Callable[[int], dict[str, Tensor]]
"""From a capture time to the inputs that hold it."""


def build_stamp(times: Mapping[str, str], inputs: Sequence[TensorSpec], place: str) -> Stamp | None:
    """Return what gives a model the capture time, None for one that does not take it. Arguments as `build_extras`.

    Raises:
        ConfigError: an input that cannot hold it.
    """
    specs = {spec.name: spec for spec in inputs if spec.name in times}
    for name, spec in specs.items():
        if math.prod(spec.closed()) != 1 or spec.dtype not in (np.int64, np.float64):
            raise ConfigError(
                f"{place}: times.{name}: a time is one number in int64 or float64, the model takes {spec}"
            )

    def stamp(captured_at_ns: int) -> dict[str, Tensor]:
        values = {"captured_ns": captured_at_ns, "captured_ms": captured_at_ns / NS_PER_MS}
        return {name: np.full(spec.closed(), values[times[name]]).astype(spec.dtype) for name, spec in specs.items()}

    return stamp if specs else None


def _constant(spec: TensorSpec, value: Constant, where: str) -> Extra:
    count = math.prod(spec.closed())
    values: Sequence[Any] = value if isinstance(value, tuple) else [value]
    if count > ELEMENTS_MAX or len(values) not in (1, count):
        raise ConfigError(f"{where}: {spec} has {count} elements, got {len(values)}: give 1 or as many")
    try:
        return Extra(spec, spec.filled(values))
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"{where}: {value!r} does not fit {spec}: {error}") from error


def _size(spec: TensorSpec, kind: str, where: str) -> Extra:
    if math.prod(spec.closed(2)) != 2 or spec.dtype.kind not in "iuf":
        raise ConfigError(f"{where}: a size is two numbers, {spec} does not take two")
    return Extra(spec, None, kind)
