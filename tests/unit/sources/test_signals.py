"""What each source of samples makes of good and of bad input."""

from __future__ import annotations

import contextlib
import os
import struct
import wave
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.clock import NEVER_NS, NS_PER_MS, NS_PER_S, Clock, SystemClock
from agent.core.backoff import Backoff
from agent.core.conversion import Plan
from agent.core.policy import Overflow, StreamPolicy
from agent.core.samples import CsvCodec, JsonCodec, RawCodec, SenderTime
from agent.core.wav import parse_header
from agent.core.windows import Windower, WindowPolicy, window_policy
from agent.errors import ConfigError, PermanentError, TransientError
from agent.frame import Block, Frame, Samples
from agent.interfaces import SampleSource, Signal, SignalForm, Source
from agent.loops.capture import CaptureLoop
from agent.loops.inbox import Inbox
from agent.settings import StreamSettings
from agent.sources.alsa import Recorder
from agent.sources.byte_stream import ByteStreamSource
from agent.sources.iio import Element, IioSource
from agent.sources.serial_line import SerialLine
from agent.sources.standard_input import StandardInput
from agent.sources.wav import WavSource
from agent.sources.windowed import WindowedSource
from agent.sourcing import build_source
from tests.fakes import ManualClock
from tests.paths import SPEECH
from tests.senders import Feeder, IioTree, SerialPair, fake_recorder

SOUND = Signal(rate_hz=16_000, channels=("mono",), units=(), length=160, hop=160, context=0)
WATCH = Signal(rate_hz=50, channels=("x", "y"), units=("m/s2",), length=2, hop=2, context=0)


def built(source: object, signal: Signal, clock: Clock | None = None, **settings: object) -> Source:
    """Build a source as the agent does, in every_frame mode."""
    values = {"name": "s", "source": str(source), "model": "m", "mode": "every_frame", **settings}
    return build_source(StreamSettings.model_validate(values), clock or SystemClock(), signal)


def read_all(source: Source | SampleSource) -> tuple[list[Samples], list[str]]:
    """Return every window or block until the end, and the text of every error."""
    source.open()
    contents: list[Samples] = []
    errors: list[str] = []
    while True:
        try:
            capture = source.read()
        except PermanentError as error:
            errors.append(str(error))
            continue
        if capture is None:
            source.close()
            return contents, errors
        contents.append(capture.samples if isinstance(capture, Block) else capture.pixels)


def write_wav(file: Path, samples: Samples, rate_hz: int = 16_000, bits: int = 16) -> Path:
    """Write samples in -1..1 as PCM."""
    with wave.open(str(file), "wb") as out:
        out.setnchannels(samples.shape[1])
        out.setsampwidth(bits // 8)
        out.setframerate(rate_hz)
        whole = np.round(samples.astype(np.float64) * 2 ** (bits - 1)).astype("<i8")
        wide = whole + (128 if bits == 8 else 0)
        out.writeframes(wide.ravel().view(np.uint8).reshape(-1, 8)[:, : bits // 8].tobytes())
    return file


def ramp(count: int, channels: int = 1) -> Samples:
    """Values that every width of PCM holds exactly."""
    values: Samples = (np.arange(count * channels, dtype=np.float32) % 200 - 100) / np.float32(128)
    return values.reshape(-1, channels)


@pytest.mark.parametrize("bits", [8, 16, 24, 32])
def test_pcm_of_every_width_is_read_exactly(tmp_path: Path, bits: int) -> None:
    """What was written comes out, but for what does not fill a window."""
    blocks, _ = read_all(built(write_wav(tmp_path / "a.wav", ramp(480), bits=bits), SOUND))
    np.testing.assert_array_equal(np.concatenate(blocks), ramp(480))


def test_float_and_the_extensible_header_are_read(tmp_path: Path) -> None:
    """As recorders write them; a chunk of odd length comes before, another behind."""
    data = ramp(320, 2).astype("<f4").tobytes()
    tag = struct.pack("<HHIIHH", 0xFFFE, 2, 16_000, 128_000, 8, 32) + struct.pack("<HHI", 22, 32, 3)
    tag += struct.pack("<H", 3) + bytes(14)
    chunks = b"LIST" + struct.pack("<I", 3) + b"abc\0"
    chunks += b"fmt " + struct.pack("<I", len(tag)) + tag + b"data" + struct.pack("<I", len(data)) + data
    chunks += b"id3 " + struct.pack("<I", 4) + b"\x7f\x7f\x7f\x7f"
    file = tmp_path / "a.wav"
    file.write_bytes(b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WAVE" + chunks)
    blocks, _ = read_all(built(file, SOUND, samples={"channels": ["2"]}))
    np.testing.assert_array_equal(np.concatenate(blocks)[:, 0], ramp(320, 2)[:, 1])


def test_a_recording_that_was_cut_off_gives_what_it_has(tmp_path: Path) -> None:
    """A recorder that lost its power announces 0 samples, or more than there are."""
    whole = write_wav(tmp_path / "a.wav", ramp(480)).read_bytes()
    for announced, end in ((0, None), (0xFFFF_FFFF, None), (10_000, None), (960, -330)):
        file = tmp_path / "b.wav"
        file.write_bytes(whole[:40] + struct.pack("<I", announced) + whole[44:end])
        blocks, errors = read_all(built(file, SOUND))
        assert (len(blocks), errors) == (3 if end is None else 1, [])


def test_another_rate_is_refused_or_resampled(tmp_path: Path) -> None:
    """48 kHz for a model of 16: refused with what to set; resampled, the duration is the same."""
    file = write_wav(tmp_path / "a.wav", ramp(48_000), rate_hz=48_000)
    with pytest.raises(ConfigError, match=r'gives 48000 .* the model takes 16000: set samples.on_rate = "resample"'):
        built(file, SOUND)
    blocks, _ = read_all(built(file, SOUND, samples={"on_rate": "resample"}))
    assert len(blocks) == 99  # The last window waits for what the filter looks ahead to.


def test_more_channels_are_refused_picked_or_mixed(tmp_path: Path) -> None:
    """Stereo for a model of one channel."""
    file = write_wav(tmp_path / "a.wav", ramp(160, 2))
    with pytest.raises(ConfigError, match=r"has 2 channels \(1, 2\), the model takes 1 \(mono\).*samples.mix = true"):
        built(file, SOUND)
    (picked,), _ = read_all(built(file, SOUND, samples={"channels": ["2"]}))
    np.testing.assert_array_equal(picked[:, 0], ramp(160, 2)[:, 1])
    (mixed,), _ = read_all(built(file, SOUND, samples={"mix": True}))
    np.testing.assert_allclose(mixed[:, 0], ramp(160, 2).mean(axis=1), rtol=1e-6)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is not a WAV file"),
        (b"RIFF\0\0\0\0AVI LIST", "is not a WAV file"),
        (b"RIFF\0\0\0\0WAVEdata\4\0\0\0\0\0\0\0", "samples come before their format"),
        (b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0" + struct.pack("<HHIIHH", 2, 1, 8000, 8000, 1, 4), "format 2 with 4 bits"),
        (b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0" + struct.pack("<HHIIHH", 1, 0, 8000, 0, 0, 16), "0 channels at 8000 Hz"),
        (b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0" + struct.pack("<HHIIHH", 1, 1, 8000, 16000, 2, 16), "without samples"),
    ],
)
def test_files_that_are_no_sound_are_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    """At the start, with the file's name."""
    file = tmp_path / "a.wav"
    file.write_bytes(data)
    with pytest.raises(ConfigError, match=rf"a\.wav: .*{reason}"):
        built(file, SOUND)


def test_a_paced_file_is_stamped_as_a_microphone(tmp_path: Path) -> None:
    """Window k is due when its last sample would have been heard; a late reader gets no more than a second."""
    clock = ManualClock()
    source = WavSource(SPEECH, clock, is_paced=True, repeat=False, block_s=0.032)
    source.open()
    start_ns = clock.ns
    stamps = []
    for _ in range(5):
        block = source.read()
        assert block is not None
        stamps.append(block.captured_at_ns - start_ns)
    assert stamps[1:] == [stamps[0] + k * 32 * NS_PER_MS for k in range(1, 5)]
    clock.ns += NS_PER_S // 2
    block = source.read()
    assert block is not None
    assert block.follows
    assert clock.ns - block.captured_at_ns == NS_PER_S // 2 - 32 * NS_PER_MS, (
        "half a second late is half a second old"
    )
    clock.ns += 10 * NS_PER_S
    block = source.read()
    assert block is not None
    assert not block.follows
    assert block.captured_at_ns == clock.ns
    source.close()


def test_a_replay_keeps_the_recorded_times(tmp_path: Path) -> None:
    """Also those of a gap, which it declares; units are converted on the way."""
    file = tmp_path / "watch.ndjson"
    rows = [{"t": 1000 + 20 * k + (500 if k >= 4 else 0), "x": k, "y": 0} for k in range(8)]
    file.write_text("".join(f"{row}\n".replace("'", '"') for row in rows))
    clock = ManualClock()
    samples = {"time_key": "t", "time_unit": "ms", "units": ["g"]}
    source = built(file, WATCH, clock, mode="live", samples=samples)
    source.open()
    start_ns = clock.ns
    seen = []
    while (capture := source.read()) is not None:
        seen.append((round((capture.captured_at_ns - start_ns) / NS_PER_MS), capture.follows))
        assert capture.pixels[0, 0] % 9.80665 == pytest.approx(0, abs=1e-5)
    source.close()
    assert seen == [(20, True), (60, True), (600, False), (640, True)]


def test_a_bad_line_is_one_error_with_its_number(tmp_path: Path) -> None:
    """Missing channels, strings, NaN, out of order: the others are still used; their times tell of the gap."""
    file = tmp_path / "watch.csv"
    lines = ["t,x,y", "1,1,1", "2,2,2", "3,3,nan", "4,four,4", "5,5", "5.5,1,1", "5.2,2,2", "6,3,3", "7,4,4"]
    file.write_text("\n".join(lines))
    windows, errors = read_all(built(file, WATCH, samples={"time_key": "t", "gap_ms": 10_000}))
    assert [window[:, 0].tolist() for window in windows] == [[1, 2], [1, 3]]
    assert [error.partition("watch.csv:")[2].partition(":")[0] for error in errors] == ["4", "5", "6", "8"]
    for error, reason in zip(errors, ("NaN", "'x' is 'four'", "has 2 columns", "out of order"), strict=True):
        assert reason in error


def test_a_bad_line_without_a_time_leaves_a_gap(tmp_path: Path) -> None:
    """No window holds samples from both sides of it; the next one says that it follows nothing."""
    file = tmp_path / "watch.ndjson"
    file.write_text("[1, 1]\n[2, 2]\n[3, 3]\n[4]\n[5, 5]\n[6, 6]\n")
    form, codec = SignalForm(50, ("x", "y")), JsonCodec(("x", "y"))
    descriptor = os.open(file, os.O_RDONLY)
    samples = ByteStreamSource(
        StandardInput(descriptor), SystemClock(), new_codec=lambda: codec, new_time=None, form=form
    )
    policy = window_policy(WATCH, gap_ns=NS_PER_S, fill_samples=0)
    source = WindowedSource(samples, "-", WATCH, Plan(), policy, has_time=False)
    source.open()
    first = source.read()
    with pytest.raises(PermanentError, match="has 1 values in a sample"):
        source.read()
    second = source.read()
    os.close(descriptor)
    assert first is not None
    assert second is not None
    assert [(c.pixels[:, 0].tolist(), c.follows) for c in (first, second)] == [([1, 2], True), ([5, 6], False)]


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """The ends of a pipe."""
    ours, theirs = os.pipe()
    yield ours, theirs
    for descriptor in (ours, theirs):
        with contextlib.suppress(OSError):
            os.close(descriptor)


def test_standard_input_ends_with_its_writer(pipe: tuple[int, int]) -> None:
    """The last line needs no end; raw numbers are whole samples whatever the pieces."""
    ours, theirs = pipe
    form = SignalForm(50, ("x", "y"))
    os.write(theirs, b'{"x": 1, "y": 2}\n\n{"x": 1}\n[3, 4]')
    os.close(theirs)
    source = ByteStreamSource(
        StandardInput(ours), SystemClock(), new_codec=lambda: JsonCodec(("x", "y")), new_time=None, form=form
    )
    blocks, errors = read_all(source)
    assert [block.tolist() for block in blocks] == [[[1, 2]], [[3, 4]]]
    assert errors == ["standard input: a sample lacks 'y'; it has x"]


def test_a_line_goes_on_when_the_wall_clock_is_set_back(pipe: tuple[int, int]) -> None:
    """NTP takes ten minutes off: no sample is refused, each is as old as before, the next window follows none."""
    ours, theirs = pipe
    clock = ManualClock()
    source = ByteStreamSource(
        StandardInput(ours),
        clock,
        new_codec=lambda: JsonCodec(("x",), "t", 1),
        new_time=lambda: SenderTime(is_wall=True),
        form=SignalForm(1, ("x",)),
    )
    source.open()
    windower = Windower(WindowPolicy(rate_hz=1, channels=1, length=1, hop=1, gap_ns=NS_PER_S // 2))
    told = []
    for second in range(6):
        clock.ns += NS_PER_S
        clock.wall_step_ns = 0 if second < 3 else -600 * NS_PER_S
        os.write(theirs, b'{"t": %d, "x": 1}\n' % (clock.wall_ns() - NS_PER_MS))
        block = source.read()
        assert block is not None
        for window in windower.push(block):
            assert window.captured_at_ns == clock.now_ns() - NS_PER_MS
            told.append(window.follows)
    assert told == [True, True, True, False, True, True]


def test_raw_samples_survive_any_pieces(pipe: tuple[int, int]) -> None:
    """Half a number at the end of a read is the other half's beginning."""
    ours, theirs = pipe
    form = SignalForm(50, ("1", "2"))
    source = ByteStreamSource(
        StandardInput(ours), SystemClock(), new_codec=lambda: RawCodec("int16", 2), new_time=None, form=form
    )
    source.open()
    os.write(theirs, b"\0\x40\0")
    os.write(theirs, b"\x20\0")
    block = source.read()
    assert block is not None
    assert block.samples.tolist() == [[0.5, 0.25]]
    os.write(theirs, b"\x10\0\x08")
    block = source.read()
    assert block is not None
    assert block.samples.tolist() == [[0.125, 0.0625]]


def test_a_serial_device_that_vanishes_is_lost_and_may_come_back() -> None:
    """The text names it; another opening reads from a clean line."""
    pair = SerialPair()
    line = SerialLine(pair.device, 9600)
    source = ByteStreamSource(
        line,
        SystemClock(),
        new_codec=lambda: CsvCodec(("x",), "t", NS_PER_MS),
        new_time=lambda: SenderTime(is_wall=False),
        form=SignalForm(50, ("x",)),
    )
    source.open()
    pair.write(b"5000,1\n")
    block = source.read()
    assert block is not None
    assert block.time_ns == 5 * NS_PER_S
    with pytest.raises(TransientError, match="cannot be opened"):
        SerialLine(pair.device, 9600).open()  # Two readers would each get a part of every line.
    pair.close()
    with pytest.raises(TransientError, match=f"{pair.device}: lost"):
        source.read()
    source.close()
    with pytest.raises(TransientError, match="cannot be opened"):
        SerialLine("/dev/nothing", 9600).open()


def test_a_serial_line_that_falls_silent_is_lost_and_back_with_its_first_byte() -> None:
    """One event each, however often it is opened in vain: a cable that is cut at its far end fails no call."""
    pair = SerialPair()
    events: list[str] = []

    def report(name: str, body: Mapping[str, Any]) -> None:
        events.append(name)
        if name == "source_back":
            loop.stop()

    opened = []

    class Line(SerialLine):
        def open(self) -> None:
            super().open()
            opened.append(True)
            if len(opened) == 3:
                pair.write(b"1,2\n3,4\n")

    samples = ByteStreamSource(
        Line(pair.device, 9600),
        SystemClock(),
        new_codec=lambda: CsvCodec(("x", "y"), None, 0),
        new_time=None,
        form=SignalForm(50, ("x", "y")),
        silence_s=0.5,
    )
    policy = window_policy(WATCH, gap_ns=NS_PER_S, fill_samples=0)
    source = WindowedSource(samples, "line", WATCH, Plan(), policy, has_time=False)
    inbox = Inbox({"s": StreamPolicy(10**15, 10, Overflow.DROP_OLDEST)}, SystemClock())
    loop = CaptureLoop("s", source, inbox, SystemClock(), report, Backoff())
    loop.run()
    pair.close()
    assert (events, len(opened)) == (["source_lost", "source_back"], 3)
    assert inbox.snapshot()["s"]["source_losses"] == 1


def test_a_line_that_speaks_is_not_silent(pipe: tuple[int, int]) -> None:
    """Each byte counts, also that of half a line; the text says how long nothing came."""
    ours, theirs = pipe
    source = ByteStreamSource(
        StandardInput(ours),
        SystemClock(),
        new_codec=lambda: JsonCodec(("x",)),
        new_time=None,
        form=SignalForm(50, ("x",)),
        silence_s=1,
    )
    source.open()
    # Slower than the limit in sum, never in one wait.
    with Feeder(lambda number: os.write(theirs, b"[1]\n"[number % 4 : number % 4 + 1]), interval_ms=400):
        assert source.read() is not None

    def read_on() -> None:
        while True:
            source.read()

    with pytest.raises(TransientError, match="standard input: said nothing for 1 s"):
        read_on()


def recorder(folder: Path, body: str) -> Recorder:
    """Make a microphone of a shell script."""
    program = fake_recorder(folder, body)
    return Recorder("hw:1", rate_hz=16_000, channels=1, block_s=0.032, program=program)


def read_to_its_loss(transport: Recorder) -> None:
    """Read until it is lost."""
    while True:
        transport.read(0.25)


def test_an_overrun_of_the_sound_card_is_a_gap(tmp_path: Path) -> None:
    """Arecord says it on standard error alone."""
    body = "echo 'overrun!!! (at least 3.1 ms long)' >&2; sleep 0.2; head -c 64 /dev/zero; sleep 60"
    transport = recorder(tmp_path, body)
    transport.open()
    piece = None
    while piece is None:
        piece = transport.read(0.25)
    assert (len(piece.data), piece.follows) == (64, False)
    transport.close()


def test_a_recorder_that_fails_says_why(tmp_path: Path) -> None:
    """Its own words reach the operator; a wrong rate is refused for good, as it would be another voice."""
    transport = recorder(tmp_path, "echo 'arecord: main:831: audio open error: No such file' >&2; exit 1")
    transport.open()
    with pytest.raises(TransientError, match=r"alsa:hw:1: the recorder ended: arecord: main:831: audio open error"):
        read_to_its_loss(transport)
    transport.close()
    body = "echo 'Warning: rate is not accurate (requested = 16000Hz, got = 44100Hz)' >&2; sleep 60"
    transport = recorder(tmp_path, body)
    transport.open()
    with pytest.raises(TransientError, match="got = 44100Hz"):
        read_to_its_loss(transport)
    transport.close()
    with pytest.raises(PermanentError, match="rate is not accurate"):
        transport.open()
    absent = Recorder("hw:1", rate_hz=1, channels=1, block_s=1, program="no-such-recorder")
    with pytest.raises(PermanentError, match="no-such-recorder is not installed"):
        absent.open()


def test_a_recorder_that_ignores_its_end_is_killed(tmp_path: Path) -> None:
    """No process of ours is left behind."""
    transport = recorder(tmp_path, "trap '' TERM; head -c 64 /dev/zero; while :; do sleep 0.1; done")
    transport.open()
    while transport.read(0.25) is None:
        pass
    process = transport._process
    assert process is not None
    transport.close()
    assert process.returncode == -9


def iio(tree: IioTree, *channels: str, name: str = "imu", rate_hz: float = 100) -> IioSource:
    """Open nothing yet."""
    return IioSource(name, channels, rate_hz, SystemClock(), sysfs=tree.sysfs, dev=tree.dev)


def test_iio_polls_values_in_the_kernels_units(tmp_path: Path) -> None:
    """(raw + offset) * scale; a scale of the kind holds for its channels; the rate is ours."""
    tree = IioTree(tmp_path, has_buffer=False)
    for name in ("imu", "iio:device0"):
        source = iio(tree, "accel_y", "accel_x", name=name)
        source.open()
        blocks = [source.read() for _ in range(3)]
        source.close()
        assert [block.samples.tolist() for block in blocks if block] == [[[-95, 50]]] * 3
        stamps = [block.captured_at_ns for block in blocks if block]
        assert stamps[2] - stamps[0] == 20 * NS_PER_MS


def test_iio_reads_packed_samples_from_the_buffer(tmp_path: Path) -> None:
    """Shifted, signed, of both byte orders, padded; the sample's own time tells its age."""
    tree = IioTree(tmp_path, has_buffer=True)
    source = iio(tree, "accel_x", "accel_y")
    source.open()
    assert (tree.device / "scan_elements/in_accel_x_en").read_text() == "1"
    assert (tree.device / "buffer/enable").read_text() == "1"
    wall_ns = SystemClock().wall_ns() - NS_PER_S
    tree.push(-3, 300, wall_ns)
    block = source.read()
    assert block is not None
    assert block.samples.tolist() == [[-1.5, 155]]
    assert block.time_ns == wall_ns
    assert not block.follows
    assert SystemClock().now_ns() - block.captured_at_ns >= NS_PER_S
    tree.push(2047, -32768, wall_ns + 1)
    tree.push(-2048, 32767, wall_ns + 2)
    samples: list[list[float]] = []
    while len(samples) < 2:
        block = source.read()
        assert block is not None
        samples += block.samples.tolist()
    assert samples == [[1023.5, (10 - 32768) / 2], [-1024, (10 + 32767) / 2]]
    source.close()
    assert (tree.device / "buffer/enable").read_text() == "0"
    tree.close()


def test_iio_says_what_there_is(tmp_path: Path) -> None:
    """A device that is absent may come; a channel that it has not will not."""
    tree = IioTree(tmp_path, has_buffer=True)
    with pytest.raises(TransientError, match=r"no such device; known are iio:device0 \(imu\)"):
        iio(tree, "accel_x", name="bmp280").open()
    with pytest.raises(PermanentError, match="has no channel gyro_x; it has accel_x, accel_y, timestamp"):
        iio(tree, "gyro_x").open()
    with pytest.raises(PermanentError, match="is not of a kind that is read"):
        Element.parse("le:f32/32>>0")
    tree.close()


def test_the_demo_speech_is_what_its_header_says() -> None:
    """7.1 s at 16 kHz."""
    form = parse_header(SPEECH.read_bytes())
    assert (form.rate_hz, form.channels, form.bits, form.data_bytes) == (16_000, 1, 16, 227_200)


def lose_and_find(
    file: Path, clock: ManualClock, **settings: object
) -> tuple[list[str], list[tuple[float, bool]], str | None, int]:
    """Let a capture loop read a file; return events with reasons, windows' first values, why it ended, failures."""
    source = built(file, WATCH, clock, samples={"time_key": "t", "time_base": "own", **settings})
    inbox = Inbox({"s": StreamPolicy(10**15, 10_000, Overflow.DROP_OLDEST)}, clock)
    events: list[str] = []
    loop = CaptureLoop(
        "s", source, inbox, clock, lambda name, body: events.append(f"{name} {body.get('reason', '')}"), Backoff()
    )
    loop.run()
    seen = []
    while isinstance(frame := inbox.take("", NEVER_NS), Frame):
        seen.append((round(float(frame.pixels[0, 0]), 4), frame.follows))
        inbox.settle(frame, inbox.finish(frame, clock.now_ns()))
    return events, seen, loop.failure, inbox.snapshot()["s"]["ledger"]["failed"]


def recording(file: Path, *parts: tuple[float, int]) -> Path:
    """Write so many samples at each of these rates, one after the other; x is the time."""
    lines, at_s = ["t,x,y"], 0.0
    for rate_hz, count in parts:
        for _ in range(count):
            at_s += 1 / rate_hz
            lines.append(f"{at_s:.6f},{at_s:.6f},0")
    file.write_text("\n".join(lines))
    return file


@pytest.mark.parametrize("rate_hz", [25, 45, 55, 100, 200])
def test_the_rate_that_the_samples_tell_is_refused_as_a_stated_one(tmp_path: Path, rate_hz: float) -> None:
    """The stream fails, and says what it saw; 40 samples of a file that ends are enough."""
    for count in (40, 400):
        file = recording(tmp_path / "watch.csv", (rate_hz, count))
        events, seen, failure, _ = lose_and_find(file, ManualClock())
        assert [event.partition(" ")[0] for event in events] == ["source_lost", "stream_failed"]
        assert len(seen) < 20
        assert failure is not None
        assert f"gives {rate_hz} samples a second by its own times, not 50: set samples.rate_hz" in failure


@pytest.mark.parametrize("rate_hz", [48.5, 50, 51.5])
def test_an_oscillator_may_be_off(tmp_path: Path, rate_hz: float) -> None:
    """By 3%, as those in sensors are."""
    events, seen, failure, _ = lose_and_find(recording(tmp_path / "watch.csv", (rate_hz, 400)), ManualClock())
    assert (events, failure, len(seen)) == ([], None, 200)


def test_a_rate_that_changes_in_the_middle_is_a_loss(tmp_path: Path) -> None:
    """Told as one; what comes at the wrong rate becomes no window, and the next one says that it follows nothing."""
    file = recording(tmp_path / "watch.csv", (50, 200), (100, 200), (50, 200))
    events, seen, failure, _ = lose_and_find(file, ManualClock())
    assert [event.partition(" ")[0] for event in events] == ["source_lost", "source_back"]
    assert "gives 100 samples a second by its own times, not 50" in events[0]
    assert failure is None
    at_wrong_rate = [at_s for at_s, _ in seen if 4.2 < at_s < 6]
    assert at_wrong_rate == []
    assert [follows for _, follows in seen].count(False) == 1
    assert len(seen) > 100 + (200 - 40) / 2


def test_a_rate_that_changes_is_resampled_where_that_is_asked_for(tmp_path: Path) -> None:
    """From the measured rate on: as many windows a second as before."""
    file = recording(tmp_path / "watch.csv", (50, 200), (100, 600), (25, 200))
    events, seen, failure, _ = lose_and_find(file, ManualClock(), on_rate="resample")
    assert [event.partition(" ")[0] for event in events] == ["source_lost", "source_back"] * 2
    assert failure is None
    (second,) = np.diff([at_s for at_s, _ in seen if 7 < at_s < 9.5]).reshape(1, -1)
    np.testing.assert_allclose(second, 0.04, atol=2e-3)
    (third,) = np.diff([at_s for at_s, _ in seen if at_s > 14]).reshape(1, -1)
    np.testing.assert_allclose(third, 0.04, atol=2e-3)


def test_gaps_that_leave_no_window_are_errors(tmp_path: Path) -> None:
    """Nobody would see them: `gaps` counts windows that follow nothing. Here each sample stands alone."""
    file = tmp_path / "watch.csv"
    times_s = [0.02, 0.04, *(1 + 0.5 * number for number in range(10)), 8, 8.02]
    file.write_text("t,x,y\n" + "".join(f"{at_s},{at_s},0\n" for at_s in times_s))
    events, seen, _, failed = lose_and_find(file, ManualClock())
    assert events == []
    assert seen == [(0.02, True), (8.0, False)]
    assert failed == 10


def test_a_serial_line_is_read_again_after_its_return(tmp_path: Path) -> None:
    """Under the same name as in /dev/serial/by-id; what follows is no continuation, and half a line is forgotten."""
    link = tmp_path / "usb-watch"
    first, second = SerialPair(), SerialPair()
    link.symlink_to(first.device)
    source = built(f"serial:{link}", WATCH, samples={"format": "csv"})
    source.open()
    first.write(b"1,1\n2,2\n3,")
    capture = source.read()
    assert capture is not None
    np.testing.assert_array_equal(capture.pixels, [[1, 1], [2, 2]])
    first.close()
    with pytest.raises(TransientError, match="usb-watch: lost"):
        source.read()
    source.close()
    link.unlink()
    with pytest.raises(TransientError, match="usb-watch: cannot be opened"):
        source.open()
    link.symlink_to(second.device)
    source.open()
    second.write(b"5,5\n6,6\n")
    capture = source.read()
    assert capture is not None
    np.testing.assert_array_equal(capture.pixels, [[5, 5], [6, 6]])
    assert not capture.follows
    source.close()
    second.close()


@pytest.mark.parametrize("has_buffer", [False, True])
def test_a_sensor_of_the_kernel_that_vanishes_is_lost_and_may_come_back(tmp_path: Path, has_buffer: bool) -> None:
    """Unbound from its driver: its folder goes, and is there again."""
    tree = IioTree(tmp_path, has_buffer=has_buffer)
    source = iio(tree, "accel_x", "accel_y")
    source.open()
    if has_buffer:
        tree.push(4, 0, 10**9)
    block = source.read()
    assert block is not None
    away = tmp_path / "away"
    tree.device.rename(away)
    if has_buffer:
        tree.close()  # The last writer: the device's file ends.
    with pytest.raises(TransientError, match=r"iio:imu: (lost|its buffer ended)"):
        source.read()
    source.close()
    with pytest.raises(TransientError, match="there is no such device; known are none"):
        source.open()
    away.rename(tree.device)
    if has_buffer:
        tree.reopen()
    source.open()
    if has_buffer:
        tree.push(6, 0, 2 * 10**9)
    block = source.read()
    assert block is not None
    assert not block.follows
    assert block.samples[0, 0] == (3 if has_buffer else 50)
    source.close()
    tree.close()
