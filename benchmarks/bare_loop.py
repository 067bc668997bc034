"""The loop that a good engineer writes by hand with OpenCV, numpy, ONNX Runtime and paho: what the agent is held to.

It imports nothing of the agent, takes what it needs from the network itself, and has the agent's session options
but for its memory pattern, which `--compiled` takes over with the agent's compiled form of the network.
One thread reads, infers and publishes; with `--reader` a second one reads and keeps the newest frame. With
`--cameras N` it serves as many in turn, as such loops do.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

BACKLOG_S = 13.0
"""What a camera's stream holds for a reader that is too slow: H.264 over TCP through OpenCV was seen to fall that
far behind (socket buffers and demuxer), then frames are lost at the sender."""

SCORE_MIN = 0.5
IOU_MAX = 0.5

Detect = Callable[[Any], dict[str, Any]]


def main() -> None:
    """Run the loop that the arguments describe, until the end of the clip or SIGTERM."""
    args = _parse()
    if args.like_agent:
        _prepare_like_agent()
    detect = _build_detect(args.model, args.threads, args.compiled)
    if args.like_agent:
        ctypes.CDLL(None).malloc_trim(0)
    publish = _publish_to_stdout if args.port is None else _connect(args.port)
    cameras = [_Camera(args.source, args.fps, repeat=args.repeat) for _ in range(args.cameras)]
    take = _Newest(cameras).take if args.reader else _InTurn(cameras).take
    sequence = 0
    while (taken := take()) is not None:
        stream, (frame, captured_ns, grabbed_ns) = taken
        sequence += 1
        found = detect(frame)
        now_ns = _now_ns()
        publish(
            {
                "seq": sequence,
                "stream": stream,
                "captured_at": _iso_utc(captured_ns, now_ns),
                "age_ms": round((now_ns - captured_ns) / 1e6, 3),
                "age_since_grab_ms": round((now_ns - grabbed_ns) / 1e6, 3),
                "source": {"width": frame.shape[1], "height": frame.shape[0]},
                **found,
            }
        )


class _Camera:
    """A clip, as fast as it is read, or a frame each 1/fps as a camera gives it.

    A camera's frame n exists from its own time on; a slow reader gets it late, not another one. That is what
    `VideoCapture.read()` on a network stream does.
    """

    def __init__(self, source: Path, fps: float, *, repeat: bool) -> None:
        import cv2

        self._source = str(source)
        self._repeat = repeat
        self._interval_ns = int(1e9 / fps) if fps else 0
        self._capture = cv2.VideoCapture(self._source)
        self._due_ns: int | None = None
        self._never = threading.Event()

    def read(self) -> tuple[Any, int, int] | None:
        """Return the next frame with the times of its capture and of its arrival here; None at the end."""
        if self._interval_ns:
            self._wait_until_due()
        is_read, frame = self._capture.read()
        if not is_read and self._repeat:
            self._capture.open(self._source)
            is_read, frame = self._capture.read()
        now_ns = _now_ns()
        return (frame, now_ns if self._due_ns is None else self._due_ns, now_ns) if is_read else None

    def _wait_until_due(self) -> None:
        now_ns = _now_ns()
        self._due_ns = now_ns if self._due_ns is None else self._due_ns + self._interval_ns
        while now_ns - self._due_ns > BACKLOG_S * 1e9 and self._capture.grab():
            self._due_ns += self._interval_ns
        if self._due_ns > now_ns:
            self._never.wait((self._due_ns - now_ns) / 1e9)


class _InTurn:
    """Reads one camera after the other."""

    def __init__(self, cameras: list[_Camera]) -> None:
        self._cameras = cameras
        self._next = 0

    def take(self) -> tuple[str, Any] | None:
        index = self._next
        self._next = (index + 1) % len(self._cameras)
        taken = self._cameras[index].read()
        return None if taken is None else (f"camera{index}", taken)


class _Newest:
    """A thread for each camera that reads and keeps the newest frame; they are served in turn."""

    def __init__(self, cameras: list[_Camera]) -> None:
        self._frames: dict[int, Any] = {}
        self._next = 0
        self._count = len(cameras)
        self._changed = threading.Condition()
        for index, camera in enumerate(cameras):
            threading.Thread(target=self._read, args=(index, camera), daemon=True).start()

    def _read(self, index: int, camera: _Camera) -> None:
        while (taken := camera.read()) is not None:
            with self._changed:
                self._frames[index] = taken
                self._changed.notify()

    def take(self) -> tuple[str, Any]:
        with self._changed:
            while not self._frames:
                self._changed.wait()
            turns = [(self._next + offset) % self._count for offset in range(self._count)]
            index = next(turn for turn in turns if turn in self._frames)
            self._next = (index + 1) % self._count
            return f"camera{index}", self._frames.pop(index)


def _build_detect(folder: Path, threads: int, compiled: Path | None) -> Detect:
    """Return the way from a frame to its result, for the SSD detector and for image classifiers."""
    import cv2
    import numpy as np
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if compiled is not None:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.enable_mem_pattern = False
    network = folder / "model.onnx" if compiled is None else compiled
    session = ort.InferenceSession(str(network), options, providers=["CPUExecutionProvider"])
    labels = (folder / "labels.txt").read_text(encoding="utf-8").split("\n")
    entry = session.get_inputs()[0]
    is_nhwc = entry.shape[3] == 3
    size = (entry.shape[2], entry.shape[1]) if is_nhwc else (entry.shape[3], entry.shape[2])

    def detect(frame: Any) -> dict[str, Any]:
        picture = cv2.cvtColor(cv2.resize(frame, size), cv2.COLOR_BGR2RGB)
        tensor = picture[None] if is_nhwc else np.stack(cv2.split(picture))[None]
        outputs = session.run(None, {entry.name: tensor})
        if len(outputs) == 2:
            return {"detections": _boxes(cv2, np, outputs[0][0], outputs[1][0], frame.shape, labels)}
        scores = np.exp(outputs[0][0] - outputs[0][0].max())
        scores /= scores.sum()
        order = np.argsort(-scores)[:5]
        return {
            "classes": [{"label": labels[i], "class_id": int(i), "score": round(float(scores[i]), 4)} for i in order]
        }

    warm = np.zeros((480, 640, 3), np.uint8)
    for _ in range(3):
        detect(warm)
    return detect


def _boxes(
    cv2: Any, np: Any, boxes: Any, scores: Any, shape: tuple[int, ...], labels: list[str]
) -> list[dict[str, Any]]:
    """Return the detections of an SSD head: boxes [N, 4] as y, x, y, x in 0..1, scores [N, classes]."""
    anchors, classes = np.nonzero(scores >= SCORE_MIN)
    if not len(anchors):
        return []
    found = scores[anchors, classes]
    height, width = shape[:2]
    corners = np.clip(boxes[anchors][:, [1, 0, 3, 2]], 0, 1) * [width, height, width, height]
    sized = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    kept = cv2.dnn.NMSBoxesBatched(
        sized.tolist(), found.tolist(), classes.astype(np.int32).tolist(), SCORE_MIN, IOU_MAX
    )
    return [
        {
            "label": labels[classes[i]],
            "class_id": int(classes[i]) + 1,
            "score": round(float(found[i]), 4),
            "box": [round(float(v), 1) for v in corners[i]],
        }
        for i in kept
    ]


def _publish_to_stdout(result: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(result, separators=(",", ":")) + "\n")
    sys.stdout.flush()


def _connect(port: int) -> Callable[[dict[str, Any]], None]:
    """Return a function that publishes with QoS 1; paho's own thread does the network."""
    import paho.mqtt.client as mqtt
    from paho.mqtt.enums import CallbackAPIVersion

    client = mqtt.Client(CallbackAPIVersion.VERSION2, "bare", protocol=mqtt.MQTTv5)
    client.connect("127.0.0.1", port)
    client.loop_start()

    def publish(result: dict[str, Any]) -> None:
        client.publish("bench/results", json.dumps(result, separators=(",", ":")), qos=1)

    return publish


def _prepare_like_agent() -> None:
    """Import what the agent imports, and hold glibc's mmap threshold where it does: for the memory benchmark."""
    libc = ctypes.CDLL(None)
    libc.mallopt(-3, 1 << 17)  # M_MMAP_THRESHOLD
    libc.mallopt(-1, 1 << 18)  # M_TRIM_THRESHOLD
    import cv2
    import numpy as np
    import onnxruntime as ort
    import paho.mqtt.client as mqtt
    from pydantic import BaseModel, model_validator

    cv2.setNumThreads(1)
    del np, ort, mqtt, BaseModel, model_validator


def _now_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def _iso_utc(at_ns: int, now_ns: int) -> str:
    seconds = (time.clock_gettime_ns(time.CLOCK_REALTIME) - (now_ns - at_ns)) / 1e9
    return datetime.datetime.fromtimestamp(seconds, tz=datetime.UTC).isoformat(timespec="milliseconds")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A hand-written inference loop.")
    parser.add_argument("--model", type=Path, required=True, help="folder with model.onnx and labels.txt")
    parser.add_argument("--source", type=Path, required=True, help="video file")
    parser.add_argument("--port", type=int, help="broker on 127.0.0.1; standard output without it")
    parser.add_argument("--fps", type=float, default=0.0, help="pace as a camera; 0: as fast as it goes")
    parser.add_argument("--repeat", action="store_true", help="start again at the end")
    parser.add_argument("--reader", action="store_true", help="read in a thread of its own, keep the newest frame")
    parser.add_argument("--cameras", type=int, default=1, help="as many, all on the same file")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--compiled", type=Path, help="the network in optimised form, run without a memory pattern")
    parser.add_argument("--like-agent", action="store_true", help="the agent's imports and allocator settings")
    return parser.parse_args()


if __name__ == "__main__":
    main()
