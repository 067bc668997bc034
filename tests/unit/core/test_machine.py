"""The simulated machine's speed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.clock import NEVER_NS
from agent.core.machine import MachineSpeed

CHANGES = st.lists(
    st.tuples(st.integers(1, 1000), st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0])), max_size=8, unique_by=lambda c: c[0]
)


def test_work_takes_longer_on_a_slower_machine() -> None:
    """100 ns of work from 50: 50 at full speed, the rest at a quarter."""
    assert MachineSpeed([(100, 0.25)]).end_ns(50, 100) == 300


def test_work_waits_for_the_end_of_a_stall() -> None:
    """A stall from 100 to 600 delays what it hits by its length."""
    machine = MachineSpeed([(100, 0.0), (600, 1.0)])
    assert machine.end_ns(50, 100) == 650
    assert machine.end_ns(50, 50) == 100
    assert machine.end_ns(300, 10) == 610


def test_a_machine_that_stops_for_ever_ends_nothing() -> None:
    """The end is never."""
    assert MachineSpeed([(100, 0.0)]).end_ns(50, 100) == NEVER_NS


@given(changes=CHANGES, start=st.integers(0, 1200), work=st.integers(0, 500))
def test_the_end_of_work_is_when_that_much_was_done(changes: list[tuple[int, float]], start: int, work: int) -> None:
    """Between start and end lies the work, to a rounding of one tick at each speed."""
    machine = MachineSpeed([*sorted(changes), (1001, 1.0)])
    end = machine.end_ns(start, work)
    done = machine.work_ns(end) - machine.work_ns(start)
    assert work <= done + 1e-6
    assert done <= work + 2.0
