"""Whether everything fits, in figures."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.engine.budget import Budget, Need
from agent.engine.memory import MIB, MemoryLimit
from agent.engine.trial import Cost


def cost(session_mb: int, run_mb: int, peak_mb: int | None = None) -> Cost:
    """Return a cost; its peak is what stays unless said otherwise."""
    peak = session_mb + run_mb if peak_mb is None else peak_mb
    return Cost(session_mb * MIB, run_mb * MIB, peak * MIB, 1000)


def budget(limit_mb: int, *needs: Need, source: str = "limits.memory_mb") -> Budget:
    """Return the budget of an agent that takes 80 MiB itself and 20 to serve."""
    return Budget(MemoryLimit(limit_mb * MIB, source), 80 * MIB, 20 * MIB, needs)


DOOR = Need("door", {"full": cost(30, 10, 60), "small": cost(8, 2)})


def test_what_does_not_fit_is_refused_with_figures_and_ways_out() -> None:
    """The sum, its parts, the least limit, and the variant that would fit."""
    refused = budget(120, DOOR).refusal()
    assert refused[0] == (
        "memory: the agent would take 160 MiB and may take 120 MiB (limits.memory_mb): 80 MiB for itself, 20 MiB to "
        "serve its streams, door 40.0 MiB (30.0 MiB of weights and kernels, 10.0 MiB of activations), 60.0 MiB at "
        "its peak"
    )
    assert refused[1:] == [
        "  what would fit: set limits.memory_mb to at least 160 MiB",
        '  what would fit: set models.door.variant = "small": 110 MiB',
    ]
    assert "raise it to at least 160 MiB" in budget(120, DOOR, source="the cgroup's memory limit").refusal()[1]


def test_a_change_is_refused_with_what_there_is_and_what_comes() -> None:
    """Streams alone, or a model alone beside what serves."""
    limit = MemoryLimit(100 * MIB, "limits.memory_mb")
    streams = Budget(limit, 90 * MIB, 20 * MIB, (), is_change=True).refusal()
    assert streams[0].endswith(
        "would take 110 MiB and may take 100 MiB (limits.memory_mb): 90 MiB now, 20 MiB for streams that come"
    )
    assert streams[1:] == ["  what would fit: set limits.memory_mb to at least 110 MiB"]
    model = Budget(limit, 90 * MIB, 0, (DOOR,), is_change=True).refusal()
    assert "90 MiB now, door 40.0 MiB" in model[0]


def test_the_peak_of_one_load_counts_once() -> None:
    """Models are loaded one after the other."""
    other = Need("yard", {"full": cost(5, 5)})
    assert budget(169, DOOR, other).refusal()
    assert not budget(170, DOOR, other).refusal()


def test_variants_stay_loaded_only_where_there_is_room() -> None:
    """Otherwise one is loaded when it is needed."""
    assert budget(170, DOOR).holds_all
    assert not budget(169, DOOR).holds_all
    assert not budget(169, DOOR).refusal()


def test_a_frame_may_grow_as_far_as_the_activations_have_room() -> None:
    """160 MiB leave 30 where 10 were measured for 1,000 bytes of input; never less than what was measured."""
    assert budget(160, DOOR).input_bytes_max(DOOR.own) == 3000
    assert budget(100, DOOR).input_bytes_max(DOOR.own) == 1000
    # Of 190, the variant that stays loaded takes 10 of the 60.
    assert budget(190, DOOR).holds_all
    assert budget(190, DOOR).input_bytes_max(DOOR.own) == 5000


@given(st.lists(st.tuples(*[st.integers(0, 300)] * 3), min_size=1, max_size=4), st.integers(64, 2000))
def test_the_stated_limit_is_the_least_that_fits(sizes: list[tuple[int, int, int]], limit_mb: int) -> None:
    """Whoever follows the advice is not refused again, and no lower limit would do."""
    needs = [Need(f"m{i}", {"full": cost(a, b, a + b + c)}) for i, (a, b, c) in enumerate(sizes)]
    refused = budget(limit_mb, *needs).refusal()
    if refused:
        least_mb = int(refused[1].rpartition("at least ")[2].split()[0])
        assert least_mb > limit_mb
        assert budget(least_mb, *needs).refusal() == []
        assert budget(least_mb - 1, *needs).refusal()
