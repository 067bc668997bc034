"""The service-time predictor."""

from __future__ import annotations

from agent.clock import NS_PER_MS, NS_PER_S
from agent.core.predictor import PredictorPolicy, ServicePredictor

MS = NS_PER_MS


def predictor(**changes: float) -> ServicePredictor:
    """Build one with the default policy but for the changes."""
    return ServicePredictor(PredictorPolicy(**changes))  # type: ignore[arg-type]


def after(*services_ms: int, every_ms: int = 100) -> tuple[ServicePredictor, int]:
    """Return a predictor that saw these runs, and the time of the last one."""
    seen, now_ns = predictor(), 0
    for service_ms in services_ms:
        now_ns += every_ms * MS
        seen.observe(service_ms * MS, now_ns)
    return seen, now_ns


def test_an_unknown_stream_is_admitted() -> None:
    """Without samples there is no reason to refuse."""
    assert predictor().admits(1, 1, now_ns=0)


def test_it_predicts_a_high_quantile() -> None:
    """Nine runs of ten kept it; one outlier moves nothing."""
    seen, now_ns = after(10, 11, 12, 13, 14, 500, 15, 16, 17, 18)
    assert seen.predict_ns(now_ns) == 18 * MS


def test_it_refuses_what_it_foresees_to_miss() -> None:
    """A frame with less time left than nine runs of ten needed waits for a fresher one."""
    seen, now_ns = after(*[100] * 9, 120)
    assert seen.admits(100 * MS, 250 * MS, now_ns)
    assert not seen.admits(99 * MS, 250 * MS, now_ns)


def test_a_frame_is_compared_with_the_freshest() -> None:
    """On a machine where two runs of three miss in any case, one that is as good as a fresh one is run."""
    seen, now_ns = after(400, 400, 200, 400, 400, 200)
    assert seen.admits(210 * MS, 250 * MS, now_ns)
    assert not seen.admits(190 * MS, 250 * MS, now_ns)


def test_one_stall_is_not_all_that_is_known() -> None:
    """Everything else has aged out when a stall of 5 s ends; the runs before it are remembered all the same."""
    seen, now_ns = after(30, 30, 30, 30)
    now_ns += 5 * NS_PER_S
    seen.observe(5 * NS_PER_S, now_ns)
    assert seen.admits(240 * MS, 250 * MS, now_ns)


def test_without_hope_it_refuses_and_asks_for_probes() -> None:
    """A probe after twice its length, and after half a second at the latest."""
    seen, now_ns = after(40, 60, 60, 60, 60)
    assert not seen.admits(50 * MS, 50 * MS, now_ns + 2 * NS_PER_S)
    assert not seen.is_probe_due(50 * MS, now_ns + 2 * 60 * MS - 1)
    assert seen.is_probe_due(50 * MS, now_ns + 2 * 60 * MS)
    slow, now_ns = after(900, 900, 900, every_ms=900)
    assert not slow.is_probe_due(900 * MS, now_ns + NS_PER_S // 2 - 1)
    assert slow.is_probe_due(900 * MS, now_ns + NS_PER_S // 2)
    assert predictor().is_probe_due(1, 0)


def test_the_longer_runs_are_in_vain_the_longer_probes_pause() -> None:
    """4% of the time since the first of them, where that is longer than twice the run; half a second at most."""
    seen, now_ns = after(60, 60, 60)
    now_ns += 60 * NS_PER_S  # Nothing came for a minute: no spell.
    seen.observe(80 * MS, now_ns, aborted=True)  # Counts as 120.
    assert not seen.is_probe_due(60 * MS, now_ns + 240 * MS - 1)
    assert seen.is_probe_due(60 * MS, now_ns + 240 * MS)
    seen.observe(80 * MS, now_ns + 7000 * MS, aborted=True)
    assert not seen.is_probe_due(60 * MS, now_ns + 7291 * MS)
    assert seen.is_probe_due(60 * MS, now_ns + 7292 * MS)
    seen.observe(80 * MS, now_ns + 20_000 * MS, aborted=True)
    assert not seen.is_probe_due(60 * MS, now_ns + 20_499 * MS)
    assert seen.is_probe_due(60 * MS, now_ns + 20_500 * MS)
    seen.observe(60 * MS, now_ns + 21_000 * MS)
    seen.observe(80 * MS, now_ns + 22_000 * MS, aborted=True)
    assert seen.is_probe_due(60 * MS, now_ns + 22_240 * MS)


def test_what_no_run_ever_kept_is_probed_at_the_longest_pause() -> None:
    """The share of the time would be a fifth of nothing: runs under a deadline of 3 ms are aborted after 1 ms."""
    seen, now_ns = after(30)
    seen.observe(1 * MS, now_ns, aborted=True)
    assert not seen.is_probe_due(29 * MS, now_ns + NS_PER_S // 2 - 1)
    assert seen.is_probe_due(29 * MS, now_ns + NS_PER_S // 2)
    assert seen.is_probe_due(30 * MS, now_ns + 2 * 30 * MS)


def test_an_aborted_run_was_no_faster_than_the_fastest() -> None:
    """It counts for the fastest run seen at least, or a stream with a tiny deadline would make its model fast."""
    seen, now_ns = after(30, 40)
    for _ in range(3):
        now_ns += 3 * NS_PER_S
        seen.observe(1 * MS, now_ns, aborted=True)
    assert seen.fastest_ns == 30 * MS
    assert seen.predict_ns(now_ns) == 30 * MS


def test_two_misses_are_no_reason_to_refuse_everything() -> None:
    """With so few runs nothing is known yet."""
    seen, now_ns = after(60, 60)
    assert seen.admits(50 * MS, 50 * MS, now_ns)
    assert not seen.admits(50 * MS, 70 * MS, now_ns)


def test_an_aborted_run_predicts_more_than_it_had() -> None:
    """A frame with no more time than an aborted one does not fit."""
    seen = predictor()
    for _ in range(3):
        seen.observe(100 * MS, 0, aborted=True)
    assert not seen.admits(101 * MS, 101 * MS, now_ns=0)


def test_it_is_current_while_it_has_recent_runs() -> None:
    """Eight runs within the window; fewer leave the judgement to the whole session."""
    seen, now_ns = after(*[10] * 7)
    assert not seen.is_current(now_ns)
    seen.observe(10 * MS, now_ns)
    assert seen.is_current(now_ns)
    assert not seen.is_current(now_ns + 2 * NS_PER_S + 1)


def test_it_follows_a_threefold_slowdown_within_two_seconds_and_back() -> None:
    """At 10 frames a second, both changes are learnt inside the window."""
    seen = predictor()
    now_ns = 0
    for index, service_ms in enumerate([30] * 30 + [90] * 20 + [30] * 20):
        now_ns += 100 * MS
        seen.observe(service_ms * MS, now_ns)
        if index == 49:
            assert seen.predict_ns(now_ns) == 90 * MS
            assert not seen.admits(89 * MS, 250 * MS, now_ns)
    now_ns += 100 * MS
    seen.observe(30 * MS, now_ns)
    assert seen.predict_ns(now_ns) == 30 * MS
    assert seen.admits(31 * MS, 250 * MS, now_ns)
