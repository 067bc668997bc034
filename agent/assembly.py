"""Settings become models, sources and policies."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.clock import NS_PER_MS, NS_PER_S, Clock
from agent.core.degradation import Ladder, LadderPolicy, Step, StepKind
from agent.core.predictor import PredictorPolicy
from agent.core.scheduler import Overflow, SchedulerPolicy, StreamPolicy
from agent.engine.cpus import allowed_cpus
from agent.errors import ConfigError
from agent.interfaces import LoadedModel, Source
from agent.loading import load_model
from agent.marks import HANGS_MAX, Marks
from agent.models.manifest import load_manifest
from agent.settings import DegradationSettings, ModelSettings, Settings, StreamSettings

log = logging.getLogger(__name__)

SOURCES = {
    "camera": "agent.sources.camera:CameraSource",
    "network": "agent.sources.network:NetworkSource",
    "video_file": "agent.sources.video_file:VideoFileSource",
}

QUEUE_FRAMES_EVERY_FRAME = 4
"""Enough that decoding and inference overlap: 4 frames of 1080p are 25 MB."""


def used_models(settings: Settings) -> list[ModelSettings]:
    """Return the models that a stream uses."""
    used = {stream.model for stream in settings.streams}
    return [model for model in settings.models if model.name in used]


def load_models(
    wanted: Sequence[ModelSettings], threads: int, marks: Marks, clock: Clock, *, must_all_load: bool
) -> tuple[dict[str, LoadedModel], dict[str, dict[str, Any]]]:
    """Load models, but for those that hung too often.

    Args:
        wanted: the models.
        threads: of one run.
        marks: of those that hung.
        clock: times the warm-up.
        must_all_load: whether one that cannot be loaded ends the agent, as at a first start. A run that replaces a
            hung one goes on without: what the device can still do must not end with what it cannot.

    Returns:
        The models by name, and for each that is left out what health says of it.

    Raises:
        ConfigError: with every problem of every model.
    """
    models: dict[str, LoadedModel] = {}
    left_out: dict[str, dict[str, Any]] = {}
    problems: list[str] = []
    for model in wanted:
        try:
            _, manifest = load_manifest(model.path)
            hangs = marks.hangs(manifest.digests(), clock.wall_ns())
            if hangs >= HANGS_MAX:
                log.error(
                    "%s: hung %d times and is not loaded: replace its network, or remove %s",
                    model.name,
                    hangs,
                    marks.file,
                )
                left_out[model.name] = {"marked": {"hangs": hangs, "file": str(marks.file)}}
                continue
            models[model.name] = load_model(model, threads, clock)
        except ConfigError as error:
            problems += error.problems
            left_out[model.name] = {"failed": error.problems[:10]}
    if problems and must_all_load:
        raise ConfigError(problems)
    for problem in problems:
        log.error("left out: %s", problem)
    log.info("models warm and verified: %s; %d inference threads each", ", ".join(models) or "none", threads)
    return models, left_out


def run_threads(settings: Settings) -> int:
    """Return the threads of one inference: all CPUs divided evenly among the models, at least 1."""
    return max(1, inference_cpus(settings) // max(1, len(used_models(settings))))


def inference_cpus(settings: Settings) -> int:
    """Return the CPUs of all inferences together; a change of settings asks several times."""
    asked = settings.limits.threads
    return allowed_cpus() if asked is None else min(asked, allowed_cpus())


def scheduler_policy(settings: Settings) -> SchedulerPolicy:
    """Return what holds for all streams and sessions."""
    scheduler, cpus = settings.scheduler, inference_cpus(settings)
    return SchedulerPolicy(
        threads=cpus,
        run_threads=run_threads(settings),
        min_share=scheduler.min_share,
        predictor=PredictorPolicy(
            confidence=scheduler.confidence,
            window_ns=int(scheduler.window_s * NS_PER_S),
            probe_share=scheduler.probe_share,
            probe_interval_ns=int(scheduler.probe_interval_s * NS_PER_S),
        ),
    )


def build_ladder(
    settings: DegradationSettings, streams: Sequence[StreamSettings], models: Mapping[str, LoadedModel]
) -> Ladder:
    """Return the steps that these streams and models have, in the order that the settings say."""
    steps: list[Step] = []
    highest = max((stream.priority for stream in streams), default=0)
    for kind in settings.steps:
        if kind == "stride" and any(stream.mode == "live" for stream in streams):
            steps += [Step(StepKind.STRIDE, "", stride, f"stride {stride}") for stride in (2, 3)]
        elif kind == "variant":
            steps += [
                Step(StepKind.VARIANT, name, index, f"{name}: {variant.name}")
                for name, model in models.items()
                for index, variant in enumerate(model.variants)
                if index > 0
            ]
        elif kind == "stream":
            # A paused file would be read to its end for nothing.
            lower = [stream for stream in streams if stream.priority < highest and stream.mode == "live"]
            lower.sort(key=lambda stream: stream.priority)
            steps += [Step(StepKind.STREAM, stream.name, 0, f"{stream.name} paused") for stream in lower]
    policy = LadderPolicy(
        misses_max=settings.misses_max,
        cpu_pressure_max=settings.cpu_pressure_max,
        memory_pressure_max=settings.memory_pressure_max,
        frequency_ratio_min=settings.frequency_ratio_min,
        worse_after_ns=int(settings.worse_after_s * NS_PER_S),
        better_after_ns=int(settings.better_after_s * NS_PER_S),
    )
    return Ladder(steps, policy)


def build_source(stream: StreamSettings, clock: Clock) -> Source:
    """Return the source that a stream names.

    Raises:
        ConfigError: nothing that we know, or a file that is not there.
    """
    text = stream.source
    if text.isdigit() or text.startswith("/dev/"):
        camera: Source = _load(SOURCES["camera"])(
            text, clock, width=stream.width, height=stream.height, fps=stream.fps
        )
        return camera
    if text.partition("://")[0] in ("rtsp", "rtsps", "http", "https"):
        network: Source = _load(SOURCES["network"])(text, clock)
        return network
    file = Path(text)
    if not file.is_file():
        raise ConfigError(
            f"streams.{stream.name}: source {text!r} is no file (looked in {Path.cwd()}), and neither /dev/video*, "
            "a camera's number, rtsp:// nor http://"
        )
    video: Source = _load(SOURCES["video_file"])(
        file, clock, is_paced=stream.mode == "live", repeat=stream.repeat, fps=stream.fps
    )
    return video


def stream_policy(stream: StreamSettings) -> StreamPolicy:
    """Return how the scheduler treats a stream."""
    is_live = stream.mode == "live"
    queue_frames = stream.queue_frames or (1 if is_live else QUEUE_FRAMES_EVERY_FRAME)
    overflow = Overflow.BLOCK
    if is_live:
        overflow = Overflow.SUPERSEDE if queue_frames == 1 else Overflow.DROP_OLDEST
    return StreamPolicy(
        budget_ns=None if stream.budget_ms is None else int(stream.budget_ms * NS_PER_MS),
        queue_frames=queue_frames,
        overflow=overflow,
        late_is_published=stream.on_late == "mark",
        session=stream.model,
        priority=stream.priority,
        max_hz=stream.max_fps,
        stride=stream.stride,
    )


def _load(reference: str) -> Any:
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)
