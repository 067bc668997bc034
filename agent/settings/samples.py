"""Settings of a stream's samples: how what a sensor or a microphone sends is to be read."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from agent.settings.fields import Section
from agent.settings.scope import Reload


class SamplesSettings(Section):
    """How a signal is to be read, for a model with a `[signal]`. What a file or device says can be left out."""

    format: Reload[Literal["json", "csv", "raw"] | None] = None
    """`json`: an object a line or message, with a number (or a list of them) for each channel, or a list in the
    channels' order. `csv`: a row a line, with or without a header. `raw`: little-endian numbers. Default: by the
    source: `csv` for .csv files, else `json`."""
    rate_hz: Reload[float | None] = Field(default=None, gt=0, le=1_000_000)
    """Samples a second that the source gives, above 0 to 1,000,000. Default: what the file says, else the model's."""
    on_rate: Reload[Literal["refuse", "resample"]] = "refuse"
    """What to do with a source of another rate than the model's: `refuse` it, or `resample` it with a filter.
    Default `refuse`: a wrong rate is mostly a wrong setting, and the model then hears another voice."""
    channels: Reload[tuple[str, ...] | None] = Field(default=None, min_length=1, max_length=256)
    """Keys, columns or, for sound and raw numbers, positions from "1" that hold the model's channels, in the model's
    order. Default: the model's own names for JSON and CSV, all of them in order for the others."""
    mix: Reload[bool] = False
    """Take the mean of all of the source's channels, for a model with one. Default false: more channels than the
    model has are refused."""
    source_channels: Reload[int | None] = Field(default=None, ge=1, le=256)
    """Channels that a raw source or a microphone has, 1 to 256. Default: as many as the model."""
    dtype: Reload[Literal["int8", "int16", "int32", "uint8", "uint16", "float32", "float64"]] = "int16"
    """Type of raw numbers; integers are divided by their range. Default int16: sound."""
    layout: Reload[Literal["interleaved", "planar"]] = "interleaved"
    """Order of raw numbers in a message: sample after sample, or channel after channel. Default `interleaved`."""
    units: Reload[tuple[str, ...] | None] = Field(default=None, min_length=1, max_length=256)
    """Units of the source, one or one a channel; converted to the model's where they differ (g and m/s2, deg/s and
    rad/s, mV and V, ...). Default: the model's."""
    scale: Reload[float] = 1.0
    """Factor on every value, before `units`, for counts of a converter. Default 1."""
    time_key: Reload[str | None] = None
    """Key or column with the time of the sample (of the last one in a message of many). Default: the time of
    arrival."""
    time_unit: Reload[Literal["s", "ms", "us", "ns"]] = "s"
    """Unit of `time_key`. Default s."""
    time_base: Reload[Literal["wall", "own"]] = "wall"
    """`wall`: the time counts from 1970 UTC, ages are told from it. `own`: the sender's own count, such as
    milliseconds since its start: only gaps are. Default `wall`."""
    gap_ms: Reload[float | None] = Field(default=None, gt=0, le=3_600_000)
    """A sample that comes so much later than due follows a gap, ms, above 0 to 3,600,000: windows start anew and the
    model's state is reset. Default: half a period where samples carry their time, else 250 ms and three periods,
    since arrival jitters, and never in every_frame mode, where the reader waits for the model."""
    fill_ms: Reload[float] = Field(default=0.0, ge=0, le=60_000)
    """Gaps up to this long are bridged by a straight line instead, ms, 0 to 60,000. Default 0: none are."""
    baud: Reload[int] = Field(default=115_200, ge=50, le=4_000_000)
    """Speed of a serial line, bits a second, 50 to 4,000,000. Default 115,200."""

    @model_validator(mode="after")
    def _fits(self) -> SamplesSettings:
        if self.mix and self.channels is not None:
            raise PydanticCustomError("mix", "mix takes all channels of the source: leave out channels")
        if self.format == "raw" and self.time_key is not None:
            raise PydanticCustomError("time_key", "raw numbers carry no time: leave out time_key")
        return self
