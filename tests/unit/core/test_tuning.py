"""What is tried, and which of it is taken."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.core.tuning import (
    CANDIDATES_MAX,
    Candidate,
    Figures,
    Measured,
    Options,
    Target,
    candidates,
    choose,
    misfits,
    thread_counts,
)

TARGET = Target(fps=5, deadline_ms=250)


def measured(candidate: Candidate, cpu_ms: float, p95_ms: float = 50) -> Measured:
    """Return a candidate that ran."""
    return Measured(candidate, Figures(p95_ms * 0.9, p95_ms, cpu_ms, 20, 21))


def test_one_thread_has_nobody_who_spins() -> None:
    """Spinning and the arena are tried apart, each against the plain one."""
    found, notes = candidates(Options(("full",), threads=(1, 2)))
    assert found == [
        Candidate("full"),
        Candidate("full", has_arena=False),
        Candidate("full", threads=2),
        Candidate("full", threads=2, spins=True),
        Candidate("full", threads=2, has_arena=False),
    ]
    assert notes == []


def test_what_the_settings_name_is_all_that_is_tried() -> None:
    """One value of each gives one candidate a variant."""
    options = Options(("full", "320"), threads=(2,), spinning=(True,), arenas=(False,))
    found, _ = candidates(options)
    assert found == [Candidate(name, threads=2, spins=True, has_arena=False) for name in ("full", "320")]


@given(
    st.integers(1, 9),
    st.integers(1, 3),
    st.integers(1, 256),
    st.sampled_from([(False,), (True,), (False, True)]),
    st.sampled_from([(True,), (False,), (True, False)]),
)
def test_there_are_never_too_many_and_the_best_variant_is_always_tried(
    variants: int, providers: int, cpus: int, spinning: tuple[bool, ...], arenas: tuple[bool, ...]
) -> None:
    """What is left out is said; nothing is tried twice."""
    names = tuple(str(number) for number in range(variants))
    lists = tuple((f"p{number}", "cpu") for number in range(providers))
    found, notes = candidates(Options(names, lists, thread_counts(cpus), spinning, arenas))
    assert 0 < len(found) <= CANDIDATES_MAX
    assert found[0].variant == "0"
    assert len(set(found)) == len(found)
    assert all(one.threads <= cpus for one in found)
    assert notes or {one.variant for one in found} == set(names)


def test_the_most_accurate_variant_that_keeps_up_is_taken_however_light_the_others_are() -> None:
    """A third of the CPU is no reason to detect less."""
    found = choose([measured(Candidate("full"), 60, 160), measured(Candidate("320"), 20, 60)], TARGET)
    assert found.taken is not None
    assert found.taken.candidate.variant == "full"


def test_a_lighter_variant_is_taken_where_the_model_itself_is_too_slow() -> None:
    """And the reason stands there with its figures."""
    rows = [measured(Candidate("full"), 60, 300), measured(Candidate("320"), 20, 60)]
    found = choose(rows, TARGET)
    assert found.taken is rows[1]
    assert found.why[0].startswith("full is left: p95 300.0 ms of a deadline of 250; busy for 135% of the time")


def test_the_least_cpu_wins_and_the_plainest_among_equals() -> None:
    """A difference of 2% is noise; one of 50% is none."""
    one, two = Candidate("full"), Candidate("full", threads=2)
    spinning = Candidate("full", threads=2, spins=True)
    first = choose([measured(one, 30.5), measured(two, 30), measured(spinning, 60)], TARGET)
    assert first.taken is not None
    assert first.taken.candidate == one
    assert "2 are within 5%" in first.why[0]
    second = choose([measured(one, 45), measured(two, 30), measured(spinning, 60)], TARGET)
    assert second.taken is not None
    assert second.taken.candidate == two


def test_nothing_is_taken_where_nothing_keeps_up() -> None:
    """A variant that could not run says why."""
    rows = [measured(Candidate("full"), 60, 300), Measured(Candidate("tiny"), None, "no memory")]
    found = choose(rows, TARGET)
    assert found.taken is None
    assert found.why[1:] == ("tiny is left: no memory", "none keeps up with 5 fps within 250 ms")


def test_a_deadline_leaves_time_for_delivery_and_a_rate_for_the_rest() -> None:
    """The bounds themselves."""
    assert misfits(Figures(100, 248, 50, 20, 21), TARGET) == []
    assert misfits(Figures(100, 248.1, 50, 20, 21), TARGET) == ["p95 248.1 ms of a deadline of 250"]
    assert misfits(Figures(160, 200, 50, 20, 21), TARGET) == []
    assert misfits(Figures(161, 200, 50, 20, 21), TARGET) == ["busy for 80% of the time at 5 fps, 80% may be"]
