"""Comparison with a golden sample."""

from __future__ import annotations

from typing import Any

import pytest

from agent.models.golden import differences

CAT = {"label": "cat", "score": 0.9, "box": [1.0, 2.0, 3.0, 4.0]}
DOG = {"label": "dog", "score": 0.8, "box": [5.0, 6.0, 7.0, 8.0]}
TOLERANCE = {"score": 0.1, "box": 2.0}


@pytest.mark.parametrize(
    ("actual", "said"),
    [
        ([CAT, DOG], None),
        ([DOG, CAT], None),
        ([{**CAT, "score": 0.99, "box": [2.9, 2.0, 3.0, 4.0]}, DOG], None),
        ([{**CAT, "score": 0.75}, DOG], "score: expected 0.9 within 0.1, got 0.75"),
        ([{**CAT, "box": [1.0, 2.0, 3.0, 9.0]}, DOG], "box[3]: expected 4.0 within 2.0"),
        ([{**CAT, "label": "cow"}, DOG], "label: expected 'cat', got 'cow'"),
        ([CAT], "expected 2 (cat, dog), got 1 (cat)"),
        ([], "got 0 (nothing)"),
        ([{"label": "cat", "score": 0.9}, DOG], "box: is missing"),
        ([{**CAT, "extra": 1}, DOG], "extra: is not expected"),
        ([{**CAT, "score": float("nan")}, DOG], "got nan"),
    ],
)
def test_differences(actual: list[dict[str, Any]], said: str | None) -> None:
    """Within tolerance and in any order is the same; everything else is named."""
    found = differences({"detections": [CAT, DOG]}, {"detections": actual}, TOLERANCE)
    if said is None:
        assert found == []
    else:
        assert said in "\n".join(found)
