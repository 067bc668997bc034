"""What sensors send: read exactly, or refused with the reason; never anything else."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from agent.clock import NS_PER_MS, NS_PER_S
from agent.core.samples import (
    LINE_BYTES_MAX,
    SAMPLES_MAX,
    Codec,
    CsvCodec,
    JsonCodec,
    Lines,
    RawCodec,
    Reading,
    SenderTime,
)
from agent.errors import PermanentError

XY = ("x", "y")
NUMBERS = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.floats(-1e6, 1e6, width=32)
)


def parse(codec: Codec, message: str | bytes) -> Reading:
    reading = codec.parse(message.encode() if isinstance(message, str) else message)
    assert reading is not None
    return reading


@given(samples=NUMBERS)
def test_json_objects_and_lists_are_read_exactly(samples: np.ndarray) -> None:
    """One sample or many, by name or by position."""
    names = tuple(f"c{index}" for index in range(samples.shape[1]))
    columns = {name: samples[:, index].tolist() for index, name in enumerate(names)}
    for body in (columns, samples.tolist()):
        np.testing.assert_array_equal(parse(JsonCodec(names), json.dumps(body)).samples, samples)
    one = {name: column[0] for name, column in columns.items()}
    np.testing.assert_array_equal(parse(JsonCodec(names), json.dumps(one)).samples, samples[:1])


@given(samples=NUMBERS, dtype=st.sampled_from(["float32", "float64"]))
def test_raw_arrays_of_both_layouts_are_read_exactly(samples: np.ndarray, dtype: str) -> None:
    """Sample after sample, or channel after channel."""
    channels = samples.shape[1]
    little = samples.astype(np.dtype(dtype).newbyteorder("<"))
    interleaved, planar = RawCodec(dtype, channels), RawCodec(dtype, channels, "planar")  # type: ignore[arg-type]
    np.testing.assert_array_equal(parse(interleaved, little.tobytes()).samples, samples)
    np.testing.assert_array_equal(parse(planar, little.T.tobytes()).samples, samples)


def test_integers_become_shares_of_their_range() -> None:
    """Sound in -1..1, whatever the width; unsigned ones have their zero in the middle."""
    for dtype, values in {"int16": [-32768, 0, 16384], "uint8": [0, 128, 192], "int8": [-128, 0, 64]}.items():
        message = np.array(values, np.dtype(dtype).newbyteorder("<")).tobytes()
        assert parse(RawCodec(dtype, 1), message).samples[:, 0].tolist() == [-1, 0, 0.5]  # type: ignore[arg-type]


def test_csv_takes_columns_by_name_or_by_position() -> None:
    """The header may name more, in another order; comments and empty lines say nothing."""
    codec = CsvCodec(XY, time_key="t", time_unit_ns=NS_PER_MS)
    assert codec.parse(b"") is None
    assert codec.parse("\ufeffy, t ,note,x".encode()) is None
    assert codec.parse(b"# a pause") is None
    reading = parse(codec, "2.5,1700000000001,cold,1\r")
    assert reading.samples.tolist() == [[1, 2.5]]
    assert reading.time_ns == 1_700_000_000_001 * NS_PER_MS
    assert parse(CsvCodec(XY), "3,4").samples.tolist() == [[3, 4]]


def test_nanoseconds_since_1970_stay_exact() -> None:
    """They are beyond what a float holds."""
    stamp = 1_700_000_000_123_456_789
    assert parse(JsonCodec(XY, "t", 1), json.dumps({"x": 1, "y": 2, "t": stamp})).time_ns == stamp
    assert parse(CsvCodec(XY, "t", 1), f"{stamp},1,2").time_ns == stamp


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ('{"x": 1}', "lacks 'y'; it has x"),
        ('{"x": 1, "y": "2"}', "'y' is \"2\", wanted a number"),
        ('{"x": 1, "y": null}', "'y' is null"),
        ('{"x": 1, "y": true}', "'y' is true"),
        ('{"x": 1, "y": NaN}', "NaN is not JSON"),
        ('{"x": 1, "y": 1e999}', "wanted a number"),
        ('{"x": 1, "y": 1e39}', "beyond float32"),
        ('{"x": 1, "y": 1%s}' % ("0" * 400), "wanted a number"),
        ('{"x": [1, 2], "y": [1]}', "different lengths: x 2, y 1"),
        ('{"x": [], "y": []}', "holds no sample"),
        ('{"x": {"a": 1}, "y": 2}', "wanted a number"),
        ("[1, 2, 3]", "has 3 values in a sample, wanted 2"),
        ("[[1, 2], 3]", "no list of values"),
        ("[]", "holds no sample"),
        ("7", "has 1 values in a sample, wanted 2"),
        ("{", "is not JSON"),
        ("[" * 100_000, "nested too deeply"),
        (b"\xff\xfe1", "is not JSON"),
        (json.dumps({"x": [0] * SAMPLES_MAX, "y": [0] * SAMPLES_MAX}), "more than"),
    ],
)
def test_json_that_cannot_be_used_is_refused_with_the_reason(message: str | bytes, reason: str) -> None:
    """Missing channels, strings, NaN: each names what is wrong."""
    with pytest.raises(PermanentError, match=reason):
        parse(JsonCodec(XY), message)


def test_csv_that_cannot_be_used_is_refused_with_the_reason() -> None:
    """A short row, a word, NaN, a header without our column, bytes that are no text."""
    refused: dict[str | bytes, str] = {
        "1": "has 1 columns, wanted 2",
        "1,two": "'y' is 'two', wanted a number",
        "1,nan": "NaN",
        "1,": "'y' is '', wanted a number",
        "a,x": "header lacks 'y'; it has a, x",
        b"\xff,1": "is not CSV",
    }
    for message, reason in refused.items():
        with pytest.raises(PermanentError, match=reason):
            parse(CsvCodec(XY), message)


def test_raw_that_cannot_be_used_is_refused_with_the_reason() -> None:
    """Half a sample, nothing, NaN."""
    for message, reason in {
        b"12345": "has 5 bytes, no multiple of 4",
        b"": "has 0 bytes",
    }.items():
        with pytest.raises(PermanentError, match=reason):
            parse(RawCodec("int16", 2), message)
    with pytest.raises(PermanentError, match="NaN"):
        parse(RawCodec("float32", 1), np.array([np.nan], "<f4").tobytes())


@given(message=st.binary(max_size=60))
def test_random_bytes_are_read_or_refused(message: bytes) -> None:
    """Nothing but a reading, nothing, or a PermanentError, whatever comes."""
    codecs: list[Codec] = [JsonCodec(XY, "t"), CsvCodec(XY, "t"), RawCodec("float32", 2)]
    for codec in codecs:
        with contextlib.suppress(PermanentError):
            reading = codec.parse(message)
            assert reading is None or np.isfinite(reading.samples).all()


@given(
    lines=st.lists(st.binary(max_size=20).map(lambda line: line.replace(b"\n", b"").replace(b"\r", b""))),
    cuts=st.lists(st.integers(1, 7), min_size=1),
)
def test_lines_are_whole_whatever_pieces_they_come_in(lines: list[bytes], cuts: list[int]) -> None:
    """Cut anywhere, they come out as they were."""
    data, out, codec, at = b"".join(line + b"\n" for line in lines), [], Lines(), 0
    while at < len(data):
        size = cuts[at % len(cuts)]
        out += codec.feed(data[at : at + size])
        at += size
    assert out + codec.last() == lines


def test_a_line_without_an_end_is_given_up() -> None:
    """64 KiB, then it comes out as it is."""
    codec = Lines()
    assert codec.feed(b"1" * LINE_BYTES_MAX) == []
    assert len(codec.feed(b"1")[0]) == LINE_BYTES_MAX + 1
    assert codec.feed(b"2\n") == [b"2"]


def test_times_out_of_order_and_from_the_future_are_refused() -> None:
    """And the next good one is taken: its age is what the sender says."""
    time, wall_ns, now_ns = SenderTime(is_wall=True), 1_700_000_000 * NS_PER_S, 5 * NS_PER_S
    assert time.captured_at_ns(wall_ns - 2 * NS_PER_S, wall_ns, now_ns) == 3 * NS_PER_S
    with pytest.raises(PermanentError, match=r"out of order: 0\.500000 s before"):
        time.captured_at_ns(wall_ns - 5 * NS_PER_S // 2, wall_ns, now_ns)
    with pytest.raises(PermanentError, match=r"from the future, 60\.000 s ahead"):
        time.captured_at_ns(wall_ns + 60 * NS_PER_S, wall_ns, now_ns)
    assert time.captured_at_ns(wall_ns + NS_PER_MS, wall_ns, now_ns) == now_ns


def test_a_sender_without_a_set_clock_tells_gaps_only() -> None:
    """Milliseconds since its start: the age is that of the arrival."""
    time = SenderTime(is_wall=False)
    assert time.captured_at_ns(5 * NS_PER_S, 1_700_000_000 * NS_PER_S, 77) == 77
    with pytest.raises(PermanentError, match="out of order"):
        time.captured_at_ns(5 * NS_PER_S, 1_700_000_000 * NS_PER_S, 78)
    assert time.captured_at_ns(0, 1_700_000_000 * NS_PER_S, 79) == 79, "the sender was started anew"


@pytest.mark.parametrize("back_s", [0.5, 600])
def test_a_stream_goes_on_at_once_when_the_wall_clock_was_set_back(back_s: float) -> None:
    """NTP corrects a device and the sensor that lives by its time: no sample is refused, ages stay right."""
    time, wall_ns, now_ns = SenderTime(is_wall=True), 1_700_000_000 * NS_PER_S, 5 * NS_PER_S
    for index in range(10):
        if index == 5:
            wall_ns -= int(back_s * NS_PER_S)
        assert time.captured_at_ns(wall_ns - NS_PER_MS, wall_ns, now_ns) == now_ns - NS_PER_MS
        with pytest.raises(PermanentError, match="out of order"):
            time.captured_at_ns(wall_ns - NS_PER_S // 4, wall_ns, now_ns)
        wall_ns, now_ns = wall_ns + NS_PER_S // 10, now_ns + NS_PER_S // 10


def test_a_sender_that_follows_a_step_later_goes_on_with_it() -> None:
    """Its samples are from the future until its own clock was corrected too."""
    time, wall_ns, now_ns = SenderTime(is_wall=True), 1_700_000_000 * NS_PER_S, 5 * NS_PER_S
    assert time.captured_at_ns(wall_ns, wall_ns, now_ns) == now_ns
    true_ns = wall_ns - 600 * NS_PER_S
    with pytest.raises(PermanentError, match=r"from the future, 601\.000 s ahead"):
        time.captured_at_ns(wall_ns + NS_PER_S, true_ns, now_ns)
    assert time.captured_at_ns(true_ns + NS_PER_S, true_ns + NS_PER_S, now_ns + NS_PER_S) == now_ns + NS_PER_S


def test_a_wall_clock_that_is_slewed_or_set_forward_excuses_nobody() -> None:
    """A delayed message stays out of order: only our own step back tells that the order begins anew."""
    for step_ns in (-50 * NS_PER_MS, 600 * NS_PER_S):
        time, wall_ns, now_ns = SenderTime(is_wall=True), 1_700_000_000 * NS_PER_S, 5 * NS_PER_S
        time.captured_at_ns(wall_ns, wall_ns, now_ns)
        with pytest.raises(PermanentError, match=r"out of order: 2\.000000 s before"):
            time.captured_at_ns(wall_ns - 2 * NS_PER_S, wall_ns + step_ns, now_ns)
