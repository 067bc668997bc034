"""A golden recording: what a model of signals must make of it on this device."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from agent.clock import NS_PER_S
from agent.core.samples import CsvCodec
from agent.core.wav import HEADER_BYTES_MAX, parse_header
from agent.core.windows import Windower, window_policy
from agent.errors import ConfigError, PermanentError
from agent.frame import Block, Samples
from agent.models.signal import SignalSpec

RECORDING_BYTES_MAX = 16 << 20
"""Of a golden recording: eight minutes of sound at 16 kHz. A few seconds prove as much."""


def golden_windows(file: Path, spec: SignalSpec) -> list[Samples]:
    """Return the windows of a recording, float32 [context + length, channels] each, in order.

    Args:
        file: WAV, or CSV with a header that names the channels.
        spec: of the model.

    Raises:
        ConfigError: missing, of another rate or other channels, or shorter than one window.
    """
    try:
        if file.stat().st_size > RECORDING_BYTES_MAX:
            raise ConfigError(f"{file}: has more than {RECORDING_BYTES_MAX} bytes: a few seconds are enough")
        data = file.read_bytes()
        samples = _from_wav(data, spec) if file.suffix.lower() == ".wav" else _from_csv(data, spec)
    except OSError as error:
        raise ConfigError(f"{file}: the golden recording cannot be read: {error.strerror}") from error
    except PermanentError as error:
        raise ConfigError(f"{file}: {error}") from error
    windower = Windower(window_policy(spec.describe(), gap_ns=NS_PER_S, fill_samples=0))
    windows = [window.samples for window in windower.push(Block(0, samples))]
    if not windows:
        raise ConfigError(f"{file}: has {len(samples)} samples, one window takes {spec.length}")
    return windows


def _from_wav(data: bytes, spec: SignalSpec) -> Samples:
    form = parse_header(data[:HEADER_BYTES_MAX])
    if form.rate_hz != spec.rate_hz or form.channels != len(spec.channels):
        wanted = f"{spec.rate_hz:g} Hz with {len(spec.channels)} channel(s)"
        raise PermanentError(f"has {form.rate_hz} Hz with {form.channels} channel(s), the model takes {wanted}")
    return form.decode(data[form.data_at :])


def _from_csv(data: bytes, spec: SignalSpec) -> Samples:
    codec = CsvCodec(spec.channels)
    readings = [reading for line in data.splitlines() if (reading := codec.parse(line)) is not None]
    if not readings:
        raise PermanentError("holds no sample")
    return np.concatenate([reading.samples for reading in readings])
