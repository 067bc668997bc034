"""Verifies a model folder on this device: what `edgebeat run` would check at its start, and all of it at once.

Each network is tried in a child process first, as at a start of the agent: one that crashes, hangs or asks for
gigabytes is told as such, and is not loaded here.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from agent.clock import NS_PER_MS, Clock
from agent.engine.memory import MIB
from agent.engine.prepare import Prepared
from agent.engine.session import SessionSetup, runtime_version
from agent.engine.trial import TRIAL_LIMIT_S, Cost, describe
from agent.errors import ConfigError
from agent.loading import Attempt, Recipe, read_model, try_variants
from agent.models.manifest import Manifest
from agent.modeltools.progress import Stage, silent
from agent.modeltools.trials import try_networks


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a model folder is worth here.

    Attributes:
        path: as given.
        threads: of each inference.
        manifest: None when it cannot be read.
        attempts: one a variant, the model itself first.
        costs: memory that each network took in the child process, by file name.
        problems: everything that is wrong; empty when the model may serve.
    """

    path: Path
    threads: int
    manifest: Manifest | None
    attempts: tuple[Attempt, ...]
    costs: Mapping[str, Cost]
    problems: tuple[str, ...]

    @property
    def is_proven(self) -> bool:
        """A golden sample came out right: without one nothing tells a model that detects nothing here."""
        return not self.problems and self.manifest is not None and self.manifest.golden is not None

    def as_json(self) -> dict[str, Any]:
        """Return the verdict for programs."""
        manifest = self.manifest
        return {
            "path": str(self.path),
            "ok": not self.problems,
            "proven": self.is_proven,
            "name": None if manifest is None else manifest.name,
            "version": None if manifest is None else manifest.version,
            "task": None if manifest is None else manifest.task,
            "machine": platform.machine(),
            "onnxruntime": runtime_version(),
            "threads": self.threads,
            "variants": [_variant(attempt, self.costs.get(attempt.file.name)) for attempt in self.attempts],
            "problems": list(self.problems),
        }

    def text(self) -> str:
        """Return the verdict for people; the problems go to standard error on their own."""
        where = f"{platform.machine()}, ONNX Runtime {runtime_version()}, {self.threads} thread(s)"
        if self.manifest is None:
            return f"{self.path}: refused on {where}"
        lines = [f"{self.path}: {self.manifest.name} {self.manifest.version}, {self.manifest.task}; {where}"]
        for attempt in self.attempts:
            if attempt.variant is None:
                lines.append(f"  {attempt.name}: {attempt.file.name}: refused")
            else:
                digest, fastest_ms = attempt.variant.sha256[:12], attempt.variant.fastest_ns / NS_PER_MS
                lines.append(
                    f"  {attempt.name}: {attempt.file.name}, sha256 {digest}..., {fastest_ms:.2f} ms a frame, "
                    f"memory {self.costs[attempt.file.name]}"
                )
        if self.is_proven:
            lines.append("  the golden sample comes out right: this model may serve on this device")
        elif not self.problems:
            lines.append("  it loads and runs, but has no [golden] sample: nothing proves its results on this device")
        return "\n".join(lines)


def verify(
    path: Path,
    threads: int,
    clock: Clock,
    *,
    limit_s: float = TRIAL_LIMIT_S,
    stage: Stage = silent,
    custom_ops: tuple[str, ...] = (),
) -> Verdict:
    """Check manifest, digests, a trial in a child, decoder, labels, warm-up and golden sample of every variant.

    Args:
        path: of a model folder or a network.
        threads: of each inference.
        clock: times the warm-up.
        limit_s: for the trial of one network.
        stage: begins a stage of the progress.
        custom_ops: libraries of operators, which `check_custom_ops` has let pass.
    """
    setup = SessionSetup(threads=threads, custom_ops=custom_ops)
    try:
        advance = stage("reading", 1)
        described = read_model(path, partial(describe, setup=setup))
        advance()
        costs, refused = try_networks(
            *described, threads=threads, limit_s=limit_s, stage=stage, custom_ops=custom_ops
        )
        advance = stage("verifying", 1)
        prepared = {name: Prepared(setup, None, cost) for name, cost in costs.items()}
        manifest, attempts = try_variants(path, threads, clock, Recipe(described, prepared, refused=refused))
        advance()
    except ConfigError as error:
        return Verdict(path, threads, None, (), {}, tuple(error.problems))
    problems = dict.fromkeys(problem for attempt in attempts for problem in attempt.problems)
    return Verdict(path, threads, manifest, tuple(attempts), costs, tuple(problems))


def _variant(attempt: Attempt, cost: Cost | None) -> dict[str, Any]:
    variant = attempt.variant
    return {
        "name": attempt.name,
        "file": attempt.file.name,
        "ok": variant is not None,
        "sha256": None if variant is None else variant.sha256,
        "fastest_ms": None if variant is None else round(variant.fastest_ns / NS_PER_MS, 3),
        "steady_mb": None if cost is None else round(cost.steady_bytes / MIB, 1),
        "peak_mb": None if cost is None else round(cost.peak_bytes / MIB, 1),
        "problems": list(attempt.problems),
    }
