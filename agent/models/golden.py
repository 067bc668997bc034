"""The golden sample: a model that does not reproduce it on this device is refused.

An int8 model that was quantised for another CPU loads, runs and detects nothing: U8S8 weights without
reduce_range saturate on AVX2 without VNNI. Only its results tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any

import cv2

from agent.errors import ConfigError
from agent.frame import Pixels


def read_picture(file: Path) -> Pixels:
    """Return a picture as uint8 [H, W, 3] BGR.

    Raises:
        ConfigError: missing or not a picture.
    """
    pixels = cv2.imread(str(file), cv2.IMREAD_COLOR)
    if pixels is None:
        raise ConfigError(f"{file}: is not a readable picture")
    return pixels  # type: ignore[return-value]


def differences(expected: Any, actual: Any, tolerance: Mapping[str, float], path: str = "") -> list[str]:
    """Return how `actual` differs from `expected`, one text each; empty when it is the same.

    Numbers may differ by the tolerance of the nearest field name above them. Lists of objects are compared as
    sets: each expected one needs a partner of its own, in any order, since near-equal scores may swap.
    """
    if isinstance(expected, dict) and isinstance(actual, dict):
        keys = sorted(expected.keys() | actual.keys())
        return [text for key in keys for text in _member(expected, actual, key, tolerance, path)]
    if isinstance(expected, list) and isinstance(actual, list):
        if len(expected) != len(actual):
            return [f"{path}: expected {len(expected)} ({_brief(expected)}), got {len(actual)} ({_brief(actual)})"]
        if all(isinstance(item, dict) for item in expected):
            return _unmatched(expected, actual, tolerance, path)
        pairs = enumerate(zip(expected, actual, strict=True))
        return [text for i, (e, a) in pairs for text in differences(e, a, tolerance, f"{path}[{i}]")]
    if isinstance(expected, Real) and isinstance(actual, Real) and not isinstance(expected, bool):
        field = path.rsplit(".", 1)[-1].split("[", 1)[0]
        allowed = tolerance.get(field, 0.0)
        if abs(float(expected) - float(actual)) <= allowed:
            return []
        return [f"{path}: expected {expected} within {allowed}, got {actual}"]
    return [] if expected == actual else [f"{path}: expected {expected!r}, got {actual!r}"]


def _member(
    expected: Mapping[str, Any], actual: Mapping[str, Any], key: str, tolerance: Mapping[str, float], path: str
) -> list[str]:
    inner = f"{path}.{key}" if path else key
    if key not in actual:
        return [f"{inner}: is missing"]
    if key not in expected:
        return [f"{inner}: is not expected"]
    return differences(expected[key], actual[key], tolerance, inner)


def _unmatched(expected: list[Any], actual: list[Any], tolerance: Mapping[str, float], path: str) -> list[str]:
    left = list(actual)
    missing = []
    for index, item in enumerate(expected):
        partner = next((other for other in left if not differences(item, other, tolerance, path)), None)
        if partner is None:
            missing.append((index, item))
        else:
            left.remove(partner)
    return [
        text
        for (index, item), other in zip(missing, left, strict=True)
        for text in differences(item, other, tolerance, f"{path}[{index}]")
    ]


def _brief(items: list[Any]) -> str:
    names = [str(item.get("label", "?")) if isinstance(item, dict) else str(item) for item in items[:5]]
    return ", ".join(names) or "nothing"
