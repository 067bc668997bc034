"""A real RTSP server, GStreamer's, whose pictures tell when they were made."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from agent.clock import NS_PER_MS, NS_PER_S, SystemClock
from agent.frame import Content
from agent.sinks.embedded import free_ports
from agent.sources.network import NetworkSource
from tests.agent_process import AgentProcess, settings_text
from tests.broker import Broker, Subscriber, needs_mosquitto
from tests.rtsp import NO_SERVER, has_server, rtsp_camera

pytestmark = pytest.mark.skipif(not has_server(), reason=NO_SERVER)


def made_at_ms(pixels: Content) -> int:
    """Read the picture's own time: 8 x 8 cells, black or white, the lowest bit first."""
    cell = pixels.shape[0] // 8
    white = pixels[cell // 2 :: cell, cell // 2 :: cell, 0] > 128
    return sum(int(is_white) << bit for bit, is_white in enumerate(white.ravel().tolist()))


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_frames_are_as_old_as_their_stamps_say(transport: str) -> None:
    """From the first frame on: what FFmpeg read while it looked at the stream does not come later as if it were new.

    With OpenCV's defaults each of these frames counted as at least 1.9 s younger than it was.
    """
    clock = SystemClock()
    (port,) = free_ports(1)
    source = NetworkSource(f"rtsp://127.0.0.1:{port}/camera", clock, transport=transport)
    with rtsp_camera(port, 256):
        source.open()
        errors_ms = []
        for _ in range(10):
            capture = source.read()
            assert capture is not None
            assert capture.pixels.shape == (256, 256, 3)
            stamped_ms = (clock.wall_ns() - clock.now_ns() + capture.captured_at_ns) / NS_PER_MS
            errors_ms.append(stamped_ms - made_at_ms(capture.pixels))
        source.close()
    # The best of ten: a stall of the machine between making and arrival is no fault of the stamp.
    assert min(errors_ms) < NS_PER_S / NS_PER_MS


@needs_mosquitto
def test_a_camera_that_closes_and_comes_back_with_another_size(tmp_path: Path) -> None:
    """The whole agent: one loss, one return, results of the new size, and none that is older than its deadline."""
    (port,) = free_ports(1)
    source = f"rtsp://127.0.0.1:{port}/camera"
    with Broker(tmp_path) as broker, Subscriber(broker.port) as subscriber:
        text = settings_text(url=broker.url, source=source, stream="deadline_ms = 2000")
        with ExitStack() as camera:
            camera.enter_context(rtsp_camera(port, 256))
            with AgentProcess(tmp_path, text) as agent:
                subscriber.wait_for("results/door", source={"width": 256, "height": 256})
                camera.close()
                subscriber.wait_for("events/source_lost")
                with rtsp_camera(port, 320):
                    subscriber.wait_for("events/source_back")
                    subscriber.wait_for("results/door", source={"width": 320, "height": 320})
                summary = agent.terminate()
        subscriber.wait_for("porch/status", state="offline")  # Behind the last result.
        results = [message.body for message in subscriber.drain() if "/results/" in message.topic]
    assert max(result["age_ms"] for result in results if not result.get("replay")) <= 2000
    assert summary["streams"]["door"]["ledger"]["published"] == len(results)
