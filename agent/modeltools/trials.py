"""Tries the networks of a model in a child process, as the agent does at its start, before a tool loads one."""

from __future__ import annotations

from pathlib import Path

from agent.engine.memory import memory_limit, trial_bytes
from agent.engine.session import SessionSetup, verified_sha256
from agent.engine.trial import TRIAL_LIMIT_S, Cost, TensorShape, Trial, measure
from agent.errors import ConfigError
from agent.fitting import extras_of, fed_shape
from agent.models.manifest import Manifest, ModelFile, variants_of
from agent.modeltools.progress import Stage, silent


def try_networks(
    folder: Path,
    manifest: Manifest,
    *,
    threads: int = 1,
    limit_s: float = TRIAL_LIMIT_S,
    stage: Stage = silent,
    custom_ops: tuple[str, ...] = (),
) -> tuple[dict[str, Cost], dict[str, tuple[str, ...]]]:
    """Run each network of a model in a child process within limits of memory and time.

    Args:
        folder: of the model.
        manifest: that says what its networks take.
        threads: of each inference.
        limit_s: for one network.
        stage: begins a stage of the progress.
        custom_ops: libraries of operators, which `check_custom_ops` has let pass.

    Returns:
        What each takes, and why others must not be loaded, both by file name.
    """
    shapes: dict[str, list[TensorShape]] = {}
    files: dict[str, ModelFile] = {}
    for _, own in variants_of(manifest):
        shapes.setdefault(own.model.path, []).append(fed_shape(folder, own))
        files.setdefault(own.model.path, own.model)
    limit_bytes = trial_bytes(memory_limit(None))
    costs, refused = {}, {}
    advance = stage("trying", len(files))
    for name, stated in files.items():
        setup = SessionSetup(threads=threads, custom_ops=custom_ops)
        trial = Trial(folder / name, setup, tuple(shapes[name]), stated.external_data, extras=extras_of(manifest))
        try:
            verified_sha256(trial.file, stated.sha256)
            costs[name] = measure(trial, limit_bytes=limit_bytes, limit_s=limit_s)
        except ConfigError as error:
            refused[name] = tuple(error.problems)
        advance()
    return costs, refused
