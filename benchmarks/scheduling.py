"""What the agent adds to each frame: counting, queueing, admission, abort timer, verdict. No model, no pixels."""

from __future__ import annotations

import statistics
import sys
import threading
import time
from typing import Any

import numpy as np

from agent.clock import NS_PER_MS, NS_PER_S, SystemClock
from agent.core.scheduler import StreamPolicy
from agent.frame import Capture, Frame
from agent.loops.abort import AbortTimer
from agent.loops.inbox import Inbox
from benchmarks import harness

BOUND_US = 60.0
STREAM_COUNTS = (1, 4, 16)
PIXELS = np.zeros((1, 1, 3), np.uint8)


class _Abort:
    def set(self) -> None:
        """Nothing runs."""


def main() -> int:
    """Print microseconds a frame for some numbers of streams."""
    parser = harness.parser("Scheduling overhead a frame.")
    parser.add_argument("--frames", type=int, default=4_000, help="of each round")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    figures: dict[int, list[float]] = {count: [] for count in STREAM_COUNTS}
    for _ in range(args.rounds):
        for count, values in figures.items():
            values.append(_run(count, args.frames))
    rows: list[dict[str, Any]] = [
        {"streams": str(count), "us a frame": statistics.median(values), "least": min(values), "most": max(values)}
        for count, values in figures.items()
    ]
    verdicts = [
        harness.Verdict(
            f"{row['streams']} streams, us a frame",
            row["us a frame"],
            f"< {BOUND_US:g}",
            row["us a frame"] < BOUND_US,
        )
        for row in rows
    ]
    return harness.conclude("scheduling", rows, verdicts, as_json=args.json)


def _run(streams: int, frames: int) -> float:
    """Return the CPU microseconds that one frame takes of this thread, from capture to its outcome."""
    clock = SystemClock()
    names = [f"s{index}" for index in range(streams)]
    inbox = Inbox(dict.fromkeys(names, StreamPolicy(NS_PER_S)), clock)
    timer = AbortTimer(clock)
    thread = threading.Thread(target=timer.run)
    thread.start()
    for name in names:
        for _ in range(64):  # A full window of service times: the steady state.
            _serve(inbox, timer, name, clock)
    begun_ns = time.thread_time_ns()
    for index in range(frames):
        _serve(inbox, timer, names[index % streams], clock)
    used_ns = time.thread_time_ns() - begun_ns
    timer.stop()
    thread.join()
    return used_ns / frames / 1e3


def _serve(inbox: Inbox, timer: AbortTimer, name: str, clock: SystemClock) -> None:
    """Do for one frame what capture and inference threads do, but for the frame's own work."""
    inbox.offer(name, Capture(clock.now_ns(), PIXELS))
    frame = inbox.take()
    assert isinstance(frame, Frame)
    started_ns = clock.now_ns()
    abort = _Abort()
    timer.arm(abort, inbox.abort_at_ns(frame))
    timer.disarm(abort)
    outcome = inbox.finish(frame, started_ns)
    inbox.settle(frame, outcome)
    inbox.record_stages(name, {"preprocess": NS_PER_MS, "run": 20 * NS_PER_MS, "decode": NS_PER_MS})


if __name__ == "__main__":
    sys.exit(main())
