"""What is said of an int8 network, from figures that are made up."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.models.manifest import load_manifest
from agent.modeltools.fold import Folding
from agent.modeltools.judge import Candidate, Method, judge
from agent.modeltools.material import Material
from agent.modeltools.measure import Accuracy
from agent.modeltools.original import Original
from agent.modeltools.presets import PRESETS, preset_of_this_cpu
from agent.modeltools.report import Report
from agent.modeltools.task import Task
from tests.paths import MODELS

HERE = preset_of_this_cpu()
ELSEWHERE = next(preset for preset in PRESETS.values() if preset != HERE)


def judged(int8_ms: float, fp32_ms: float = 10.0, *, is_for_here: bool = True) -> Report:
    """Return the report on a network that is right and small and takes so long."""
    folder, manifest = load_manifest(MODELS / "tiny")
    file = folder / "model.onnx"
    task = Task(path=folder, calibrate=Path("pictures"), held_out=Path("others"))
    material = Material("pictures", 100, 100, lambda: iter(()), lambda: iter(()), None)
    accuracy = Accuracy("top-1 agreement", 1.0, 100, 100, 0, "100 of 100")
    candidate = Candidate(
        file=file,
        sha256=manifest.model.sha256,
        accuracy=accuracy,
        payloads=[],
        kernels=1.0,
        int8_bytes=250,
        fp32_ms=fp32_ms,
        int8_ms=int8_ms,
        kept_float=(),
    )
    return judge(
        task,
        Original(file, folder, manifest, 1000, (), ()),
        Method(is_dynamic=False, preset=HERE if is_for_here else ELSEWHERE, why="as asked"),
        material,
        Folding(1, 1, 1000, 1000, ()),
        [candidate],
        None,
    )


@pytest.mark.parametrize(
    ("int8_ms", "ratio"), [(10.0, "1.00"), (12.5, "1.25"), (15.0, "1.50")], ids=["as long", "longer", "at the bound"]
)
def test_int8_that_gains_no_time_is_said(int8_ms: float, ratio: str) -> None:
    """Within the bound it passes, and its only gain is named."""
    report = judged(int8_ms)
    assert report.failed == ()
    assert report.notes == (f"int8 is not faster here: {ratio} of fp32's time; only its size is gained",)
    assert report.notes[0] in report.text()


def test_int8_that_is_faster_needs_no_note() -> None:
    """However little."""
    assert judged(9.99).notes == ()


def test_int8_that_is_too_slow_fails_where_it_is_for_this_cpu() -> None:
    """For another CPU the time here is told, and judges nothing."""
    (failed,) = judged(15.1).failed
    assert failed == "int8 takes 1.51 of fp32's time, the bound is 1.5"
    other = judged(15.1, is_for_here=False)
    assert (other.failed, other.latency_max) == ((), None)
    slower, elsewhere = other.notes
    assert slower.startswith("int8 is not faster here: 1.51")
    assert elsewhere == f"preset {ELSEWHERE.name} is for another CPU than this one: measure again there"
