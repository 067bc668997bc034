"""Settings of the models and of the streams that they look at."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from agent.settings.fields import Section, TopicLevel
from agent.settings.samples import SamplesSettings
from agent.settings.scope import Live, LocalOnly, Reload
from agent.settings.steps import StepsSettings

DEADLINE_MS_LIVE = 250.0
"""Default deadline in live mode: a person who watches calls 250 ms immediate."""


class ModelSettings(Section):
    """One model that streams may use."""

    name: LocalOnly[TopicLevel]
    """Name by which streams refer to it; required."""
    path: LocalOnly[Path]
    """A model folder with `model.toml`, or an .onnx file; one without a `model.toml` beside it is taken for what it
    seems to be (docs/models.md). Relative to the working folder."""
    variant: LocalOnly[str | None] = Field(default=None, min_length=1, max_length=64)
    """The heaviest variant of `model.toml` that is run, `full` for the model itself; those before it are not loaded.
    Default: what `edgebeat model tune` found here, or `full`."""
    keep_warm_s: Live[float | None] = Field(default=None, ge=0.1, le=3600.0)
    """After so many seconds without a frame the model runs once on its golden sample, 0.1 to 3600, and again after
    the same time, so that the next frame finds caches, pages and clock as it needs them. Default: never; an idle
    device saves power."""


class StreamSettings(Section):
    """One source, the model that looks at it, and how old its results may be."""

    name: LocalOnly[TopicLevel]
    """Name of the stream, one topic level; results go to `results/{name}`. Required."""
    source: Reload[str] = Field(min_length=1, max_length=2048)
    """Required. Pictures: /dev/video0 (or a by-id path, or a number), rtsp://..., http://..., a video file, a folder
    of pictures, `mqtt:TOPIC` with a JPEG or PNG a message, `synthetic:`. Signals: a .wav, .csv, .ndjson or .jsonl
    file, `-` (standard input), `serial:/dev/ttyUSB0`, `iio:NAME`, `alsa:DEVICE`, `mqtt:TOPIC`, `synthetic:`.
    docs/sources.md describes each."""
    model: Reload[str]
    """Name of a model under `models`. Required."""
    enabled: Live[bool] = True
    """Whether the source is read. Default true; a stream that is off keeps its model warm and its books."""
    mode: Reload[Literal["live", "every_frame"]] = "live"
    """`live`: the clock paces, the newest frame wins. `every_frame`: every frame of a file is processed and the
    source waits. Default `live`: a device watches the present."""
    deadline_ms: Live[float | None] = Field(default=None, gt=0, le=600_000)
    """Age at which a result is worthless, ms, above 0 to 600,000. Default: 250 in live mode (what a person
    calls immediate), none in every_frame mode."""
    max_fps: Live[float | None] = Field(default=None, gt=0, le=1000)
    """Frames a second that are processed at most, above 0 to 1000; the others are counted as `skipped`.
    Default: every frame the model can take."""
    stride: Live[int] = Field(default=1, ge=1, le=1000)
    """Of the captured frames, every n-th is processed, 1 to 1000; the others are counted as `skipped`. Default 1:
    every frame."""
    changed_share_min: Reload[float | None] = Field(default=None, gt=0, le=1)
    """Share of the picture that must have changed since the last frame that was processed, above 0 to 1; frames that
    changed less are counted as `skipped`, but one each 5 s is processed all the same. 0.005 sees a person across a
    yard. Default: every frame is processed."""
    priority: Live[int] = Field(default=5, ge=0, le=9)
    """0 to 9: when there is too much to do, higher goes first, down to `scheduler.min_share` for the others; the
    lowest are paused first when the device is in need. Default 5: all alike."""
    on_late: Live[Literal["drop", "mark"]] = "drop"
    """What becomes of a result after its deadline: `drop` it, or publish it with `"late": true`. Default
    `drop`: the promise."""
    queue_frames: Live[int | None] = Field(default=None, ge=1, le=64)
    """Frames that wait for the model, 1 to 64. Default: 1 in live mode (a newer frame replaces it), 4 in
    every_frame mode (the source then waits). More than 1 in live mode keeps their order and drops the oldest.
    A 1080p frame takes 6.2 MB."""
    repeat: Reload[bool] = False
    """Start a file or folder again at its end. Default false: the stream ends with it."""
    width: Reload[int | None] = Field(default=None, ge=16, le=16_384)
    """Width to ask a camera for, pixels. Default: the camera's own."""
    height: Reload[int | None] = Field(default=None, ge=16, le=16_384)
    """Height to ask a camera for, pixels. Default: the camera's own."""
    fps: Reload[float | None] = Field(default=None, gt=0, le=1000)
    """Frame rate to ask a camera for, or at which a file is paced in live mode. Default: their own."""
    steps: StepsSettings = StepsSettings()
    """What happens between the model and the broker; see the sections below. Default: nothing."""
    transport: Reload[Literal["tcp", "udp"]] = "tcp"
    """How an RTSP camera sends. Default `tcp`: nothing is lost on the way, and one connection passes firewalls."""
    samples: SamplesSettings | None = None
    """How a signal is to be read; see below. Default: as the model takes it."""
    silence_s: Reload[float | None] = Field(default=None, ge=1, le=86_400)
    """After so many seconds without a message or a byte the source counts as lost (`source_lost`), 1 to 86,400: for
    `mqtt:`, which stays connected, `serial:`, which is opened anew, and standard input. Default: 30 s or ten periods
    for `serial:`, since a sensor speaks at its rate; never for the others, since a sender may have nothing to say."""
    pixel_format: Reload[str | None] = Field(default=None, pattern=r"^[A-Z0-9 ]{4}$")
    """Four letters of the format to ask a camera for, such as `MJPG` or `YUYV`. Default: the camera's own; many
    give more than 5 frames a second of 1080p as MJPG only."""
    annotated_image: LocalOnly[Path | None] = None
    """JPEG file that shows the last prediction drawn on its frame, replaced at most once a second. Default:
    none."""

    @property
    def budget_ms(self) -> float | None:
        """The deadline in force, ms after capture; None for none."""
        if self.deadline_ms is None and self.mode == "live":
            return DEADLINE_MS_LIVE
        return self.deadline_ms
