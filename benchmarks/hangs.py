"""Readers that hang in native code: what each that is left behind keeps, and that no more than stated are.

Each reads a named pipe that holds the first seconds of a video and is then silent: FFmpeg waits in read(2), where
nothing but the end of the pipe reaches it. GStreamer makes the video (gst-launch-1.0 with x264enc and mpegtsmux).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from agent.clock import SystemClock
from agent.engine.process import prepare_process
from agent.errors import PermanentError, TransientError
from agent.interfaces import Source
from benchmarks import harness

GROWTH_MB_MAX = 50.0
"""A hang, as ARCHITECTURE.md states it."""
FRAMES = 60


def main() -> int:
    """Let readers hang one after the other until the stream is given up; then let all of them go."""
    parser = harness.parser("Readers that hang in native code.")
    parser.add_argument("--width", type=int, default=1920)
    parser.add_argument("--height", type=int, default=1080)
    args = parser.parse_args()
    prepare_process()
    from agent.sources.guarded import HUNG_MAX, GuardedSource
    from agent.sources.video_file import VideoFileSource

    pid, clock, rows = os.getpid(), SystemClock(), []
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "video.ts"
        _make(video, args.width, args.height)

        def new_source() -> VideoFileSource:
            pipe = Path(folder) / f"camera{len(_ends)}.ts"
            os.mkfifo(pipe)
            threading.Thread(target=_feed, args=(pipe, video.read_bytes()), daemon=True).start()
            return VideoFileSource(pipe, clock, is_paced=False, repeat=False, fps=None)

        before = _measured(pid)
        # Caches and heaps have their size after one that ended well.
        _read_whole(VideoFileSource(video, clock, is_paced=False, repeat=False, fps=None))
        settled = _measured(pid)
        source = GuardedSource(new_source, "hanging", hang_s=2)
        reason = ""
        for _ in range(HUNG_MAX + 2):
            try:
                source.open()
                while source.read() is not None:
                    pass
            except TransientError:
                rows.append({"hang": len(rows) + 1, **_grown(settled, _measured(pid))})
            except PermanentError as error:
                reason = str(error)
                break
        for end in _ends:
            os.close(end)
        _wait_for(lambda: not any(t.name.startswith("read-") for t in threading.enumerate()))
        rows.append({"hang": "all came back", **_grown(settled, _measured(pid))})
    harness.note(f"before the first decoder: {before}; given up: {reason}")
    each_mb = rows[len(rows) - 2]["grown_mb"] / (len(rows) - 1)
    return harness.conclude(
        "hangs",
        rows,
        [
            harness.Verdict("growth a hang, MiB", each_mb, f"<= {GROWTH_MB_MAX:g}", each_mb <= GROWTH_MB_MAX),
            harness.Verdict(
                "hangs before the stream is given up", len(rows) - 1, f"= {HUNG_MAX + 1}", len(rows) == HUNG_MAX + 2
            ),
        ],
        as_json=args.json,
    )


_ends: list[int] = []
"""The writers' ends of the pipe, open for as long as the readers shall hang."""


def _feed(pipe: Path, data: bytes) -> None:
    end = os.open(pipe, os.O_WRONLY)
    _ends.append(end)
    view = memoryview(data)
    while view:
        view = view[os.write(end, view) :]


def _make(video: Path, width: int, height: int) -> None:
    form = f"video/x-raw,width={width},height={height},framerate=30/1"
    encoder = ["x264enc", "speed-preset=ultrafast", "bitrate=8000", "key-int-max=30"]
    command = ["gst-launch-1.0", "-q", "videotestsrc", f"num-buffers={FRAMES}", "pattern=ball", "!", form, "!"]
    command += [*encoder, "!", "mpegtsmux", "!", "filesink", f"location={video}"]
    try:
        subprocess.run(command, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(
            f"no video: {error}; apt-get install gstreamer1.0-tools and the plugins good, bad, ugly"
        ) from None


def _read_whole(source: Source) -> None:
    source.open()
    while source.read() is not None:
        pass
    source.close()


def _measured(pid: int) -> dict[str, float]:
    return {
        "anonymous_mb": harness.memory_mb(pid)["Anonymous"],
        "threads": float(len(list(Path(f"/proc/{pid}/task").iterdir()))),
        "files": float(len(list(Path(f"/proc/{pid}/fd").iterdir()))),
    }


def _grown(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    return {
        "grown_mb": after["anonymous_mb"] - before["anonymous_mb"],
        "threads": after["threads"] - before["threads"],
        "files": after["files"] - before["files"],
    }


def _wait_for(is_true: Callable[[], bool]) -> None:
    for _ in range(200):
        if is_true():
            return
        harness.pause(0.05)
    raise SystemExit("a reader did not come back from its hang")


if __name__ == "__main__":
    sys.exit(main())
