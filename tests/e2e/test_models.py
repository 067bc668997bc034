"""Networks as people have them, without model.toml, and what a stream does with their results: the command itself."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from tests.agent_process import AgentProcess, checked_summary, settings_text
from tests.broker import Broker, Subscriber, needs_mosquitto
from tests.heads import save, ultralytics
from tests.paths import CLIP, CLIP_FRAMES, COCO_SSD, REPOSITORY
from tests.schemas import check_all, validator


def run(model: Path) -> subprocess.CompletedProcess[str]:
    """Run a network on the clip."""
    command = [sys.executable, "-W", "error", "-m", "agent", "run", "--model", model, "--source", CLIP]
    return subprocess.run(
        [*map(str, command), "--output", "stdout"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_bare_yolo_export_runs(tmp_path: Path) -> None:
    """From the file to results that keep the contract: masks, source pixels, every frame, and what was assumed."""
    ended = run(save(tmp_path / "yolo.onnx", "segment", metadata=ultralytics("segment")))
    assert ended.returncode == 0, ended.stderr
    assert "yolo.onnx: has no model.toml beside it and is taken for this" in ended.stderr
    assert "labels are the 3 names in the metadata" in ended.stderr
    lines = ended.stdout.splitlines()
    results = [json.loads(line) for line in lines[:-1]]
    assert len(results) == CLIP_FRAMES
    for result in results:
        validator("result").validate(result)
        for found in result["detections"]:
            x1, y1, x2, y2 = found["box"]
            assert 0 <= x1 < x2 <= 640
            assert 0 <= y1 < y2 <= 480
    assert any(found["mask"]["polygons"] for result in results for found in result["detections"])
    assert checked_summary(lines)["models"]["yolo"]["variant"] == "full"


def test_the_default_network_needs_no_manifest(tmp_path: Path) -> None:
    """The clip's truth by shapes alone: COCO's names are assumed from their number."""
    file = Path(shutil.copy(COCO_SSD / "model.onnx", tmp_path / "ssd.onnx"))
    ended = run(file)
    assert ended.returncode == 0, ended.stderr
    truth = (REPOSITORY / "config/demo/clip.truth.txt").read_text().split()
    shown = {"coffee": "cup", "astronaut": "person", "chelsea": "cat", "none": None}
    for line, name in zip(ended.stdout.splitlines(), truth, strict=False):
        labels = {found["label"] for found in json.loads(line)["detections"]}
        assert (shown[name] in labels) if shown[name] else not labels


def test_a_network_that_fits_nothing_ends_with_78(tmp_path: Path) -> None:
    """What it takes and gives, and what to do; no traceback."""
    file = tmp_path / "m.onnx"
    file.write_bytes((REPOSITORY / "tests/assets/models/two_inputs/model.onnx").read_bytes())
    ended = run(file)
    assert ended.returncode == 78
    assert "takes images float32[1,3,32,32], threshold float32[1] and gives scores float32[1,3]" in ended.stderr
    assert "name it under [constants], [sizes] or [times] in model.toml" in ended.stderr
    assert "Traceback" not in ended.stderr


STEPS = """
mode = "every_frame"
[streams.steps.filter]
labels_not = ["dining table"]
[streams.steps.tracker]
[[streams.steps.zones]]
name = "all"
polygon = [[0, 0], [1, 0], [1, 1], [0, 1]]
anchor = "center"
[streams.steps.presence]
appear_s = 0.0
leave_s = 0.0
[streams.steps.changes]
moved_min = 0.2
keep_alive_s = 600
"""


@needs_mosquitto
def test_the_steps_of_a_stream(tmp_path: Path) -> None:
    """Only news is sent, with numbers and zones; the rest is counted; what comes and goes is an event."""
    with Broker(tmp_path) as broker, Subscriber(broker.port) as subscriber:
        text = settings_text(url=broker.url, model=COCO_SSD, stream=STEPS)
        with AgentProcess(tmp_path, text) as agent:
            subscriber.wait_for("porch/status", state="offline", timeout_s=60)
            code, lines = agent.wait()
            assert code == 0, agent.log
        messages = subscriber.drain()
    ledger = checked_summary(lines)["streams"]["door"]["ledger"]
    assert ledger["published"] + ledger["unchanged"] == ledger["captured"] == CLIP_FRAMES
    assert ledger["unchanged"] > CLIP_FRAMES / 2
    assert {"result", "event"} <= check_all(messages)
    results = [message.body for message in messages if "/results/" in message.topic]
    assert len(results) == ledger["published"]
    numbers = {found.get("track_id") for result in results for found in result["detections"]}
    assert {1, 2} <= numbers
    assert all(result["zones"]["all"] == len(result["detections"]) for result in results)
    events = [m.body for m in messages if m.topic.endswith(("/object_appeared", "/object_left"))]
    labels = [event["label"] for event in events if event["event"] == "object_appeared"]
    assert {"cup", "cat", "person"} <= set(labels)
    assert all(event["stream"] == "door" for event in events)
