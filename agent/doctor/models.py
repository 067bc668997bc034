"""The models: whether they may serve on this device, and what they take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agent.doctor.finding import Device, Finding, advice, ok, problem


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of a model in a process of its own.

    Attributes:
        text: one line, what it is and how fast.
        problems: why it is refused.
        rss_max_mb: the largest resident memory of that process.
    """

    text: str
    problems: tuple[str, ...]
    rss_max_mb: int


Try = Callable[[Path], Trial]


def models(try_model: Try) -> Callable[[Device], list[Finding]]:
    """Return the check of every model in the settings.

    Args:
        try_model: loads it, warms it and compares its golden sample.
    """

    def check(device: Device) -> list[Finding]:
        if device.settings is None:
            return []
        found = []
        limit_mb = device.settings.limits.memory_mb
        for model in device.settings.models:
            trial = try_model(model.path)
            if trial.problems:
                advised = (
                    "edgebeat model verify says it all; a new model, or another preset of edgebeat model quantize"
                )
                found.append(problem("model", f"{model.name}: {trial.problems[0]}", advised))
                continue
            text = f"{model.name}: {trial.text}, {trial.rss_max_mb} MiB at most while it loads"
            if limit_mb is not None and trial.rss_max_mb > limit_mb:
                advised = "raise limits.memory_mb, or use a smaller model"
                found.append(advice("model", f"{text}, limits.memory_mb is {limit_mb}", advised))
            else:
                found.append(ok("model", text))
        return found

    return check
