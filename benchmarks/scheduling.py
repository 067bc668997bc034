"""What the agent adds to each frame, from capture to the message and its age. No model, no pixels, no encoding.

The inference loop is the real one; preprocessing, network and decoder are empty calls. Making the message is the
first part of its encoding: it has a column of its own.
"""

from __future__ import annotations

import statistics
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from agent.clock import NS_PER_MS, NS_PER_S, SystemClock
from agent.core.message import Message
from agent.core.policy import StreamPolicy
from agent.frame import Capture, Tensor
from agent.interfaces import Abort, LoadedModel, Placement, Variant
from agent.loops.abort import AbortTimer
from agent.loops.inbox import NO_PIXELS, Inbox
from agent.loops.inference import InferenceLoop
from agent.result import Payload
from benchmarks import harness

BOUND_US = 60.0
STREAM_COUNTS = (1, 4, 16)
PIXELS = np.zeros((1, 1, 3), np.uint8)


class _Abort:
    def set(self) -> None:
        """Nothing runs."""


class _NoNetwork:
    """See `interfaces.Engine`: takes no time."""

    providers = ("none",)
    is_loaded = True

    def new_abort(self) -> _Abort:
        """See `Engine.new_abort`."""
        return _Abort()

    def run(self, inputs: Mapping[str, Tensor], abort: Abort) -> list[Tensor]:  # noqa: ARG002  The protocol's names.
        """See `Engine.run`."""
        return []

    def release(self) -> None:
        """See `Engine.release`."""

    def shrink(self) -> threading.Event:
        """See `Engine.shrink`."""
        return threading.Event()


class _NoDecoder:
    """See `interfaces.Decoder`."""

    def decode(self, outputs: list[Tensor], placement: Placement) -> Payload:  # noqa: ARG002  The protocol's names.
        """See `Decoder.decode`."""
        return {}


PLACEMENT = Placement(1.0, 1.0, 0.0, 0.0, 1, 1, 1, 1)


def _no_preprocess(*_: object) -> tuple[dict[str, Tensor], Placement]:
    return {}, PLACEMENT


class _ReadyMessages(InferenceLoop):
    """Emits a message that was made before."""

    MESSAGE = Message("result", "results/ready", {}, 0)

    def _result(self, *_: object, **__: object) -> Message:
        return self.MESSAGE


def _forget(*_: object) -> None:
    """Take the place of egress, whose queue and encoding are not scheduling, and of the annotated picture."""


def main() -> int:
    """Print microseconds a frame for some numbers of streams."""
    parser = harness.parser("Scheduling overhead a frame.")
    parser.add_argument("--frames", type=int, default=4_000, help="of each round")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    figures: dict[int, list[float]] = {count: [] for count in STREAM_COUNTS}
    whole: dict[int, list[float]] = {count: [] for count in STREAM_COUNTS}
    for _ in range(args.rounds):
        for count, values in figures.items():
            values.append(_run(_ReadyMessages, count, args.frames))
            whole[count].append(_run(InferenceLoop, count, args.frames))
    rows: list[dict[str, Any]] = [
        {
            "streams": str(count),
            "us a frame": statistics.median(values),
            "least": min(values),
            "most": max(values),
            "with its message": statistics.median(whole[count]),
        }
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


def _run(kind: type[InferenceLoop], streams: int, frames: int) -> float:
    """Return the CPU microseconds that one frame takes of this thread, from capture to its outcome."""
    clock = SystemClock()
    names = [f"s{index}" for index in range(streams)]
    inbox = Inbox(dict.fromkeys(names, StreamPolicy(NS_PER_S, session="none")), clock)
    timer = AbortTimer(clock)
    variant = Variant("full", "", _no_preprocess, _NoNetwork(), _NoDecoder(), {}, NO_PIXELS, 20 * NS_PER_MS)
    loop = kind(
        model=LoadedModel("none", "1", "raw", (variant,)),
        inbox=inbox,
        timer=timer,
        emit=_forget,
        show=_forget,
        clock=clock,
    )
    thread = threading.Thread(target=timer.run)
    thread.start()
    for name in names:
        for _ in range(64):  # A full window of service times: the steady state.
            _serve(inbox, loop, name, clock)
    begun_ns = time.thread_time_ns()
    for index in range(frames):
        _serve(inbox, loop, names[index % streams], clock)
    used_ns = time.thread_time_ns() - begun_ns
    timer.stop()
    thread.join()
    published = sum(stream["ledger"]["published"] for stream in inbox.snapshot().values())
    if published != frames + 64 * streams:
        raise RuntimeError(f"{published} of {frames + 64 * streams} frames were published")
    return used_ns / frames / 1e3


def _serve(inbox: Inbox, loop: InferenceLoop, name: str, clock: SystemClock) -> None:
    """Do for one frame what the threads of capture, inference and egress do, but for the frame's own work."""
    captured_at_ns = clock.now_ns()
    inbox.offer(name, Capture(captured_at_ns, PIXELS))
    loop.turn(inbox.take("none"))
    inbox.record_sent(name, clock.now_ns() - captured_at_ns, NS_PER_MS)


if __name__ == "__main__":
    sys.exit(main())
