"""Less work before death: which step back to take, when, why, and when to return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from agent.clock import NEVER_NS, NS_PER_S


class Cause(StrEnum):
    """What makes the agent do less. The strings are the product's."""

    MISSES = "misses"
    """Too many frames of a model miss their deadline."""
    TEMPERATURE = "temperature"
    """A thermal zone is at its limit."""
    FREQUENCY = "frequency"
    """The kernel holds the clock frequency down."""
    CPU = "cpu"
    """Tasks wait for a CPU (pressure stall information)."""
    MEMORY = "memory"
    """The agent or the device is short of memory."""


class StepKind(StrEnum):
    """A way to do less."""

    TRIM = "trim"
    """Memory that is not in use goes back to the system at once, frame by frame, instead of being kept for the
    next."""
    UNLOAD = "unload"
    """Variants that are not in use leave the memory; one that is needed is loaded again."""
    STRIDE = "stride"
    """Every live stream asks for inference with each n-th frame only."""
    VARIANT = "variant"
    """A model runs as a lighter variant."""
    STREAM = "stream"
    """A stream of low priority pauses."""


HELPS: Mapping[Cause, frozenset[StepKind]] = {
    # Fewer frames do not make an inference faster; the newest frame wins already.
    Cause.MISSES: frozenset({StepKind.VARIANT, StepKind.STREAM}),
    Cause.TEMPERATURE: frozenset({StepKind.STRIDE, StepKind.VARIANT, StepKind.STREAM}),
    Cause.FREQUENCY: frozenset({StepKind.STRIDE, StepKind.VARIANT, StepKind.STREAM}),
    Cause.CPU: frozenset({StepKind.STRIDE, StepKind.VARIANT, StepKind.STREAM}),
    # A lighter variant needs less once the others are unloaded; a paused stream gives back its source's buffers.
    Cause.MEMORY: frozenset({StepKind.TRIM, StepKind.UNLOAD, StepKind.VARIANT, StepKind.STREAM}),
}


@dataclass(frozen=True, slots=True)
class Step:
    """One rung.

    Attributes:
        kind: what it does.
        target: a model or a stream by name; empty for all streams.
        level: the stride, or the index of the variant.
        label: how it is called in health and events, such as `stride 2` or `coco-ssd: small`.
    """

    kind: StepKind
    target: str
    level: int
    label: str


@dataclass(frozen=True, slots=True)
class Readings:
    """What is known of the device now; None for what it does not tell, which is normal.

    Attributes:
        misses: share of frames that missed their deadline of late, by model; absent when hardly any frame ended.
        temperature_margin_c: degrees Celsius to the nearest limit of a thermal zone; negative above it.
        frequency_ratio: highest clock frequency that the kernel allows, of the highest that there is.
        cpu_pressure: share of time in which some task waited for a CPU, percent, 10 s average.
        memory_pressure: the same for memory.
        memory_ratio: memory of the agent or of its cgroup, of the limit; the nearer one.
    """

    misses: Mapping[str, float] = field(default_factory=dict)
    temperature_margin_c: float | None = None
    frequency_ratio: float | None = None
    cpu_pressure: float | None = None
    memory_pressure: float | None = None
    memory_ratio: float | None = None


@dataclass(frozen=True, slots=True)
class LadderPolicy:
    """When a reading is bad, when it is good again, and for how long; `settings.DegradationSettings` has the reasons.

    Attributes:
        misses_max: share of missed frames of one model.
        cpu_pressure_max: percent.
        memory_pressure_max: percent.
        memory_ratio_max: of the memory limit.
        frequency_ratio_min: of the highest clock frequency.
        temperature_hysteresis_c: degrees below the limit at which it is cool again.
        worse_after_ns: something must be bad for so long before a step is taken.
        better_after_ns: everything must be good for so long before the last step is taken back; twice as long after
            each time that it had to be taken again at once, up to `better_after_max_ns`.
        better_after_max_ns: see there.
    """

    misses_max: float = 0.3
    cpu_pressure_max: float = 90.0
    memory_pressure_max: float = 20.0
    memory_ratio_max: float = 0.95
    frequency_ratio_min: float = 0.7
    temperature_hysteresis_c: float = 5.0
    worse_after_ns: int = 3 * NS_PER_S
    better_after_ns: int = 20 * NS_PER_S
    better_after_max_ns: int = 600 * NS_PER_S


@dataclass(frozen=True, slots=True)
class Change:
    """One step taken or taken back.

    Attributes:
        step: which.
        is_down: taken, not taken back.
        cause: why it was taken, also when it is taken back.
        target: the model that misses; empty for the device's own causes.
        value: the reading that was bad; None when it is taken back.
        limit: what it was compared with; None when it is taken back.
    """

    step: Step
    is_down: bool
    cause: Cause
    target: str = ""
    value: float | None = None
    limit: float | None = None


@dataclass(frozen=True, slots=True)
class _Complaint:
    cause: Cause
    target: str
    value: float
    limit: float


GOOD_SHARE = 0.5
"""A reading is good again below half of its limit; in between nothing changes (hysteresis)."""


GIVE_UP_SHARE = 0.9
"""A pause that leaves this share of a model's misses did not help it."""


class Ladder:
    """Takes steps one at a time, in their order, and takes them back in reverse.

    Args:
        steps: in the order in which they are taken.
        policy: see `LadderPolicy`.
    """

    def __init__(self, steps: Sequence[Step], policy: LadderPolicy | None = None) -> None:
        self.steps = tuple(steps)
        self._policy = policy or LadderPolicy()
        self.taken: list[Change] = []
        """The steps that are in force, with their causes."""
        self._bad_since_ns: dict[tuple[Cause, str], int] = {}
        self._good_since_ns: int | None = None
        self._changed_at_ns = -NEVER_NS
        self._taken_back_at_ns: dict[Step, int] = {}
        self._useless: set[tuple[Step, str]] = set()
        """Pauses that did not lower the misses of a model."""
        self._better_after_ns = self._policy.better_after_ns

    def resume(self, other: Ladder) -> None:
        """Take over what another ladder had in force, as far as this one has the same steps."""
        self.taken = [change for change in other.taken if change.step in self.steps]
        self._changed_at_ns = other._changed_at_ns
        self._taken_back_at_ns = dict(other._taken_back_at_ns)

    def update(self, readings: Readings, now_ns: int) -> Change | None:
        """Judge the readings, which come once a second or so, and return the change to make now, if any."""
        bad, is_good = self._judge(readings)
        self._bad_since_ns = {key: self._bad_since_ns.get(key, now_ns) for key in bad}
        self._good_since_ns = (now_ns if self._good_since_ns is None else self._good_since_ns) if is_good else None
        # What a step does must show before the next one.
        if now_ns - self._changed_at_ns < self._policy.worse_after_ns:
            return None
        if (change := self._give_up(readings)) is not None:
            self._changed_at_ns = now_ns
            return change
        for key, since_ns in self._bad_since_ns.items():
            step = self._next_step(bad[key])
            if step is not None and now_ns - since_ns >= self._policy.worse_after_ns:
                return self._take(step, bad[key], now_ns)
        if not self.taken or self._good_since_ns is None:
            return None
        is_quiet = now_ns - max(self._changed_at_ns, self._good_since_ns) >= self._better_after_ns
        return self._take_back(now_ns) if is_quiet else None

    def _give_up(self, readings: Readings) -> Change | None:
        """Take back a pause that was to help a model and did not: its frames are late for another reason."""
        last = self.taken[-1] if self.taken else None
        if last is None or last.step.kind is not StepKind.STREAM or last.cause is not Cause.MISSES:
            return None
        if readings.misses.get(last.target, 0.0) < GIVE_UP_SHARE * (last.value or 0.0):
            return None
        self.taken.pop()
        self._useless.add((last.step, last.target))
        return Change(last.step, False, last.cause, last.target)

    def _take(self, step: Step, complaint: _Complaint, now_ns: int) -> Change:
        policy = self._policy
        returned_ns = self._taken_back_at_ns.get(step)
        if returned_ns is not None and now_ns - returned_ns < 2 * self._better_after_ns:
            longest_ns = max(policy.better_after_ns, policy.better_after_max_ns)
            self._better_after_ns = min(2 * self._better_after_ns, longest_ns)
        else:
            self._better_after_ns = policy.better_after_ns
        change = Change(step, True, complaint.cause, complaint.target, complaint.value, complaint.limit)
        self.taken.append(change)
        self._changed_at_ns = now_ns
        self._bad_since_ns.clear()
        return change

    def _take_back(self, now_ns: int) -> Change:
        last = self.taken.pop()
        self._taken_back_at_ns[last.step] = now_ns
        self._changed_at_ns = now_ns
        return Change(last.step, False, last.cause, last.target)

    def _next_step(self, complaint: _Complaint) -> Step | None:
        in_force = {change.step for change in self.taken}
        for step in self.steps:
            if step in in_force or step.kind not in HELPS[complaint.cause]:
                continue
            if step.kind is StepKind.VARIANT and complaint.target and step.target != complaint.target:
                continue
            if (step, complaint.target) in self._useless:
                continue
            return step
        return None

    def _judge(self, readings: Readings) -> tuple[dict[tuple[Cause, str], _Complaint], bool]:
        """Return what is bad, and whether there is room: what steps were taken for is good, the rest not bad.

        Inference makes CPU pressure and memory of its own: to wait until those are low as well would be for ever.
        """
        policy = self._policy
        # Each as (cause, target, value, limit, value below which it is good); higher is worse.
        scales: list[tuple[Cause, str, float, float, float]] = [
            (Cause.MISSES, model, share, policy.misses_max, policy.misses_max * GOOD_SHARE)
            for model, share in readings.misses.items()
        ]
        if (margin := readings.temperature_margin_c) is not None:
            scales.append((Cause.TEMPERATURE, "", -margin, 0.0, -policy.temperature_hysteresis_c))
        if (ratio := readings.frequency_ratio) is not None:
            least = policy.frequency_ratio_min
            scales.append((Cause.FREQUENCY, "", -ratio, -least, -(least + (1 - least) * GOOD_SHARE)))
        for cause, value, limit, good in (
            (Cause.CPU, readings.cpu_pressure, policy.cpu_pressure_max, policy.cpu_pressure_max * GOOD_SHARE),
            (
                Cause.MEMORY,
                readings.memory_pressure,
                policy.memory_pressure_max,
                policy.memory_pressure_max * GOOD_SHARE,
            ),
            (Cause.MEMORY, readings.memory_ratio, policy.memory_ratio_max, policy.memory_ratio_max * 0.9),
        ):
            if value is not None:
                scales.append((cause, "", value, limit, good))
        bad = {
            (cause, target): _Complaint(cause, target, abs(value), abs(limit))
            for cause, target, value, limit, _ in scales
            if value > limit
        }
        causes = {change.cause for change in self.taken}
        return bad, all(value <= (good if cause in causes else limit) for cause, _, value, limit, good in scales)
