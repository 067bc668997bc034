"""What a source gives becomes what a model takes: its channels, its units, its rate."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from agent.clock import NS_PER_S
from agent.core.resampling import Resampler
from agent.errors import PermanentError
from agent.frame import Block
from agent.interfaces import Signal, SignalForm

STANDARD_GRAVITY = 9.80665
"""m/s2 (CGPM 1901)."""

_BASE_UNITS: dict[str, tuple[str, float]] = {
    "m/s2": ("m/s2", 1.0),
    "g": ("m/s2", STANDARD_GRAVITY),
    "mg": ("m/s2", STANDARD_GRAVITY / 1000),
    "rad/s": ("rad/s", 1.0),
    "deg/s": ("rad/s", math.pi / 180),
    "V": ("V", 1.0),
    "mV": ("V", 1e-3),
    "uV": ("V", 1e-6),
    "A": ("A", 1.0),
    "mA": ("A", 1e-3),
    "Pa": ("Pa", 1.0),
    "hPa": ("Pa", 100.0),
    "kPa": ("Pa", 1000.0),
    "m": ("m", 1.0),
    "mm": ("m", 1e-3),
    "T": ("T", 1.0),
    "uT": ("T", 1e-6),
    "gauss": ("T", 1e-4),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What the settings ask for; `settings.samples` documents each."""

    channels: tuple[str, ...] | None = None
    mix: bool = False
    scale: float = 1.0
    units: tuple[str, ...] | None = None
    resamples: bool = False


class Converter:
    """Converts one signal, block by block. Not thread-safe.

    Args:
        form: what comes.
        signal: what is wanted.
        plan: how to get there.

    Raises:
        PermanentError: there is no way; the text says what to set.
    """

    def __init__(self, form: SignalForm, signal: Signal, plan: Plan) -> None:
        self._is_mixed = plan.mix
        self._columns = _columns(form, signal, plan)
        self._factor = np.array(unit_factors(plan.units, signal.units, len(signal.channels)), np.float32) * plan.scale
        self._period_ns = NS_PER_S / form.rate_hz
        self._resampler: Resampler | None = None
        # Half a percent is what cheap oscillators are off by; windows are counted in samples.
        if abs(form.rate_hz - signal.rate_hz) > 0.005 * signal.rate_hz:
            if not plan.resamples:
                raise PermanentError(
                    f"gives {form.rate_hz:g} samples a second, the model takes {signal.rate_hz:g}: "
                    'set samples.on_rate = "resample", or samples.rate_hz if that is not its rate'
                )
            try:
                self._resampler = Resampler(form.rate_hz, signal.rate_hz, len(signal.channels))
            except ValueError as error:
                raise PermanentError(f"cannot be resampled: {error}") from None

    def convert(self, block: Block) -> Block | None:
        """Return what a block becomes; None where the resampler waits for more."""
        samples = block.samples
        if self._is_mixed:
            samples = samples.mean(axis=1, keepdims=True)
        elif self._columns is not None:
            samples = samples[:, self._columns]
        samples = np.ascontiguousarray(samples * self._factor, np.float32)
        if self._resampler is None:
            return block._replace(samples=samples)
        if not block.follows:
            self._resampler.reset()
        samples, lag = self._resampler.push(samples)
        if not len(samples):
            return None
        lag_ns = round(lag * self._period_ns)
        time_ns = None if block.time_ns is None else block.time_ns - lag_ns
        return Block(block.captured_at_ns - lag_ns, samples, time_ns, block.follows)


def unit_factors(given: tuple[str, ...] | None, wanted: tuple[str, ...], channels: int) -> list[float]:
    """Return a factor for each channel.

    Raises:
        PermanentError: units that have nothing in common, or whose number is wrong.
    """
    if given is None or not wanted:
        return [1.0] * channels
    if len(given) not in (1, channels):
        raise PermanentError(f"samples.units has {len(given)} values, wanted 1 or {channels}")
    return [_factor(given[at % len(given)], wanted[at % len(wanted)]) for at in range(channels)]


def _factor(given: str, wanted: str) -> float:
    if given == wanted:
        return 1.0
    (given_base, given_factor), (wanted_base, wanted_factor) = (
        _BASE_UNITS.get(unit, (unit, math.nan)) for unit in (given, wanted)
    )
    factor = given_factor / wanted_factor
    if given_base != wanted_base or math.isnan(factor):
        raise PermanentError(
            f"gives {given!r}, the model takes {wanted!r}: not known to be convertible; set samples.scale instead"
        )
    return factor


def _columns(form: SignalForm, signal: Signal, plan: Plan) -> list[int] | None:
    """Return which columns are taken, in the model's order; None for all as they are."""
    names, wanted = form.channels, signal.channels
    seen = f"{len(names)} channel{'s' * (len(names) > 1)} ({', '.join(names[:8])})"
    if plan.mix:
        if len(wanted) > 1:
            raise PermanentError(f"samples.mix gives one channel, the model takes {len(wanted)}")
        return None
    if plan.channels is not None:
        missing = [name for name in plan.channels if name not in names]
        if missing:
            raise PermanentError(f"has {seen}, no {', '.join(map(repr, missing))}: correct samples.channels")
        if len(plan.channels) != len(wanted):
            raise PermanentError(f"samples.channels names {len(plan.channels)}, the model takes {len(wanted)}")
        return [names.index(name) for name in plan.channels]
    if set(wanted) <= set(names):
        return [names.index(name) for name in wanted]
    if len(names) != len(wanted):
        more = ", or set samples.mix = true" if len(wanted) == 1 else ""
        raise PermanentError(
            f"has {seen}, the model takes {len(wanted)} ({', '.join(wanted)}): name them in samples.channels{more}"
        )
    return None
