"""`[signal]` in model.toml: a model that takes windows of a signal in the place of a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from agent.errors import PermanentError
from agent.frame import Content, Samples, Tensor
from agent.interfaces import Placement, Preprocess, Signal

if TYPE_CHECKING:
    from agent.models.extra_inputs import Extra, Stamp  # Which needs the manifest, which needs this.

LENGTH_MAX = 1_000_000
"""Samples in a window: a minute of sound at 16 kHz; 4 MB a channel."""


class SignalSpec(BaseModel):
    """How a signal becomes the model's input: windows of `length` samples, one each `hop` samples."""

    model_config = ConfigDict(defer_build=True, extra="forbid", frozen=True, allow_inf_nan=False)

    name: str
    """Name of the model's input."""
    layout: Literal["NTC", "NCT", "NT"]
    """Order of the axes: batch, time, channels. `NT` is for one channel without an axis of its own."""
    rate_hz: float = Field(gt=0, le=1_000_000)
    """Samples a second that the model was trained on. A source of another rate is refused unless its stream asks
    for resampling."""
    length: int = Field(ge=1, le=LENGTH_MAX)
    """New samples in a window."""
    hop: int | None = Field(default=None, ge=1, le=LENGTH_MAX)
    """Samples from one window to the next, 1 to `length`. Default: `length`, windows that do not overlap."""
    context: int = Field(default=0, ge=0, le=LENGTH_MAX)
    """Samples before the new ones that the model sees again, zeros at the start: the input has context + length."""
    channels: tuple[str, ...] = Field(default=("mono",), min_length=1, max_length=256)
    """Names of the channels in the model's order; a source finds them by these, unless its stream names others."""
    units: tuple[str, ...] = ()
    """Units of the values: one, or one a channel, such as `m/s2`, `g`, `rad/s`, `deg/s`. Default: not stated."""
    mean: tuple[float, ...] = (0.0,)
    """Subtracted: one value, or one a channel."""
    std: tuple[float, ...] = (1.0,)
    """Divides after `mean`: one value, or one a channel."""
    normalize: Literal["none", "window"] = "none"
    """`window` gives each channel of each window mean 0 and deviation 1, after `mean` and `std`."""

    @model_validator(mode="after")
    def _fits(self) -> SignalSpec:
        count = len(self.channels)
        for name, values in (("mean", self.mean), ("std", self.std), ("units", self.units)):
            if len(values) not in (1, count) and (values or name != "units"):
                raise PydanticCustomError("channels", f"{name} must have 1 or {count} values")
        if 0.0 in self.std:
            raise PydanticCustomError("channels", "std must not be 0")
        if self.hop is not None and self.hop > self.length:
            raise PydanticCustomError("hop", f"hop {self.hop} would leave samples out: length is {self.length}")
        if self.layout == "NT" and count > 1:
            raise PydanticCustomError("channels", f"layout NT has no place for {count} channels: write NTC or NCT")
        if len(set(self.channels)) < count:
            raise PydanticCustomError("channels", "two channels have the same name")
        return self

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the model's input."""
        samples, channels = self.context + self.length, len(self.channels)
        return {"NTC": (1, samples, channels), "NCT": (1, channels, samples), "NT": (1, samples)}[self.layout]

    def describe(self) -> Signal:
        """Return what a source must know."""
        hop = self.hop or self.length
        return Signal(self.rate_hz, self.channels, self.units, self.length, hop, self.context)


def build_signal_preprocess(spec: SignalSpec, extras: Sequence[Extra] = (), stamp: Stamp | None = None) -> Preprocess:
    """Return the way from a window, float32 [context + length, channels], to the model's inputs.

    Args:
        spec: of the window.
        extras: inputs beside it that are the same for every window.
        stamp: inputs with the window's time.
    """
    mean = np.asarray(spec.mean, np.float32)
    std = np.asarray(spec.std, np.float32)
    samples, channels = spec.context + spec.length, len(spec.channels)
    # Decoders of pictures undo a placement; a window has none, and is as wide as it is long.
    placement = Placement(1.0, 1.0, 0.0, 0.0, samples, 1, samples, 1)

    fixed = {extra.spec.name: extra.tensor(placement) for extra in extras}

    def preprocess(window: Content, captured_at_ns: int = 0) -> tuple[dict[str, Tensor], Placement]:
        if window.dtype != np.float32 or window.shape != (samples, channels):
            shape = list(window.shape)
            raise PermanentError(f"window is {window.dtype}{shape}, wanted float32[{samples}, {channels}]")
        inputs = {spec.name: _to_tensor(_normalized((window - mean) / std, spec), spec), **fixed}
        return (inputs if stamp is None else inputs | stamp(captured_at_ns)), placement

    return preprocess


def _normalized(window: Samples, spec: SignalSpec) -> Samples:
    if spec.normalize == "none":
        return window
    deviation = window.std(axis=0)
    # A channel that stands still has no deviation: it becomes zeros, not NaN.
    return (window - window.mean(axis=0)) / np.where(deviation > 0, deviation, np.float32(1))  # type: ignore[no-any-return]


def _to_tensor(window: Samples, spec: SignalSpec) -> Tensor:
    if spec.layout == "NT":
        return window[None, :, 0]
    return window[None] if spec.layout == "NTC" else np.ascontiguousarray(window.T)[None]
