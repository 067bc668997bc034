"""What a quantisation came to, for programs and for people."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from agent.modeltools.measure import Accuracy


@dataclass(frozen=True, slots=True)
class Report:
    """What came of it; every ratio is int8 over fp32.

    Attributes:
        failed: each bound that does not hold, with figures; empty when the folder was written.
        notes: what a person should know beside the figures.
    """

    model: str
    task: str
    preset: str
    preset_why: str
    calibration_pictures: int
    accuracy: Accuracy
    accuracy_min: float
    kernels: float
    kernels_min: float
    fp32_bytes: int
    int8_bytes: int
    size_ratio: float
    size_max: float
    fp32_ms: float
    int8_ms: float
    latency_ratio: float
    latency_max: float | None
    failed: tuple[str, ...]
    notes: tuple[str, ...]
    output: str | None

    def as_json(self) -> dict[str, Any]:
        """Return it for programs."""
        return asdict(self)

    def text(self) -> str:
        """Return it for people."""
        accuracy = self.accuracy
        latency_bound = "not judged" if self.latency_max is None else f"<= {self.latency_max:g}"
        return "\n".join(
            [
                f"{self.model}: {self.task}, preset {self.preset} ({self.preset_why}), "
                f"calibrated with {self.calibration_pictures} pictures, judged by {accuracy.pictures} others",
                f"  accuracy  {accuracy.metric} {accuracy.value:.4f}  (>= {self.accuracy_min:g}); {accuracy.detail}",
                f"  kernels   cosine {self.kernels:.4f}  (>= {self.kernels_min:g}) with the same network in float "
                "arithmetic",
                f"  size      {self.fp32_bytes} -> {self.int8_bytes} bytes, {self.size_ratio:.3f}  "
                f"(<= {self.size_max:g})",
                f"  latency   {self.fp32_ms:.2f} -> {self.int8_ms:.2f} ms, {self.latency_ratio:.2f}  "
                f"({latency_bound}); 1 thread, medians in turns",
                *(f"  note      {note}" for note in self.notes),
                *(f"  FAILED    {failure}" for failure in self.failed),
                f"wrote {self.output}" if self.output else "nothing was written: keep fp32",
            ]
        )
