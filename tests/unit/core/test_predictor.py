"""The service-time predictor."""

from __future__ import annotations

from agent.clock import NS_PER_MS, NS_PER_S
from agent.core.predictor import ServicePredictor

MS = NS_PER_MS


def test_an_unknown_stream_is_admitted() -> None:
    """Without samples there is no reason to refuse."""
    assert ServicePredictor().admits(deadline_ns=1, now_ns=0)


def test_it_predicts_a_low_quantile() -> None:
    """Not the mean: one outlier moves nothing."""
    predictor = ServicePredictor()
    for index in range(10):
        predictor.observe((500 if index == 5 else 10 + index) * MS, index)
    assert predictor.predict_ns(10) == 11 * MS


def test_it_refuses_what_it_foresees_to_miss() -> None:
    """A frame with less time left than the prediction is not started."""
    predictor = ServicePredictor()
    predictor.observe(100 * MS, 0)
    assert predictor.admits(deadline_ns=101 * MS, now_ns=1 * MS)
    assert not predictor.admits(deadline_ns=100 * MS, now_ns=1 * MS)


def test_samples_age_out_by_time() -> None:
    """After the window nothing of an old stall is left."""
    predictor = ServicePredictor()
    predictor.observe(NS_PER_S, 0)
    assert predictor.predict_ns(2 * NS_PER_S + 1) == 0


def test_it_probes_after_a_second_of_refusals() -> None:
    """A stream that refuses everything still runs a frame a second, or it would never learn."""
    predictor = ServicePredictor()
    predictor.observe(NS_PER_S, 0)
    assert not predictor.admits(deadline_ns=NS_PER_S, now_ns=NS_PER_S - 1)
    assert predictor.admits(deadline_ns=NS_PER_S + 1, now_ns=NS_PER_S)


def test_an_aborted_run_predicts_more_than_it_had() -> None:
    """A frame with no more time than an aborted one is refused."""
    predictor = ServicePredictor()
    predictor.observe(100 * MS, 0, aborted=True)
    assert not predictor.admits(deadline_ns=101 * MS, now_ns=0)


def test_it_follows_a_threefold_slowdown_within_two_seconds_and_back() -> None:
    """At 10 frames a second, both changes are learnt inside the window."""
    predictor = ServicePredictor()
    now_ns = 0
    for service_ms in [30] * 30 + [90] * 20 + [30] * 21:
        now_ns += 100 * MS
        predictor.observe(service_ms * MS, now_ns)
        if now_ns == 5 * NS_PER_S:
            assert predictor.predict_ns(now_ns) == 90 * MS
    assert predictor.predict_ns(now_ns) == 30 * MS
