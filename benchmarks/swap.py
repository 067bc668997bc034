"""Hot swaps of the default model under a live stream: frames that are missing for it, and memory that stays."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import statistics
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from agent.assembly import load_models, scheduler_policy, stream_policy, used_models
from agent.clock import SystemClock
from agent.core.message import Message
from agent.engine.process import prepare_process, prepare_serving
from agent.loops.inbox import Inbox
from agent.marks import Marks
from agent.pipelines import Pipelines
from agent.provision import Provision
from agent.settings import Settings
from agent.sourcing import build_source
from benchmarks import harness

SETTLE_SWAPS = 5
"""The first swaps bring the heap to the size that all others need."""
GROWTH_MB_MAX = 5.0
PAUSE_S = 0.3
SAMPLES = 53
"""Not in step with the frames."""


def main() -> int:
    """Swap between two copies of a model and print what that cost."""
    prepare_process()
    parser = harness.parser("Hot swaps of a model under a live stream.")
    parser.add_argument("--swaps", type=int, default=50)
    parser.add_argument("--fps", type=float, default=10.0, help="of the live stream")
    args = parser.parse_args()
    frames: list[int] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copies = [Path(shutil.copytree(harness.COCO_SSD, folder / letter)) for letter in "ab"]
        with _running(folder, _settings(copies[0], args.fps), frames) as (pipelines, inbox):
            harness.pause(3.0)
            quiet = _longest_gap(frames)
            first_mb = before_mb = _resident_mb()
            begun = len(frames)
            for swap in range(1, args.swaps + 1):
                pipelines.apply(_settings(copies[swap % 2], args.fps))
                harness.pause(PAUSE_S)
                if swap == SETTLE_SWAPS:
                    before_mb = _resident_mb()
            harness.pause(1.0)
            after_mb = _resident_mb()
            ledger = inbox.snapshot()["bench"]["ledger"]
    row = {
        "swaps": args.swaps,
        "frames during swaps": len(frames) - begun,
        "longest gap before, frames": quiet,
        "longest gap during, frames": _longest_gap(frames[begun - 1 :]),
        "MiB before": first_mb,
        f"MiB after {SETTLE_SWAPS}": before_mb,
        "MiB at the end": after_mb,
        "not published": ledger["captured"] - ledger["published"] - ledger["shutdown"],
    }
    gap, growth_mb = int(row["longest gap during, frames"]), after_mb - first_mb
    verdicts = [
        harness.Verdict("frames missing in a row", gap, "<= 1", gap <= 1),
        harness.Verdict("growth over all swaps, MiB", growth_mb, f"<= {GROWTH_MB_MAX:g}", growth_mb <= GROWTH_MB_MAX),
    ]
    return harness.conclude("swap", [row], verdicts, as_json=args.json)


def _resident_mb() -> float:
    """Return the median over two seconds: a frame's buffers come and go."""
    sizes = []
    for _ in range(SAMPLES):
        sizes.append(harness.memory_mb(os.getpid())["Rss"])
        harness.pause(2.0 / SAMPLES)
    return statistics.median(sizes)


def _longest_gap(frames: list[int]) -> int:
    """Return how many frames in a row were not published."""
    return max((later - earlier - 1 for earlier, later in itertools.pairwise(frames)), default=0)


def _settings(model: Path, fps: float) -> Settings:
    stream = {"name": "bench", "source": str(harness.CLIP), "model": "coco", "repeat": True, "fps": fps}
    return Settings.model_validate({"models": [{"name": "coco", "path": model}], "streams": [stream]})


@contextlib.contextmanager
def _running(folder: Path, settings: Settings, frames: list[int]) -> Iterator[tuple[Pipelines, Inbox]]:
    clock = SystemClock()
    marks = Marks(folder / "state", None, may_make=True)
    provision = Provision(settings)
    models, _ = load_models(used_models(settings), provision, marks, clock, must_all_load=True)
    prepare_serving()
    sources = {stream.name: build_source(stream, clock) for stream in settings.streams}
    policies = {stream.name: stream_policy(stream) for stream in settings.streams}
    inbox = Inbox(policies, clock, scheduler_policy(settings, provision))
    lock = threading.Lock()

    def emit(message: Message) -> None:
        with lock:
            frames.append(message.body["frame"])

    pipelines = Pipelines(
        settings,
        models,
        sources,
        {},
        provision=provision,
        marks=marks,
        inbox=inbox,
        emit=emit,
        show=lambda _frame, _payload: None,
        report=lambda _event, _body: None,
        wake=lambda: None,
        clock=clock,
    )
    del models  # Only the pipelines hold a model, as in the agent.
    pipelines.start()
    try:
        yield pipelines, inbox
    finally:
        pipelines.shut_down(inference_hangs=False)


if __name__ == "__main__":
    sys.exit(main())
