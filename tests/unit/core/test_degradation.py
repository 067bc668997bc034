"""The ladder: one step at a time, for a reason, and back."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from agent.clock import NS_PER_S
from agent.core.degradation import Cause, Change, Ladder, LadderPolicy, Readings, Step, StepKind

STRIDE = Step(StepKind.STRIDE, "", 2, "stride 2")
SMALL = Step(StepKind.VARIANT, "seen", 1, "seen: small")
OTHER = Step(StepKind.VARIANT, "other", 1, "other: small")
PAUSE = Step(StepKind.STREAM, "yard", 0, "yard paused")
STEPS = (STRIDE, SMALL, OTHER, PAUSE)
HOT = Readings(temperature_margin_c=-1.0)
WARM = Readings(temperature_margin_c=2.0)
COOL = Readings(temperature_margin_c=20.0)
NOTHING = Readings()


@dataclass
class Run:
    """A ladder and its seconds."""

    ladder: Ladder = field(default_factory=lambda: Ladder(STEPS))
    second: int = 0

    def feed(self, readings: Readings, seconds: int) -> list[tuple[int, Change]]:
        """Give the same readings once a second; return the changes with their second."""
        changes = []
        for _ in range(seconds):
            self.second += 1
            change = self.ladder.update(readings, self.second * NS_PER_S)
            if change is not None:
                changes.append((self.second, change))
        return changes


def test_heat_takes_one_step_after_another() -> None:
    """The first after 3 s, each next one when the last had time to show; never more than there are."""
    changes = Run().feed(HOT, 60)
    assert [change.step for _, change in changes] == list(STEPS)
    assert changes[0][0] == 4
    assert all(later - earlier >= 3 for (earlier, _), (later, _) in itertools.pairwise(changes))
    assert changes[0][1].cause is Cause.TEMPERATURE


def test_a_hiccup_is_no_reason() -> None:
    """Two seconds of heat, a cool one, two seconds of heat: nothing."""
    run = Run()
    assert run.feed(HOT, 3) + run.feed(COOL, 1) + run.feed(HOT, 3) == []


def test_between_bad_and_good_nothing_changes() -> None:
    """Below the limit but within the hysteresis: no step down, none up."""
    run = Run()
    run.feed(HOT, 4)
    assert run.feed(WARM, 300) == []
    assert [change.step for change in run.ladder.taken] == [STRIDE]


def test_steps_are_taken_back_in_reverse_when_there_is_room() -> None:
    """After 20 good seconds the last one, after 20 more the one before."""
    run = Run()
    run.feed(HOT, 8)
    assert [change.step for change in run.ladder.taken] == [STRIDE, SMALL]
    changes = run.feed(COOL, 60)
    assert [(change.step, change.is_down) for _, change in changes] == [(SMALL, False), (STRIDE, False)]
    assert run.ladder.taken == []


def test_a_step_that_must_be_taken_again_waits_longer_each_time() -> None:
    """Flapping slows down: 20 s, 40 s, 80 s ... and 10 minutes at most."""
    run, waits = Run(Ladder([SMALL])), []
    for _ in range(8):
        taken_at = run.feed(Readings(misses={"seen": 0.9}), 10)[0][0]
        (returned_at, _), *_ = run.feed(Readings(misses={"seen": 0.0}), 700)[:1]
        waits.append(returned_at - taken_at)
        run.second = returned_at
    assert waits == sorted(waits)
    assert waits[1] >= 40
    assert waits[2] >= 80
    assert max(waits) <= 610


def test_misses_choose_the_variant_of_the_model_that_misses() -> None:
    """A stride would not make an inference faster; another model's variant neither."""
    changes = Run().feed(Readings(misses={"other": 0.5, "seen": 0.0}), 8)
    assert [change.step for _, change in changes] == [OTHER, PAUSE]
    assert changes[0][1].target == "other"
    assert changes[0][1].value == 0.5


def test_a_device_that_tells_nothing_changes_nothing() -> None:
    """Every file in /proc and /sys may be missing."""
    assert Run().feed(NOTHING, 100) == []


def test_each_signal_is_a_cause_of_its_own() -> None:
    """What is reported is the reading and the limit that it passed."""
    for readings, cause, value, limit in (
        (Readings(frequency_ratio=0.5), Cause.FREQUENCY, 0.5, 0.7),
        (Readings(cpu_pressure=95.0), Cause.CPU, 95.0, 90.0),
        (Readings(memory_pressure=30.0), Cause.MEMORY, 30.0, 20.0),
        (Readings(memory_ratio=0.99), Cause.MEMORY, 0.99, 0.95),
        (Readings(misses={"seen": 0.4}), Cause.MISSES, 0.4, 0.3),
    ):
        ((_, change),) = Run().feed(readings, 4)
        assert (change.cause, change.value, change.limit) == (cause, value, limit)


def test_an_empty_ladder_does_nothing() -> None:
    """degradation.steps = []: whatever happens."""
    assert Run(Ladder((), LadderPolicy())).feed(HOT, 50) == []


def test_pressure_of_our_own_does_not_keep_a_step_that_heat_took() -> None:
    """Inference makes CPU pressure: not bad is good enough for what no step was taken for."""
    run = Run(Ladder([STRIDE]))
    run.feed(Readings(temperature_margin_c=-1.0, cpu_pressure=60.0, memory_ratio=0.9), 5)
    ((_, change),) = run.feed(Readings(temperature_margin_c=20.0, cpu_pressure=60.0, memory_ratio=0.9), 30)
    assert not change.is_down


def test_a_pause_that_helps_nobody_is_given_up() -> None:
    """A deadline that nothing can make must not take another stream from the operator."""
    run = Run(Ladder([SMALL, PAUSE]))
    changes = run.feed(Readings(misses={"seen": 1.0}), 600)
    assert [(change.step, change.is_down) for _, change in changes] == [(SMALL, True), (PAUSE, True), (PAUSE, False)]


def test_a_pause_that_helps_stays() -> None:
    """Half of the misses are gone: it is kept until there is room again."""
    run = Run(Ladder([PAUSE]))
    assert len(run.feed(Readings(misses={"seen": 1.0}), 5)) == 1
    assert run.feed(Readings(misses={"seen": 0.5}), 100) == []


def test_a_step_taken_anew_long_after_waits_no_longer() -> None:
    """Only what had to be taken again at once doubles the wait."""
    run, waits = Run(Ladder([SMALL])), []
    for _ in range(3):
        taken_at = run.feed(Readings(misses={"seen": 0.9}), 10)[0][0]
        (returned_at, _), *_ = run.feed(Readings(misses={"seen": 0.0}), 700)[:1]
        waits.append(returned_at - taken_at)
    assert max(waits) <= 32


def test_a_long_wait_of_the_settings_is_not_shortened_by_doubling() -> None:
    """better_after_s of an hour stays an hour at least."""
    hour = 3600
    run = Run(Ladder([STRIDE], LadderPolicy(better_after_ns=hour * NS_PER_S)))
    run.feed(HOT, 5)
    run.feed(COOL, hour + 10)
    run.feed(HOT, 5)
    assert run.feed(COOL, hour - 10) == []
