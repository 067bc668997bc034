"""A source of samples becomes a source of windows, each a frame."""

from __future__ import annotations

from collections import deque

from agent.core.conversion import Converter, Plan
from agent.core.windows import Window, Windower, WindowPolicy
from agent.errors import PermanentError
from agent.frame import Capture
from agent.interfaces import SampleSource, Signal


class WindowedSource:
    """See `interfaces.Source`: what it reads are windows, float32 [context + length, channels].

    Args:
        samples: where the signal comes from.
        name: of that, for people.
        signal: what the model takes.
        plan: how one becomes the other.
        policy: how it is cut.
        has_time: samples carry their time, so that one that is missing shows in it. Without it a sample that could
            not be used leaves a gap that only its error tells of.
    """

    def __init__(
        self,
        samples: SampleSource,
        name: str,
        signal: Signal,
        plan: Plan,
        policy: WindowPolicy,
        *,
        has_time: bool,
    ) -> None:
        self._samples = samples
        self._name = name
        self._signal = signal
        self._plan = plan
        self._windower = Windower(policy)
        self._has_time = has_time
        self._converter: Converter | None = None
        self._waiting: deque[Window] = deque()
        self._has_opened = False

    def open(self) -> None:
        """See `Source.open`; a source of the wrong rate or channels will not become another."""
        self._samples.open()
        try:
            self._converter = Converter(self._samples.form(), self._signal, self._plan)
        except PermanentError as error:
            self._samples.close()
            raise PermanentError(f"{self._name}: {error}") from None
        if self._has_opened:
            self._windower.reset()
        self._has_opened = True
        self._waiting.clear()

    def read(self) -> Capture | None:
        """See `Source.read`."""
        assert self._converter is not None
        while not self._waiting:
            try:
                block = self._samples.read()
            except PermanentError:
                if not self._has_time:
                    self._windower.reset()
                raise
            if block is None:
                return None
            converted = self._converter.convert(block)
            if converted is not None:
                self._waiting.extend(self._windower.push(converted))
        window = self._waiting.popleft()
        return Capture(window.captured_at_ns, window.samples, window.follows)

    def close(self) -> None:
        """See `Source.close`."""
        self._samples.close()

    def interrupt(self) -> None:
        """See `Source.interrupt`."""
        self._samples.interrupt()
