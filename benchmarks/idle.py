"""The first frame after a pause against steady state: cold, kept warm, and with the memory locked."""

from __future__ import annotations

import contextlib
import ctypes
import os
import statistics
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np

from agent.clock import NEVER_NS, NS_PER_MS, NS_PER_S, SystemClock
from agent.core.outbox import Message
from agent.core.policy import StreamPolicy
from agent.engine.process import MEMORY_LOCK, prepare_serving
from agent.frame import Capture
from agent.interfaces import LoadedModel
from agent.loading import load_model
from agent.loops.abort import AbortTimer
from agent.loops.inbox import Inbox
from agent.loops.inference import InferenceLoop
from agent.provision import Provision
from agent.settings import Settings
from benchmarks import harness

KEEP_WARM_NS = 500 * NS_PER_MS
COLD, WARM, LOCKED = "never run meanwhile", "kept warm", "never run meanwhile, memory locked"
MADV_PAGEOUT = 21  # madvise(2), Linux 5.4
STREAM = StreamPolicy(5 * NS_PER_S, session="model")


class Bench:
    """One model and its loop; frames are offered by hand."""

    def __init__(self, model: LoadedModel, keep_warm_ns: int) -> None:
        self.clock = SystemClock()
        self.inbox = Inbox({"s": STREAM}, self.clock)
        self.timer = AbortTimer(self.clock)
        self.published = threading.Event()
        self.ages_ns: list[int] = []
        self.loop = InferenceLoop(
            model=model,
            inbox=self.inbox,
            timer=self.timer,
            emit=self._emit,
            show=lambda *_: None,
            clock=self.clock,
            keep_warm_ns=keep_warm_ns,
        )
        self.threads = [threading.Thread(target=body) for body in (self.loop.run, self.timer.run)]
        for thread in self.threads:
            thread.start()

    def _emit(self, message: Message) -> None:
        self.ages_ns.append(self.clock.now_ns() - message.captured_at_ns)
        self.published.set()

    def frame_ms(self) -> float:
        """Offer one frame and return its age when its result was there."""
        self.published.clear()
        pixels = np.full((480, 640, 3), 90, np.uint8)
        self.inbox.offer("s", Capture(self.clock.now_ns(), pixels))
        if not self.published.wait(30):
            raise RuntimeError("no result within 30 s")
        return self.ages_ns[-1] / 1e6

    def close(self) -> None:
        """End the threads."""
        self.inbox.stop()
        self.timer.stop()
        for thread in self.threads:
            thread.join()


def main() -> int:
    """Alternate pauses of both kinds and print the first frame's time against the median of the next ones."""
    parser = harness.parser("First inference after idling.")
    parser.add_argument("--pauses", type=int, default=12, help="of each kind")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each pause")
    args = parser.parse_args()
    first: dict[str, list[float]] = {COLD: [], WARM: [], LOCKED: []}
    steady: dict[str, list[float]] = {name: [] for name in first}
    is_out = True
    with tempfile.TemporaryDirectory() as state:
        unlocked = {COLD: Bench(_model(state), NEVER_NS), WARM: Bench(_model(state), KEEP_WARM_NS)}
        prepare_serving()
        try:
            for benches in (unlocked, {LOCKED: unlocked[COLD]}):
                if LOCKED in benches:
                    MEMORY_LOCK.ask()
                for _ in range(args.pauses):
                    for name, bench in benches.items():
                        for _ in range(10):
                            steady[name].append(bench.frame_ms())
                        is_out &= _forget(args.seconds)
                        first[name].append(bench.frame_ms())
        finally:
            for bench in unlocked.values():
                bench.close()
    rows: list[dict[str, Any]] = [
        {
            "model": name,
            "steady ms": statistics.median(steady[name]),
            "first after idling ms": statistics.median(first[name]),
            "worst first ms": max(first[name]),
            "first / steady": statistics.median(first[name]) / statistics.median(steady[name]),
        }
        for name in first
    ]
    return harness.conclude(
        "idle", rows, [], as_json=args.json, page_cache_dropped=is_out, lock_refused=MEMORY_LOCK.refusal
    )


def _model(state: str) -> LoadedModel:
    """Load the default model as the agent does: from the cache, with weights that are mapped from a file."""
    settings = Settings.model_validate(
        {
            "state": {"dir": state},
            "limits": {"threads": 1},
            "models": [{"name": "model", "path": harness.COCO_SSD}],
            "streams": [{"name": "s", "source": str(harness.CLIP), "model": "model"}],
        }
    )
    provision = Provision(settings)
    provision.survey(settings.models[0])
    provision.fit()
    return load_model(settings.models[0], 1, SystemClock(), provision.recipe("model"))


def _forget(seconds: float) -> bool:
    """Idle, then push code and weights out of memory and the rest out of the CPU's caches.

    Returns:
        Whether the former was allowed. Locked pages stay: that is what the lock is for.
    """
    harness.pause(seconds / 2)
    _page_out_files()
    can_drop = False
    with contextlib.suppress(OSError):
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("1", encoding="ascii")
        can_drop = True
    # Other programs' work: 256 MiB is more than any last-level cache of an edge device.
    np.ones(32 << 20, np.float64).sum()
    harness.pause(seconds / 2)
    return can_drop


def _page_out_files() -> None:
    """Let go of every page that is mapped from a file: libraries and weights."""
    libc = ctypes.CDLL(None, use_errno=True)
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        span, _, _, _, inode, *_ = line.split()
        begin, end = (int(part, 16) for part in span.split("-"))
        if inode != "0":
            libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), MADV_PAGEOUT)


if __name__ == "__main__":
    sys.exit(main())
