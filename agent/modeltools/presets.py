"""Kinds of CPU, and the int8 that each wants. Needs no package of the tools: the doctor of a device asks too."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Preset:
    """How a kind of CPU wants its int8.

    Attributes:
        name: on the command line.
        activations_signed: int8 rather than uint8. Weights are int8 always.
        reduce_range: weights of 7 bits.
        why: one clause for the report.
    """

    name: str
    activations_signed: bool
    reduce_range: bool
    why: str


PRESETS = {
    preset.name: preset
    for preset in (
        # The 16-bit sums of AVX2's vpmaddubsw saturate with weights of 8 bits: COCO-SSD then detects nothing at all.
        Preset("avx2", activations_signed=False, reduce_range=True, why="x86-64 without VNNI: weights of 7 bits"),
        Preset("vnni", activations_signed=False, reduce_range=False, why="x86-64 with VNNI: weights of 8 bits"),
        Preset("arm", activations_signed=True, reduce_range=False, why="ARM64: signed activations"),
    )
}


def preset_of_this_cpu(*, cpuinfo: Path = Path("/proc/cpuinfo"), machine: str | None = None) -> Preset:
    """Return the preset for the CPU that this runs on; an unknown one gets the careful one of AVX2."""
    machine = machine or platform.machine()
    if machine.startswith(("aarch64", "arm")):
        return PRESETS["arm"]
    try:
        flags = set(cpuinfo.read_text(encoding="ascii", errors="replace").split())
    except OSError:
        flags = set()
    return PRESETS["vnni" if flags & {"avx512_vnni", "avx_vnni"} else "avx2"]
