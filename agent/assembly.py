"""Settings become models, sources and policies."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from agent.clock import NS_PER_MS, NS_PER_S, Clock
from agent.core.degradation import Ladder, LadderPolicy, Step, StepKind
from agent.core.policy import Overflow, SchedulerPolicy, StreamPolicy
from agent.core.predictor import PredictorPolicy
from agent.errors import ConfigError
from agent.interfaces import LoadedModel
from agent.loading import digests, load_model
from agent.marks import HANGS_MAX, Marks
from agent.provision import Provision
from agent.settings import DegradationSettings, ModelSettings, Settings, StreamSettings

log = logging.getLogger(__name__)

QUEUE_FRAMES_EVERY_FRAME = 4
"""Enough that decoding and inference overlap: 4 frames of 1080p are 25 MB."""

QUEUE_FRAMES_STATEFUL = 8
"""A quarter of a second at 32 ms a window: a short stall loses none, so that the state goes on."""


def used_models(settings: Settings) -> list[ModelSettings]:
    """Return the models that a stream uses."""
    used = {stream.model for stream in settings.streams}
    return [model for model in settings.models if model.name in used]


def load_models(
    wanted: Sequence[ModelSettings], provision: Provision, marks: Marks, clock: Clock, *, must_all_load: bool
) -> tuple[dict[str, LoadedModel], dict[str, dict[str, Any]]]:
    """Load models, but for those that hung too often.

    Args:
        wanted: the models.
        provision: what they may take; every network is tried in a child process before any is loaded.
        marks: of those that hung.
        clock: times the warm-up.
        must_all_load: whether one that cannot be loaded ends the agent, as at a first start. A run that replaces a
            hung one goes on without: what the device can still do must not end with what it cannot.

    Returns:
        The models by name, and for each that is left out what health says of it.

    Raises:
        ConfigError: with every problem of every model.
    """
    surveyed: list[ModelSettings] = []
    models: dict[str, LoadedModel] = {}
    left_out: dict[str, dict[str, Any]] = {}
    errors: list[ConfigError] = []

    def refuse(model: ModelSettings, error: ConfigError) -> None:
        errors.append(error)
        left_out[model.name] = {"failed": error.problems[:10]}

    for model in wanted:
        try:
            hangs = marks.hangs(digests(model.path), clock.wall_ns())
            if hangs >= HANGS_MAX:
                log.error(
                    "%s: hung %d times and is not loaded: replace its network, or remove %s",
                    model.name,
                    hangs,
                    marks.file,
                )
                left_out[model.name] = {"marked": {"hangs": hangs, "file": str(marks.file)}}
                continue
            provision.survey(model)
            surveyed.append(model)
        except ConfigError as error:
            refuse(model, error)
    # Streams that come must fit as well, where no model comes with them.
    if surveyed or provision.served():
        provision.fit(must_fit=must_all_load)
    for model in surveyed:
        try:
            models[model.name] = load_model(
                model, provision.threads_of(model.name), clock, provision.recipe(model.name)
            )
        except ConfigError as error:
            refuse(model, error)
    if errors and must_all_load:
        models.clear()
        provision.renew_arena()  # What was loaded in vain would stay there until the next load.
        raise ConfigError.joined(errors)
    for problem in ConfigError.joined(errors).problems:
        log.error("left out: %s", problem)
    log.info(
        "models warm and verified: %s",
        ", ".join(f"{name} ({provision.threads_of(name)} threads)" for name in models) or "none",
    )
    return models, left_out


def scheduler_policy(settings: Settings, provision: Provision) -> SchedulerPolicy:
    """Return what holds for all streams and sessions."""
    scheduler = settings.scheduler
    return SchedulerPolicy(
        threads=provision.cpus,
        run_threads=provision.threads,
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
        if kind == "trim":
            steps.append(Step(StepKind.TRIM, "", 0, "unused memory given back"))
        elif kind == "unload" and any(_has_standby(model) for model in models.values()):
            steps.append(Step(StepKind.UNLOAD, "", 0, "variants that are not in use unloaded"))
        elif kind == "stride" and any(s.mode == "live" and not models[s.model].is_stateful for s in streams):
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


def _has_standby(model: LoadedModel) -> bool:
    """Whether variants have networks of their own that could leave the memory."""
    return len({id(variant.engine) for variant in model.variants}) > 1


def stream_policy(stream: StreamSettings, *, is_stateful: bool = False) -> StreamPolicy:
    """Return how the scheduler treats a stream.

    Args:
        stream: its settings.
        is_stateful: whether its model remembers: then frames keep their order, also in live mode.

    Raises:
        ConfigError: it leaves out frames of a model that remembers.
    """
    is_live = stream.mode == "live"
    if is_stateful and (stream.stride > 1 or stream.max_fps is not None or stream.changed_share_min is not None):
        raise ConfigError(
            f"streams.{stream.name}: {stream.model} keeps a state from frame to frame, which stride, max_fps and "
            "changed_share_min would break: leave them out"
        )
    live_frames = QUEUE_FRAMES_STATEFUL if is_stateful else 1
    queue_frames = stream.queue_frames or (live_frames if is_live else QUEUE_FRAMES_EVERY_FRAME)
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
        steps=None if stream.steps.is_empty else stream.steps,
        is_stateful=is_stateful,
    )
