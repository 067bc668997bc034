"""The child's side of a search: what one candidate teaches about the others."""

from __future__ import annotations

from typing import Any

from agent.core.tuning import Candidate
from agent.errors import ConfigError
from agent.tuning_child import try_each


def test_a_network_without_an_end_is_tried_once() -> None:
    """All its candidates are refused with what the first one said; other networks, and other faults, are tried."""
    texts = {
        Candidate("full"): ConfigError("full.onnx: did not end within 120 s", "hangs"),
        Candidate("low"): ConfigError("low.onnx: crashes", "crashes"),
    }
    wanted = [Candidate(name, threads=threads) for name in ("full", "320x240", "low", "good") for threads in (1, 2)]
    networks = {"full": "full.onnx", "320x240": "full.onnx", "low": "low.onnx", "good": "good.onnx"}
    tried: list[Candidate] = []

    def make(candidate: Candidate) -> Any:
        tried.append(candidate)
        if candidate in texts:
            raise texts[candidate]
        return candidate

    told: list[tuple[str, int, int]] = []
    made, refused = try_each(
        wanted, lambda one: networks[one.variant], make, lambda *step: told.append(step), lambda _: ""
    )
    assert [one for one in wanted if one not in tried] == [wanted[1], wanted[2], wanted[3]]
    assert {refused[one] for one in wanted[:4]} == {"full.onnx: did not end within 120 s"}
    assert refused[wanted[4]] == "low.onnx: crashes"
    assert made == [wanted[5], wanted[6], wanted[7]]
    assert [step[1] for step in told] == list(range(8))


def test_a_candidate_that_does_not_fit_is_refused() -> None:
    """After it was made, when its cost is known."""
    one, other = Candidate("full"), Candidate("low")
    made, refused = try_each([one, other], lambda _: "m.onnx", lambda candidate: candidate, lambda *_: None, _unfit)
    assert (made, refused) == ([other], {one: "no memory"})


def _unfit(candidate: Any) -> str:
    return "no memory" if candidate.variant == "full" else ""
