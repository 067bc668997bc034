"""The classification and raw decoders."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from agent.decoders.classification import ClassificationDecoder
from agent.decoders.options import DecoderInput
from agent.decoders.raw import RawDecoder
from agent.errors import ConfigError, PermanentError
from agent.interfaces import Placement, TensorSpec

PLACE = Placement(1, 1, 0, 0, 1, 1, 1, 1)
SCORES = (TensorSpec("s", np.dtype(np.float32), (1, 3)),)


def given(options: dict[str, Any], outputs: tuple[TensorSpec, ...] = SCORES, labels: Any = ("a", "b", "c")) -> Any:
    """Build what a decoder is built from."""
    return DecoderInput("model.toml", options, outputs, list(labels), 0)


def test_softmax_gives_probabilities_by_falling_score() -> None:
    """Against the formula, with logits that would overflow without the shift."""
    decoder = ClassificationDecoder(given({"name": "c", "scores": "s", "activation": "softmax", "classes_max": 2}))
    payload = decoder.decode([np.array([[1000.0, 1001.0, 999.0]], np.float32)], PLACE)
    whole = 1 + np.exp(-1) + np.exp(-2)
    assert [(item["label"], item["score"]) for item in payload["classes"]] == [
        ("b", round(1 / whole, 4)),
        ("a", round(np.exp(-1) / whole, 4)),
    ]


def test_given_probabilities_stay_and_the_threshold_holds() -> None:
    """Without an activation the scores are published as they are."""
    options = {"name": "c", "scores": "s", "activation": "none", "score_threshold": 0.3}
    payload = ClassificationDecoder(given(options)).decode([np.array([[0.2, 0.5, 0.3001]], np.float32)], PLACE)
    assert [item["label"] for item in payload["classes"]] == ["b", "c"]


def test_nan_is_never_a_result() -> None:
    """Neither as a class nor as a raw value."""
    bad = [np.array([[np.nan, 0, 0]], np.float32)]
    with pytest.raises(PermanentError, match="NaN"):
        ClassificationDecoder(given({"name": "c", "scores": "s", "activation": "none"})).decode(bad, PLACE)
    with pytest.raises(PermanentError, match="NaN"):
        RawDecoder(given({"name": "raw"})).decode(bad, PLACE)


def test_raw_publishes_values_with_their_shape() -> None:
    """Row-major, named, all outputs unless some are chosen."""
    payload = RawDecoder(given({"name": "raw"})).decode([np.array([[1, 2.5, 3]], np.float32)], PLACE)
    assert payload == {"values": [{"name": "s", "shape": [1, 3], "values": [1.0, 2.5, 3.0]}]}


def test_raw_refuses_outputs_that_are_too_large() -> None:
    """At load where the shape is known, for the frame where it is free."""
    with pytest.raises(ConfigError, match="more than 10000"):
        RawDecoder(given({"name": "raw"}, (TensorSpec("s", np.dtype(np.float32), (1, 20_000)),)))
    free = RawDecoder(given({"name": "raw"}, (TensorSpec("s", np.dtype(np.float32), (1, None)),)))
    with pytest.raises(PermanentError, match="more than 10000"):
        free.decode([np.zeros((1, 20_000), np.float32)], PLACE)
