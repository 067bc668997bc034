"""Errors that are told together."""

from __future__ import annotations

from agent.errors import ConfigError


def test_joined_errors_tell_each_problem_once_and_keep_the_harm() -> None:
    """Variants share labels and sample; one that crashed is the more important news."""
    wrong, harmful = ConfigError(["a", "b"]), ConfigError(["b", "c"], "crashes")
    joined = ConfigError.joined([wrong, harmful])
    assert (joined.problems, joined.harm) == (["a", "b", "c"], "crashes")
    assert ConfigError.joined([wrong]).harm is None
    assert str(joined) == "a\nb\nc"
