"""What the viewer makes of messages: counts, marks, limits, and nothing at all of nonsense."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cli.fleet import (
    DEVICES_MAX,
    RATE_WINDOW_NS,
    SAMPLES_MAX,
    STREAMS_MAX,
    STREAMS_TOTAL_MAX,
    FleetView,
)
from agent.cli.fleet_table import render, rows
from agent.clock import NS_PER_MS, NS_PER_S
from agent.core.cbor import encode

PREFIX = "edgebeat/v1"


def send(fleet: FleetView, topic: str, body: Any, now_ns: int = 0) -> str | None:
    """Apply one message below the prefix and return its line."""
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    change = fleet.apply(f"{PREFIX}/{topic}", payload, now_ns)
    return None if change is None else change.line()


def result(age_ms: Any = 20.0, **more: Any) -> dict[str, Any]:
    """Return a result's payload with a cat in it."""
    found = [{"label": "cat", "class_id": 17, "score": 0.912, "box": [1, 2, 3, 4]}]
    return {"boot": "b1", "seq": 1, "age_ms": age_ms, "task": "detection", "detections": found, **more}


def status(state: str = "online", **more: Any) -> dict[str, Any]:
    """Return a status' payload."""
    return {"state": state, "boot": "b1", "reason": "started", "version": "0.1.0", **more}


def test_a_result_is_one_line_with_its_age_and_what_was_found() -> None:
    """A line names device, stream, age and the surest labels, and counts the rest."""
    fleet = FleetView(PREFIX)
    more = [{"label": f"thing{i}", "score": 0.5 - i / 100} for i in range(3)]
    body = result(18.44)
    body["detections"] += more
    assert send(fleet, "porch/results/door", body) == "porch/door  18 ms  cat 0.91, thing0 0.50, thing1 0.49, +1"
    assert send(fleet, "porch/results/door", result(detections=[])) == "porch/door  20 ms  nothing found"


def test_classes_and_other_tasks_have_a_text_too() -> None:
    """A classification shows its classes, a task that the view does not know its name."""
    fleet = FleetView(PREFIX)
    classes = {"age_ms": 5, "task": "classification", "classes": [{"label": "tabby", "score": 0.8}]}
    assert send(fleet, "a/results/s", classes) == "a/s  5 ms  tabby 0.80"
    assert send(fleet, "a/results/s", {"task": "raw", "values": []}) == "a/s  a result of task raw"


def test_a_status_is_a_line_only_when_it_changes() -> None:
    """The broker repeats a retained status at each connection; that is no news."""
    fleet = FleetView(PREFIX)
    assert send(fleet, "porch/status", status()) == "porch  online (started), v0.1.0"
    assert send(fleet, "porch/status", status()) is None
    gone = status("offline", reason="connection lost")
    assert send(fleet, "porch/status", gone) == "porch  offline (connection lost), v0.1.0"
    assert fleet.devices["porch"].is_online() is False


def test_a_cleared_status_removes_the_device() -> None:
    """An empty retained status says that the device is gone for good; of an unknown device it says nothing."""
    fleet = FleetView(PREFIX)
    send(fleet, "porch/status", status())
    assert send(fleet, "porch/status", b"") == "porch  status was cleared"
    assert not fleet.devices
    assert send(fleet, "porch/status", b"") is None


def test_a_new_boot_forgets_the_streams_of_the_last_one() -> None:
    """A stream that was taken out of the settings does not stay on the screen after the restart."""
    fleet = FleetView(PREFIX)
    send(fleet, "porch/status", status())
    send(fleet, "porch/results/door", result())
    send(fleet, "porch/status", status(reason="reconnected"))
    assert "door" in fleet.devices["porch"].streams
    send(fleet, "porch/status", status(boot="b2"))
    assert not fleet.devices["porch"].streams


def test_a_replay_is_shown_as_one_and_leaves_rate_and_age_alone() -> None:
    """History must not look like the present, however old or frequent it is."""
    fleet = FleetView(PREFIX)
    send(fleet, "porch/results/door", result(20.0), now_ns=0)
    send(fleet, "porch/results/door", result(30.0), now_ns=NS_PER_S)
    line = send(fleet, "porch/results/door", result(90_000.0, replay=True), now_ns=NS_PER_S)
    assert line == "porch/door  replay: cat 0.91"
    stream = fleet.devices["porch"].streams["door"]
    assert (stream.results, stream.replays) == (2, 1)
    assert stream.age_ms == 30.0
    assert stream.age_p95_ms() == 30.0
    assert stream.rate_hz(NS_PER_S) == pytest.approx(1.0)
    assert stream.text.startswith("replay: ")


def test_a_late_result_is_marked() -> None:
    """A stream with on_late = "mark" says so on the screen."""
    fleet = FleetView(PREFIX)
    assert send(fleet, "porch/results/door", result(300.0, late=True)) == "porch/door  300 ms  late: cat 0.91"


@pytest.mark.parametrize("rate_hz", [0.5, 1, 10, 30, 200])
def test_the_rate_is_that_of_the_last_seconds(rate_hz: float) -> None:
    """The figure is right at any rate, also above what the samples cover, and falls to 0 when a stream stops."""
    fleet = FleetView(PREFIX)
    interval_ns, now_ns = int(NS_PER_S / rate_hz), 0
    for _ in range(int(30 * rate_hz)):
        now_ns += interval_ns
        send(fleet, "porch/results/door", result(), now_ns)
    stream = fleet.devices["porch"].streams["door"]
    assert stream.rate_hz(now_ns) == pytest.approx(rate_hz, rel=0.25 if rate_hz < 1 else 0.02)
    assert stream.rate_hz(now_ns + RATE_WINDOW_NS) == 0.0


def test_the_first_results_give_a_rate_without_a_full_window() -> None:
    """A stream that began a second ago shows its rate, one that has a single result shows none."""
    fleet = FleetView(PREFIX)
    send(fleet, "porch/results/door", result(), 0)
    stream = fleet.devices["porch"].streams["door"]
    assert stream.rate_hz(0) == 0.0
    for index in range(1, 11):
        send(fleet, "porch/results/door", result(), index * 100 * NS_PER_MS)
    assert stream.rate_hz(NS_PER_S) == pytest.approx(10.0)


def test_p95_is_the_nearest_rank_of_the_newest_samples() -> None:
    """Of 1 to 256 ms it is 244 ms, and what is older than the samples is forgotten."""
    fleet = FleetView(PREFIX)
    for age_ms in (9999.0, *map(float, range(1, SAMPLES_MAX + 1))):
        send(fleet, "porch/results/door", result(age_ms))
    stream = fleet.devices["porch"].streams["door"]
    assert stream.age_p95_ms() == 244.0
    assert stream.results == SAMPLES_MAX + 1


def test_health_gives_memory_and_drops_and_reveals_silence() -> None:
    """An online device that is silent for longer than its health promises is not shown as well."""
    fleet = FleetView(PREFIX)
    send(fleet, "porch/status", status())
    body = {
        "stale_after_s": 65,
        "process": {"rss_mb": 93.4},
        "delivery": {"dropped": {"queue_full": 3, "refused": 4}},
    }
    assert send(fleet, "porch/health", body, now_ns=NS_PER_S) is None
    device = fleet.devices["porch"]
    assert device.silent_s(60 * NS_PER_S) is None
    assert device.silent_s(101 * NS_PER_S) == 100.0
    (row,) = rows(fleet, 101 * NS_PER_S)
    assert row.text == "online (started), v0.1.0, silent for 100 s, 93 MiB, 7 messages dropped"


def test_health_tells_what_a_device_does_not_do() -> None:
    """Steps of the ladder and models that are not loaded stand in its line; nonsense in their place is unreadable."""
    fleet = FleetView(PREFIX)
    send(fleet, "porch/status", status())
    steps = [{"step": "stride 2", "cause": "temperature"}, {"step": "seen: small"}]
    send(fleet, "porch/health", {"degradation": {"steps": steps}, "models": {"big": {"marked": {"hangs": 2}}}})
    (row,) = rows(fleet, 0)
    assert "doing less: stride 2; seen: small" in row.text
    assert "not loaded: big" in row.text
    wrong: list[dict[str, Any]] = [{"degradation": {"steps": "all"}}, {"degradation": {"steps": [1]}}, {"models": []}]
    for body in wrong:
        send(fleet, "porch/health", body)
    assert fleet.unreadable == 3


def test_an_event_is_a_line_with_its_figures() -> None:
    """What the envelope adds is left out, nested values too."""
    fleet = FleetView(PREFIX)
    body = {"boot": "b", "seq": 1, "at": "t", "event": "source_lost", "stream": "door", "deep": {"a": 1}}
    assert send(fleet, "porch/events/source_lost", body) == "porch  event source_lost: stream door"


def test_devices_and_streams_are_bounded() -> None:
    """Made-up devices and streams cost no more memory than the limits say, and are counted."""
    fleet = FleetView(PREFIX)
    for index in range(STREAMS_MAX + 5):
        send(fleet, f"porch/results/s{index}", result())
    assert len(fleet.devices["porch"].streams) == STREAMS_MAX
    assert fleet.beyond_limits == 5
    for index in range(DEVICES_MAX + 10):
        send(fleet, f"d{index}/status", status())
    assert len(fleet.devices) == DEVICES_MAX
    assert fleet.beyond_limits == 5 + 11
    for index in range(STREAMS_TOTAL_MAX + 10):
        send(fleet, f"d{index // STREAMS_MAX}/results/s{index % STREAMS_MAX}", result())
    assert sum(len(device.streams) for device in fleet.devices.values()) == STREAMS_TOTAL_MAX
    assert all(stream.ages_ms.maxlen == SAMPLES_MAX for stream in fleet.devices["d0"].streams.values())


UNREADABLE = [
    b"",
    b"\xff\xfe{",
    b"not json",
    b"[]",
    b"7",
    b"null",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b'{"state": 1, "age_ms": "old", "process": 3, "detections": 1}',
    b'{"age_ms": NaN, "state": Infinity}',
    b'{"age_ms": 1e999}',
    b'{"age_ms": ' + b"9" * 400 + b"}",
    b'{"age_ms": ' + b"9" * 5000 + b"}",
    b'{"age_ms": true}',
    b'{"detections": [1]}',
    b'{"detections": [{"label": 1, "score": 1}]}',
    b'{"detections": [{"label": "cat"}]}',
    b'{"replay": "yes"}',
    b" " * (1 << 20) + b"{}",
    '{"detections": []}'.encode("utf-16"),
]


@pytest.mark.parametrize("payload", UNREADABLE, ids=range(len(UNREADABLE)))
def test_an_unreadable_result_is_counted_and_changes_nothing(payload: bytes) -> None:
    """Nonsense on a result's topic makes no device, no stream and no exception."""
    fleet = FleetView(PREFIX)
    assert send(fleet, "porch/results/door", payload) is None
    assert fleet.unreadable == 1
    assert not fleet.devices


@pytest.mark.parametrize("topic", ["status", "health", "events/x"])
@pytest.mark.parametrize("payload", [b"\xff", b"[1]", b"{", b'{"state":[],"process":[]'], ids=range(4))
def test_other_unreadable_kinds_are_counted_too(topic: str, payload: bytes) -> None:
    """Status, health and events are believed no more than results."""
    fleet = FleetView(PREFIX)
    send(fleet, f"porch/{topic}", payload)
    assert fleet.unreadable == 1
    assert not fleet.devices


@pytest.mark.parametrize("topic", ["image/door", "log", "settings/desired", "model/state", "new/kind", ""])
def test_what_the_view_does_not_show_is_not_unreadable(topic: str) -> None:
    """A picture is no JSON, and later versions may add topics."""
    fleet = FleetView(PREFIX)
    assert send(fleet, f"porch/{topic}", b"\xff\xd8\xff") is None
    assert (fleet.messages, fleet.unreadable) == (1, 0)


def test_topics_outside_of_the_prefix_are_ignored() -> None:
    """The prefix is whole levels: edgebeat/v10 is another one."""
    fleet = FleetView(PREFIX)
    for topic in ("edgebeat/v10/porch/status", "edgebeat/v1", "", "x"):
        assert fleet.apply(topic, json.dumps(status()).encode(), 0) is None
    assert not fleet.devices


def test_control_characters_never_reach_the_terminal() -> None:
    """A label, a reason or a device's name with an escape sequence is made harmless, and cut."""
    fleet = FleetView(PREFIX)
    evil = "\x1b[2J\ud800" + "x" * 5000
    found = [{"label": evil, "score": 0.5}]
    lines = [
        send(fleet, "po\x1brch/results/do\nor", result(detections=found)),
        send(fleet, "porch/status", status(reason=evil)),
        send(fleet, f"porch/events/{evil[:3]}", {"event": "x", "text": evil}),
    ]
    for line in (*lines, *(row.name + row.text for row in rows(fleet, 0))):
        assert line is not None
        assert line.isprintable()
        assert len(line) < 300


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)
names = ["state", "reason", "boot", "version", "age_ms", "replay", "late", "detections", "classes", "task"]
names += ["process", "delivery", "dropped", "rss_mb", "stale_after_s", "label", "score"]
bodies = st.dictionaries(st.sampled_from(names), values, max_size=6)
messages = (
    st.binary(max_size=60) | bodies.map(lambda body: json.dumps(body).encode()) | values.map(repr).map(str.encode)
)
topics = st.sampled_from(
    ["status", "health", "results/s", "results", "events/e", "events", "status/x", "", "/", "image/s"]
)


@given(st.lists(st.tuples(topics, messages | st.just(b""), st.integers(0, 10**12)), max_size=20))
def test_nothing_that_arrives_is_an_exception(sent: list[tuple[str, bytes, int]]) -> None:
    """Whatever comes, in whatever order, the view lives, counts every message and can be painted."""
    fleet = FleetView(PREFIX)
    now_ns = 0
    for topic, payload, step_ns in sent:
        now_ns += step_ns
        change = fleet.apply(f"{PREFIX}/porch/{topic}", payload, now_ns)
        assert change is None or change.line().isprintable()
    assert fleet.messages == len(sent)
    assert fleet.unreadable <= len(sent)
    assert all(row.text.isprintable() for row in rows(fleet, now_ns))
    render(fleet, now_ns, headline="connected", rows_max=1)


def test_the_table_fits_into_80_columns_and_the_rows_that_there_are() -> None:
    """Names and figures stay whole, the text gives way, and rows beyond the screen are counted."""
    from rich.console import Console

    fleet = FleetView(PREFIX)
    send(fleet, "porch/status", status(reason="a reason that is much longer than what is left of the line"))
    for index in range(6):
        send(fleet, f"porch/results/stream-with-a-name-{index}", result(12345.0), now_ns=index)
    screen = io.StringIO()
    Console(width=80, height=20, file=screen).print(render(fleet, 10, headline="connected", rows_max=5))
    lines = screen.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("  stream-with-a-name-0") and "12345" in line for line in lines)
    assert "2 more rows" in lines[-1]


def test_cbor_is_read_like_json() -> None:
    """The first byte tells; nonsense that begins so is unreadable, with its reason."""
    fleet = FleetView("edgebeat/v1")
    body = {"age_ms": 12.0, "classes": [{"label": "cat", "class_id": 1, "score": 0.9}]}
    change = fleet.apply("edgebeat/v1/porch/results/door", encode(body), 0)
    assert change is not None
    assert change.text == "12 ms  cat 0.90"
    assert fleet.apply("edgebeat/v1/porch/results/door", b"\xa1\x61a", 0) is None
    assert (fleet.unreadable, "premature end" in fleet.reason) == (1, True)
