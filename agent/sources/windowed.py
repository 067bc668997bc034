"""A source of samples becomes a source of windows, each a frame."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import NoReturn

from agent.core.conversion import Converter, Plan
from agent.core.sample_rate import RateGuard, Verdict
from agent.core.windows import Window, Windower, WindowPolicy
from agent.errors import PermanentError, TransientError
from agent.frame import Block, Capture
from agent.interfaces import SampleSource, Signal


class WindowedSource:
    """See `interfaces.Source`: what it reads are windows, float32 [context + length, channels].

    Samples that tell their time tell their rate. One that is not as stated is a loss, as if the device had gone: what
    comes is thrown away until the rate was measured anew. Then a source that resamples goes on at the new rate, one
    that had the right rate before waits until it has it again, and one that never had it is refused for good. The
    device or stream itself stays open meanwhile: a file would begin anew.

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
        self._guard = RateGuard(signal.rate_hz if plan.resamples else None)
        self._converter: Converter | None = None
        self._waiting: deque[Window] = deque()
        self._has_opened = False
        self._is_open = False
        """The source of samples is."""
        self._keeps_open = False
        """The next `close` is for a wrong rate alone."""
        self._refusal: str | None = None

    def open(self) -> None:
        """See `Source.open`; a source of the wrong rate or channels will not become another."""
        self._keeps_open = False
        if self._refusal is not None:
            raise PermanentError(self._refusal)
        if not self._is_open:
            self._samples.open()
            self._is_open = True
            form = self._samples.form()
            self._guard.begin(form.rate_hz)
            try:
                self._converter = Converter(form, self._signal, self._plan)
            except PermanentError as error:
                self.close()
                raise PermanentError(f"{self._name}: {error}") from None
        if self._has_opened:
            self._windower.reset()
        self._has_opened = True
        self._waiting.clear()

    def read(self) -> Capture | None:
        """See `Source.read`; two gaps without a window between them are one error."""
        while not self._waiting:
            try:
                block = self._samples.read()
            except PermanentError:
                if not self._has_time:
                    self._windower.reset()
                raise
            if block is None:
                if self._guard.is_refusal:
                    self._lose(for_good=True)
                return None
            if self._has_right_rate(block):
                self._push(block)
        window = self._waiting.popleft()
        return Capture(window.captured_at_ns, window.samples, window.follows)

    def close(self) -> None:
        """See `Source.close`."""
        if self._keeps_open:
            self._keeps_open = False
            return
        self._is_open = False
        self._samples.close()

    def interrupt(self) -> None:
        """See `Source.interrupt`."""
        self._samples.interrupt()

    def _push(self, block: Block) -> None:
        assert self._converter is not None
        converted = self._converter.convert(block)
        if converted is None:
            return
        untold = self._windower.untold
        self._waiting.extend(self._windower.push(converted))
        if self._windower.untold > untold:
            raise PermanentError(
                f"{self._name}: two gaps with less than a window of {self._signal.length} samples between them"
            )

    def _has_right_rate(self, block: Block) -> bool:
        verdict = self._guard.judge(block)
        if verdict in (Verdict.LOST, Verdict.REFUSED):
            self._lose(for_good=verdict is Verdict.REFUSED)
        if verdict is Verdict.BACK:
            form = replace(self._samples.form(), rate_hz=self._guard.rate_hz)
            self._converter = Converter(form, self._signal, self._plan)
            self._windower.reset()
        return verdict is Verdict.TAKEN

    def _lose(self, *, for_good: bool) -> NoReturn:
        reason = f"{self._name}: gives {self._guard.seen_hz:.4g} samples a second by its own times, "
        reason += f"not {self._guard.rate_hz:.4g}"
        if not self._plan.resamples:
            reason += ': set samples.rate_hz to what it gives, and samples.on_rate = "resample"'
        if for_good:
            self._refusal = reason
        self._keeps_open = True
        raise TransientError(reason)
