"""The abort timer, the annotated picture, health, the worker and the quiet log."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from agent.clock import NEVER_NS, NS_PER_S, SystemClock
from agent.core.outbox import Message
from agent.frame import Frame
from agent.loops.abort import AbortTimer
from agent.loops.annotate import AnnotateLoop, draw, write_jpeg
from agent.loops.health import HealthLoop, process_figures
from agent.loops.quiet_log import REPEAT_AFTER_NS, QuietLog
from agent.loops.worker import Worker
from agent.result import Payload
from tests.fakes import ManualClock, ScriptedAbort

FOUND: Payload = {"detections": [{"label": "cat", "class_id": 17, "score": 0.9, "box": [10.0, 12.0, 50.0, 40.0]}]}


def test_the_abort_timer_sets_what_is_due_and_only_that() -> None:
    """An earlier deadline armed later still comes first; a disarmed one never comes."""
    clock = SystemClock()
    timer = AbortTimer(clock)
    thread = threading.Thread(target=timer.run)
    thread.start()
    far, soon, disarmed, never = (ScriptedAbort() for _ in range(4))
    now_ns = clock.now_ns()
    timer.arm(far, now_ns + 60 * NS_PER_S)
    timer.arm(never, NEVER_NS)
    timer.arm(disarmed, now_ns + NS_PER_S // 20)
    timer.disarm(disarmed)
    timer.arm(soon, now_ns + NS_PER_S // 10)
    assert soon.event.wait(10)
    assert not far.event.is_set()
    assert not disarmed.event.is_set()
    timer.abort_all()
    assert far.event.is_set()
    timer.stop()
    thread.join(10)
    assert not thread.is_alive()


def test_the_abort_timer_sees_a_sooner_deadline_after_a_rest() -> None:
    """Its looks while nothing is armed hold nobody up: neither a shorter deadline, nor one that is over."""
    clock = SystemClock()
    timer = AbortTimer(clock)
    thread = threading.Thread(target=timer.run)
    thread.start()
    for given_ns in (NS_PER_S // 5, NS_PER_S // 50, -NS_PER_S, NS_PER_S // 20):
        in_time, late = ScriptedAbort(), ScriptedAbort()
        at_ns = clock.now_ns() + NS_PER_S // 10
        timer.arm(in_time, at_ns)
        timer.disarm(in_time)
        while clock.now_ns() <= at_ns:  # Past its look at a deadline that nobody waits for.
            thread.join(0.02)
        timer.arm(late, clock.now_ns() + given_ns)
        assert late.event.wait(10)
        assert not in_time.event.is_set()
    timer.stop()
    thread.join(10)
    assert not thread.is_alive()


def frame(level: int = 0) -> Frame:
    """Build a frame with pixels."""
    return Frame("s", 1, 0, NEVER_NS, np.full((60, 80, 3), level, np.uint8))


def run_annotate(loop: AnnotateLoop, *payloads: Payload) -> None:
    """Offer predictions and let the loop run to its end."""
    for payload in payloads:
        loop.show(frame(), payload)
    loop.stop()
    loop.run()


def test_outlines_points_and_numbers_are_drawn() -> None:
    """Each leaves its colour where it is; a picture with counts alone shows nothing."""
    box = {"label": "a", "class_id": 0, "score": 0.9, "box": [10.0, 20.0, 30.0, 40.0], "track_id": 7}
    point = {"name": "nose", "x": 70.0, "y": 50.0, "score": 0.9}
    found: Any = {
        "detections": [{**box, "mask": {"polygons": [[50.0, 5.0, 60.0, 5.0, 60.0, 15.0]]}, "keypoints": [point]}],
        "poses": [{"score": 0.9, "keypoints": [{**point, "x": 5.0}]}],
    }
    drawn = draw(np.zeros((60, 80, 3), np.uint8), found)
    assert all(drawn[y, x].any() for x, y in ((10, 30), (60, 10), (70, 50), (5, 50)))
    assert not drawn[30, 70].any()


def test_counts_alone_replace_no_picture(tmp_path: Path) -> None:
    """The last find stays to be looked at."""
    loop = AnnotateLoop({"s": tmp_path / "s.jpg"}, ManualClock())
    run_annotate(loop, {"detections": [], "zones": {"z": 0}, "lines": {"l": {"left": 1, "right": 0}}})
    assert not (tmp_path / "s.jpg").exists()


def test_the_last_prediction_is_drawn(tmp_path: Path) -> None:
    """A JPEG with the box on it; an empty prediction does not replace it."""
    file = tmp_path / "s.jpg"
    loop = AnnotateLoop({"s": file}, ManualClock())
    run_annotate(loop, FOUND, {"detections": []})
    written = cv2.imread(str(file))
    assert written is not None
    assert written.shape == (60, 80, 3)
    assert written.max() > 100
    assert loop.failures == 0


@pytest.mark.parametrize("file", [Path("/dev/full/s.jpg"), Path("/proc/s.jpg")])
def test_a_picture_that_cannot_be_written_is_said_once_and_nothing_else_happens(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A folder that is none, and one that takes no files."""
    loop = AnnotateLoop({"s": file}, ManualClock())
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            loop._write("s", frame(), FOUND)
    assert loop.failures == 3
    assert len(caplog.records) == 1
    assert str(file) in caplog.text


def test_a_full_disk_keeps_the_old_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new one is written beside it first, so the old one stays whole."""
    file = tmp_path / "s.jpg"
    write_jpeg(file, frame().pixels)
    before = file.read_bytes()

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        write_jpeg(file, frame(99).pixels)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_drawing_takes_grey_frames_classes_and_boxes_at_the_edge() -> None:
    """Whatever a payload holds, the frame itself is not changed."""
    pixels = np.zeros((40, 40), np.uint8)
    canvas = draw(pixels, {"classes": [{"label": "x", "class_id": 0, "score": 1.0}]})
    assert canvas.shape == (40, 40, 3)
    edge: Payload = {"detections": [{"label": "x", "class_id": 0, "score": 1.0, "box": [-5.0, -5.0, 90.0, 90.0]}]}
    assert draw(frame().pixels, edge).any()
    assert not pixels.any()


def health(**changes: Any) -> tuple[HealthLoop, list[Message], list[tuple[str, Any]]]:
    """Build a health loop on lists."""
    sent: list[Message] = []
    events: list[tuple[str, Any]] = []
    options: dict[str, Any] = {
        "snapshot": lambda: {"streams": {}},
        "emit": sent.append,
        "report": lambda event, body: events.append((event, body)),
        "self_check": lambda: {"s": 0},
        "keep": lambda body, *, is_last: None,
        "period_ns": 30 * NS_PER_S,
        "memory_limit_bytes": 1 << 40,
        "clock": ManualClock(),
    }
    return HealthLoop(**options | changes), sent, events


def test_health_is_a_retained_state() -> None:
    """Its topic, and when a reader should call it stale."""
    loop, sent, events = health()
    loop.send()
    assert (sent[0].topic, sent[0].retain, sent[0].qos) == ("health", True, 0)
    assert sent[0].body["stale_after_s"] == 65
    assert events == []


def test_health_offers_each_document_for_the_history_and_its_last() -> None:
    """In the thread that sends it, where a disk that hangs holds up nothing else."""
    kept: list[tuple[dict[str, Any], bool]] = []
    first = threading.Event()

    def keep(body: dict[str, Any], *, is_last: bool) -> None:
        kept.append((body, is_last))
        first.set()

    loop, sent, _ = health(keep=keep, period_ns=NS_PER_S // 100, clock=SystemClock())
    thread = threading.Thread(target=loop.run)
    thread.start()
    assert first.wait(10)
    loop.stop()
    thread.join(10)
    assert kept[0] == (sent[0].body, False)
    assert [is_last for _, is_last in kept].count(True) == 1
    assert kept[-1][1]


def test_a_ledger_violation_is_an_event_once_for_each_change() -> None:
    """It must never fire; if it does, it is seen."""
    loop, _, events = health(self_check=lambda: {"s": 2})
    loop.send()
    loop.send()
    assert [event for event, _ in events] == ["ledger_violation"]


def test_memory_over_its_limit_is_an_event() -> None:
    """Said at the crossing, with both figures."""
    loop, _, events = health(memory_limit_bytes=1 << 20)
    loop.send()
    loop.send()
    ((event, figures),) = events
    assert event == "memory_over_limit"
    assert figures["rss_mb"] > figures["limit_mb"] == 1
    assert process_figures(1 << 20)["over_limit"]
    assert not process_figures(1 << 40)["over_limit"]


def test_a_worker_that_raises_is_seen(caplog: pytest.LogCaptureFixture) -> None:
    """An unexpected error ends the thread with its trace, and somebody is told."""
    ended = threading.Event()

    def body() -> None:
        raise RuntimeError("a bug")

    worker = Worker("w", body, ended.set)
    worker.start()
    assert ended.wait(10)
    assert worker.join(10)
    assert worker.has_crashed
    assert "a bug" in caplog.text


def test_the_quiet_log_says_each_change_once(caplog: pytest.LogCaptureFixture) -> None:
    """Not each try; again after a minute with what was held back; at once after it was over."""
    clock = ManualClock()
    quiet = QuietLog(logging.getLogger("test"), clock)
    assert quiet.warn("broker", "refused")
    assert not quiet.warn("broker", "refused")
    assert quiet.warn("broker", "absent")
    clock.ns += REPEAT_AFTER_NS
    quiet.warn("broker", "absent")
    assert quiet.clear("broker")
    assert not quiet.clear("broker")
    assert quiet.warn("broker", "absent")
    assert len(caplog.records) == 4


def test_a_thread_that_could_not_be_started_has_no_end_to_wait_for() -> None:
    """The kernel may refuse one, and whoever clears up afterwards must not fail as well."""
    worker = Worker("unstarted", lambda: None, lambda: None)
    worker.join_or_leave(0.0)
    assert worker.join(0.0)
    assert not worker.is_alive
