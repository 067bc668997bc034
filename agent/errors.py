"""The three kinds of error that Edgebeat tells apart, by what the caller must do about them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

Harm = Literal["crashes", "hangs", "too_big"]
"""What a network does to a process that loads and runs it; docs/updates.md lists the words."""


class EdgebeatError(Exception):
    """Base of every error that Edgebeat raises on purpose; its text is meant for the operator."""


class ConfigError(EdgebeatError):
    """Settings, a model folder or a command line are wrong: nothing starts, exit code 78.

    Attributes:
        problems: one line each, every one naming the place, the value and what would be right.
        harm: what a network did or would do, where that is what is wrong; None for everything else.
    """

    def __init__(self, problems: str | list[str], harm: Harm | None = None) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        self.harm = harm
        super().__init__("\n".join(self.problems))

    @classmethod
    def joined(cls, errors: Sequence[ConfigError]) -> ConfigError:
        """Return one error with the problems of all, each once, and the first harm among them."""
        problems = dict.fromkeys(problem for error in errors for problem in error.problems)
        return ConfigError(list(problems), next((error.harm for error in errors if error.harm), None))


class DoesNotFitError(ConfigError):
    """Models do not fit into the memory that is left.

    Attributes:
        missing_bytes: how much more they would need.
    """

    def __init__(self, problems: list[str], missing_bytes: int) -> None:
        self.missing_bytes = missing_bytes
        super().__init__(problems, "too_big")


class TransientError(EdgebeatError):
    """It failed now and may work later (camera gone, broker absent): back off and try again."""


class PermanentError(EdgebeatError):
    """It will fail again in the same way (frame of a wrong shape): count it, drop it, go on."""


class InferenceAbortedError(EdgebeatError):
    """A running inference was stopped at its deadline or at shutdown. The session stays usable."""
