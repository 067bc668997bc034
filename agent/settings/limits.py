"""Settings of what the agent may take, and how it divides it: limits, scheduler, degradation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from agent.settings.fields import Section
from agent.settings.scope import Live, LocalOnly, Reload, Restart


class LimitsSettings(Section):
    """What the agent may take of the device."""

    threads: Reload[int | None] = Field(default=None, ge=1, le=256)
    """Threads for inference, 1 to 256; never more than the CPUs that affinity and cgroup quota allow. Default:
    all of those."""
    inference_cores: LocalOnly[Literal["any", "big"] | tuple[Annotated[int, Field(ge=0, le=4095)], ...]] = "any"
    """CPUs that run the models, with everything else on the others where some are left: numbers, such as [2, 3], or
    `big` for the fastest by cpu_capacity or highest clock frequency. Health says what is in force. Default `any`:
    pinning helps where cores differ and hurts where other programs use the same ones."""
    memory_mb: Restart[int | None] = Field(default=None, ge=32, le=1_048_576)
    """Resident memory that the agent may take, MiB, 32 to 1,048,576; a cgroup's limit lowers it. Models that do not
    fit are refused at start, exit code 78; later the agent does less (see `degradation.steps`), and what would go
    past the limit fails where it is allocated. Default: the cgroup's limit, or half of the device's memory without
    one."""
    hang_s: Live[float] = Field(default=10.0, ge=1.0, le=600.0)
    """Seconds after its deadline (or its start, where it has none) at which an inference that ignores its abort
    counts as hung, 1 to 600, and never below ten times its warm-up run; the agent then restarts itself. Default 10:
    a machine that stalls for seconds comes back by itself."""
    lock_memory: Restart[bool] = False
    """Keep the loaded models in memory (mlockall, after each load), so that an idle model is not paged out. Needs
    RLIMIT_MEMLOCK or CAP_IPC_LOCK; health says whether it holds. Default false: it takes memory from everything
    else."""

    @field_validator("inference_cores")
    @classmethod
    def _some_cores(cls, value: str | tuple[int, ...]) -> str | tuple[int, ...]:
        if not value:
            raise PydanticCustomError("cores", "names no CPU: use 'any', 'big' or numbers such as [2, 3]")
        return value


class SchedulerSettings(Section):
    """Which frame runs next, and which is refused."""

    confidence: Live[float] = Field(default=0.9, gt=0.0, le=1.0)
    """Share of the recent runs whose service time a frame must have left, above 0 to 1; on a machine where even a
    fresh frame may miss, the share of what a fresh frame has. Default 0.9: of 0.3 to 0.9 it published most in
    simulation (docs/benchmarks.md)."""
    window_s: Live[float] = Field(default=2.0, ge=0.1, le=60.0)
    """How long a service time is remembered, 0.1 to 60 s. Default 2: a change of the clock frequency is learnt in
    that time."""
    probe_share: Live[float] = Field(default=0.5, gt=0.0, le=1.0)
    """How long a run that nobody expects to end in time may take, of the pause before it, above 0 to 1; they tell
    when there is hope again, and the longer there is none, the longer they pause. Default 0.5: a stream at its limit
    is back soon after a slow spell (with 0.2 some lost 1% more of their results in simulation)."""
    probe_interval_s: Live[float] = Field(default=0.5, ge=0.1, le=60.0)
    """Longest time between two such runs, 0.1 to 60 s. Default 0.5: a stream is back half a second after a slow
    spell; a model that cannot make a deadline of 250 ms is then tried for a third of the time."""
    min_share: Live[float] = Field(default=0.2, gt=0.0, le=1.0)
    """Share of the inference time that is divided evenly among waiting streams whatever their priority, above 0 to
    1. Default 0.2: high priority means most of the machine, and nobody starves."""


class DegradationSettings(Section):
    """When the agent does less, and in which order."""

    steps: Live[tuple[Literal["trim", "unload", "stride", "variant", "stream"], ...]] = (
        "trim",
        "unload",
        "stride",
        "variant",
        "stream",
    )
    """What may be done, in this order: `trim` (give unused memory back at once, frame by frame), `unload` (variants
    that are not in use leave the memory and are loaded when they are needed), `stride` (every second, then every
    third frame of live streams), `variant` (the lighter variants of the models, see docs/models.md), `stream` (pause
    streams whose priority is below the highest, lowest first). Each is used for what it helps against: the first two
    for memory alone. Empty: nothing. Default: all."""
    misses_max: Live[float] = Field(default=0.3, gt=0.0, le=1.0)
    """Share of a model's frames that may miss their deadline, above 0 to 1. Default 0.3: a third of the work in
    vain. A frame that a newer one replaces is no miss."""
    temperature_c_max: Restart[float | None] = Field(default=None, ge=20.0, le=130.0)
    """Degrees Celsius of a thermal zone, 20 to 130. Default: each zone's own limit, or 80 where it states none."""
    frequency_ratio_min: Live[float] = Field(default=0.7, gt=0.0, le=1.0)
    """Highest clock frequency that the kernel allows, of the highest there is, above 0 to 1. Default 0.7: below it
    the kernel is cooling the device."""
    cpu_pressure_max: Live[float] = Field(default=90.0, gt=0.0, le=100.0)
    """Percent of 10 s in which a task waited for a CPU (PSI), above 0 to 100. Default 90: inference that uses every
    CPU it was given makes 50 by itself."""
    memory_pressure_max: Live[float] = Field(default=20.0, gt=0.0, le=100.0)
    """Percent of 10 s in which a task waited for memory (PSI), above 0 to 100. Default 20: far above any noise."""
    worse_after_s: Live[float] = Field(default=3.0, ge=1.0, le=600.0)
    """How long something must be bad before a step is taken, and between two steps, 1 to 600 s. Default 3: a hiccup
    is no reason."""
    better_after_s: Live[float] = Field(default=20.0, ge=1.0, le=3600.0)
    """How long everything must be good before a step is taken back, 1 to 3600 s; doubled, up to 10 minutes, each time
    it had to be taken again at once. Default 20: heat sinks are slow."""
