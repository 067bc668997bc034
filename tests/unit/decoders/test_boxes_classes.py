"""Numbers of classes that a network gives as floats."""

from __future__ import annotations

import numpy as np
import pytest

from agent.decoders.boxes import CLASS_MAX, class_numbers
from agent.errors import PermanentError


def test_numbers_of_classes_are_rounded() -> None:
    """Also from half precision; none at all is nothing."""
    assert class_numbers(np.array([0.0, 2.9999, 17.2], np.float16)).tolist() == [0, 3, 17]
    assert class_numbers(np.zeros(0, np.float32)).tolist() == []


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30, -1e30, CLASS_MAX * 2.0])
def test_what_is_no_number_of_a_class_is_refused(value: float) -> None:
    """1e30 would become the least integer there is."""
    with pytest.raises(PermanentError, match="classes"):
        class_numbers(np.array([1.0, value], np.float32))
