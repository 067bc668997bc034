"""Sources that are lost again and again: nothing stays behind in the agent's process."""

from __future__ import annotations

from pathlib import Path

import psutil

from tests.agent_process import AgentProcess
from tests.broker import Broker, Subscriber, needs_mosquitto, wait_until
from tests.mjpeg import MjpegServer
from tests.paths import MODELS
from tests.senders import Feeder

STREAMS = 30
LOSSES_SETTLED, LOSSES = 150, 200
"""After so many losses in all, caches and heaps are near their size; then so many more."""
GROWTH_BYTES_MAX = 2 << 20
"""0.5 MB in these 200 losses, 0.1 in 200 a thousand later."""


def settings(broker_url: str, camera_url: str) -> str:
    """Return settings of many streams that look at one camera."""
    streams = "".join(
        f'[[streams]]\nname = "s{number}"\nsource = "{camera_url}"\nmodel = "seen"\nmax_fps = 1\n'
        for number in range(STREAMS)
    )
    return f"""
[device]
id = "porch"
[mqtt]
url = "{broker_url}"
[health]
period_s = 1
[spool]
max_mb = 0
[[models]]
name = "seen"
path = "{MODELS / "tiny"}"
{streams}"""


@needs_mosquitto
def test_two_hundred_losses_leave_nothing_behind(tmp_path: Path) -> None:
    """Cameras that hang up on the whole agent, with its readers, decoders and sockets: memory, threads, files."""
    with (
        Broker(tmp_path) as broker,
        Subscriber(broker.port) as subscriber,
        MjpegServer(interval_ms=20) as camera,
        AgentProcess(tmp_path, settings(broker.url, camera.url)) as agent,
    ):
        process = psutil.Process(agent.pid)

        def losses() -> int:
            subscriber.seen.clear()
            streams = subscriber.wait_for("porch/health").body["streams"].values()
            return sum(stream["source_losses"] for stream in streams)

        def are_all_back() -> bool:
            streams = subscriber.wait_for("porch/health").body["streams"].values()
            return all(stream["silent_s"] is not None and stream["silent_s"] < 0.5 for stream in streams)

        def lose_until(losses_least: int) -> None:
            """Let the camera hang up until there were so many losses, and wait until all are back."""
            with Feeder(lambda _: camera.hang_up(), interval_ms=500):
                wait_until(lambda: losses() >= losses_least, f"{losses_least} losses", timeout_s=120)
            wait_until(are_all_back, "every reader's return")

        lose_until(LOSSES_SETTLED)
        threads, files, before_bytes = process.num_threads(), process.num_fds(), process.memory_full_info().uss
        lose_until(LOSSES_SETTLED + LOSSES)
        grown_bytes = process.memory_full_info().uss - before_bytes
        # One more is open for a moment now and then: a file of /proc, or one that is written.
        wait_until(
            lambda: process.num_threads() <= threads and process.num_fds() <= files,
            f"the end of threads and files beyond {threads} and {files}",
        )
        agent.terminate()
    assert grown_bytes <= GROWTH_BYTES_MAX
