"""An inference that is told to stop, for a machine on which a model of 0.2 s a run takes minutes.

python -m tests.e2e.service.short_abort
"""

from __future__ import annotations

import json
import platform
import sys
import threading

import numpy as np

from agent.clock import NS_PER_S, SystemClock
from agent.engine.session import OrtEngine
from agent.errors import InferenceAbortedError
from tests.paths import MODELS


def main() -> int:
    """Time a whole run, abort another in the middle, and compare the bits of a third with the first."""
    clock = SystemClock()
    session = OrtEngine(MODELS / "slow25" / "model.onnx", threads=1, sha256=None)
    inputs = {"images": np.full((1, 3, 80, 80), 100, np.uint8)}
    begun_ns = clock.now_ns()
    first = session.run(inputs, session.new_abort())
    whole_ns = clock.now_ns() - begun_ns
    abort, told_ns, is_aborted = session.new_abort(), 0, False

    def tell() -> None:
        nonlocal told_ns
        told_ns = clock.now_ns()
        abort.set()

    timer = threading.Timer(whole_ns / 3 / NS_PER_S, tell)
    timer.start()
    try:
        session.run(inputs, abort)
    except InferenceAbortedError:
        is_aborted = True
    obeyed_ns = clock.now_ns() - told_ns
    timer.join()
    is_identical = bool(np.array_equal(first[0], session.run(inputs, session.new_abort())[0]))
    told = {"machine": platform.machine(), "is_aborted": is_aborted, "is_identical": is_identical}
    seconds = {"whole_run_s": round(whole_ns / NS_PER_S, 3), "obeyed_within_s": round(obeyed_ns / NS_PER_S, 3)}
    json.dump({**told, **seconds}, sys.stdout, indent=1)
    return 0 if is_aborted and is_identical else 1


if __name__ == "__main__":
    sys.exit(main())
