"""What `model quantize` was asked for, and its stated bounds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from agent.modeltools.measure import KERNELS_MIN
from agent.modeltools.presets import Preset

SIZE_MAX = 0.6
"""Default: int8 is about 0.25 to 0.3 of fp32; above 0.6 most of the network stayed in float."""

LATENCY_MAX = 1.5
"""Default: a smaller model may be worth some time, half as much again is not."""

KEEP_FLOAT_MAX = 8
"""Default: layers that may stay in float, in four tries of 1, 2, 4 and 8. Where more are sensitive, int8 is not for
that network."""


@dataclass(frozen=True, slots=True)
class Task:
    """What was asked for.

    Attributes:
        path: a model folder, or an .onnx file.
        calibrate: pictures (a folder or a clip) or recordings (a folder or a file).
        held_out: the same, to measure with; None to take half of `calibrate`.
        method: `auto` is dynamic for networks that remember.
        preset: None for the one of this CPU.
        output: folder to write; None for the model's name with `-int8` beside it.
        pictures_max: of both sets together.
        keep_float_max: layers that may stay in float when the accuracy asks for it; 0 for none.
        is_per_layer: whether to report each layer's error.
        accuracy_min: None for the task's default.
        kernels_min: cosine of int8 as this CPU computes it with the same network in float arithmetic.
        size_max: int8's bytes over fp32's.
        latency_max: int8's median over fp32's.
    """

    path: Path
    calibrate: Path
    held_out: Path | None = None
    method: Literal["auto", "static", "dynamic"] = "auto"
    preset: Preset | None = None
    output: Path | None = None
    pictures_max: int = 200
    keep_float_max: int = KEEP_FLOAT_MAX
    is_per_layer: bool = False
    accuracy_min: float | None = None
    kernels_min: float = KERNELS_MIN
    size_max: float = SIZE_MAX
    latency_max: float = LATENCY_MAX

    @property
    def target(self) -> Path:
        """The folder that is written."""
        base = (self.path if self.path.is_dir() else self.path.with_suffix("")).resolve()
        return self.output or base.with_name(f"{base.name}-int8")
