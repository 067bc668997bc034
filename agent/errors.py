"""The three kinds of error that Edgebeat tells apart, by what the caller must do about them."""


class EdgebeatError(Exception):
    """Base of every error that Edgebeat raises on purpose; its text is meant for the operator."""


class ConfigError(EdgebeatError):
    """Settings, a model folder or a command line are wrong: nothing starts, exit code 78.

    Attributes:
        problems: one line each, every one naming the place, the value and what would be right.
    """

    def __init__(self, problems: str | list[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class TransientError(EdgebeatError):
    """It failed now and may work later (camera gone, broker absent): back off and try again."""


class PermanentError(EdgebeatError):
    """It will fail again in the same way (frame of a wrong shape): count it, drop it, go on."""


class InferenceAbortedError(EdgebeatError):
    """A running inference was stopped at its deadline or at shutdown. The session stays usable."""
