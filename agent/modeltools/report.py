"""What a quantisation came to, for programs and for people."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from agent.modeltools.fold import Folding
from agent.modeltools.layer_error import LayerError
from agent.modeltools.measure import Accuracy

LAYERS_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Try:
    """One int8 network that was made and measured.

    Attributes:
        kept_float: names of the layers that stayed in float.
        accuracy: against fp32.
        int8_bytes: its size.
        latency_ratio: its median over fp32's.
    """

    kept_float: tuple[str, ...]
    accuracy: float
    int8_bytes: int
    latency_ratio: float


@dataclass(frozen=True, slots=True)
class Report:
    """What came of it; every ratio is int8 over fp32.

    Attributes:
        method: `static` or `dynamic`, and why.
        held: `pictures` or `windows`: what was compared.
        kernels: None for dynamic quantisation, whose network has no float form to compare with.
        tries: every network that was made, the last one is judged.
        layers: error of each layer of the first network, the worst first; None where nobody needed it.
        failed: each bound that does not hold, with figures; empty when the folder was written.
        notes: what a person should know beside the figures.
    """

    model: str
    task: str
    method: str
    method_why: str
    preset: str
    preset_why: str
    held: str
    calibration_pictures: int
    folding: Folding
    accuracy: Accuracy
    accuracy_min: float
    kernels: float | None
    kernels_min: float
    fp32_bytes: int
    int8_bytes: int
    size_ratio: float
    size_max: float
    fp32_ms: float
    int8_ms: float
    latency_ratio: float
    latency_max: float | None
    tries: tuple[Try, ...]
    layers: tuple[LayerError, ...] | None
    failed: tuple[str, ...]
    notes: tuple[str, ...]
    output: str | None

    @property
    def kept_float(self) -> tuple[str, ...]:
        """Names of the layers that stayed in float."""
        return self.tries[-1].kept_float

    @property
    def evidence(self) -> str:
        """What it was calibrated and judged with, for people."""
        if not self.calibration_pictures:
            return f"judged by {self.accuracy.pictures} {self.held}"
        return f"calibrated with {self.calibration_pictures} {self.held}, judged by {self.accuracy.pictures} others"

    def as_json(self) -> dict[str, Any]:
        """Return it for programs."""
        return {**asdict(self), "kept_float": list(self.kept_float)}

    def text(self) -> str:
        """Return it for people."""
        accuracy = self.accuracy
        latency_bound = "not judged" if self.latency_max is None else f"<= {self.latency_max:g}"
        return "\n".join(
            [
                f"{self.model}: {self.task}, {self.method} ({self.method_why}), preset {self.preset} "
                f"({self.preset_why}), {self.evidence}",
                f"  folded    {self._folded()}",
                f"  accuracy  {accuracy.metric} {accuracy.value:.4f}  (>= {self.accuracy_min:g}); {accuracy.detail}",
                f"  kernels   {self._kernels()}",
                f"  size      {self.fp32_bytes} -> {self.int8_bytes} bytes, {self.size_ratio:.3f}  "
                f"(<= {self.size_max:g})",
                f"  latency   {self.fp32_ms:.2f} -> {self.int8_ms:.2f} ms, {self.latency_ratio:.2f}  "
                f"({latency_bound}); 1 thread, medians in turns",
                *self._kept(),
                *(f"  note      {note}" for note in self.notes),
                *(f"  FAILED    {failure}" for failure in self.failed),
                f"wrote {self.output}" if self.output else "nothing was written: keep fp32",
            ]
        )

    def layers_text(self) -> str:
        """Return a table of the layers' errors, the worst first."""
        layers = self.layers or ()
        kept = set(self.kept_float)
        lines = ["layer errors, SQNR in dB (6 dB are one bit): alone, and with all before it", "  alone   whole"]
        lines += [
            f"{layer.own_db:7.1f} {layer.total_db:7.1f}  {layer.operator:<8} {layer.name}"
            + ("  (in float)" if layer.name in kept else "")
            for layer in layers[:LAYERS_SHOWN]
        ]
        more = len(layers) - LAYERS_SHOWN
        return "\n".join(
            [*lines, *([f"  and {more} layers that are better: --json has them all"] if more > 0 else [])]
        )

    def _folded(self) -> str:
        folding = self.folding
        gone = ", ".join(folding.outputs_removed) or "none"
        return (
            f"{folding.nodes_before} -> {folding.nodes_after} nodes, {folding.bytes_before} -> {folding.bytes_after} "
            f"bytes before quantising; outputs that nobody reads: {gone}"
        )

    def _kernels(self) -> str:
        if self.kernels is None:
            return "not judged: a dynamic network has no float form to compare with"
        return f"cosine {self.kernels:.4f}  (>= {self.kernels_min:g}) with the same network in float arithmetic"

    def _kept(self) -> list[str]:
        if len(self.tries) < 2:
            return []
        first, last = self.tries[0], self.tries[-1]
        lines = [
            f"  try {number:<5} {len(one.kept_float)} layer(s) in float: accuracy {one.accuracy:.4f}, "
            f"{one.int8_bytes} bytes, latency {one.latency_ratio:.2f}"
            for number, one in enumerate(self.tries, start=1)
        ]
        lines.append(
            f"  in float  {', '.join(last.kept_float)}: {last.int8_bytes - first.int8_bytes:+d} bytes, latency "
            f"{first.latency_ratio:.2f} -> {last.latency_ratio:.2f}"
        )
        return lines
