"""Tries a release of a model as a whole, in a child process within limits, before it may come near a live frame.

`python -m agent.qualification` is the child: a job in JSON on standard input, figures in JSON on standard output.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from agent.child import run_child
from agent.core.release import ReleaseRefusedError
from agent.engine.memory import MIB, Leash, resident_bytes
from agent.engine.trial import ending, harm_of
from agent.errors import ConfigError, PermanentError
from agent.settings import Settings

CPU_LIMIT_S = 300
"""Then SIGXCPU, and SIGKILL a second later; with both at once SIGKILL would come alone, and tell nothing."""
RUNS = 20
NICE = 10
"""The live streams go first on a busy device."""


def qualify(settings: Settings, *, deadline_ms: float | None, sessions: int) -> dict[str, Any]:
    """Load, warm, verify and time a model in a child process, the way the agent would.

    Args:
        settings: with this one model, from its release's folder.
        deadline_ms: the tightest one of the streams that it would serve, None for none.
        sessions: models between which the device's CPUs are divided, this one included.

    Returns:
        Figures: `run_ms` (median and fastest), `threads` of a run, and `memory_mb`.

    Raises:
        ReleaseRefusedError: `not_verified`, `hangs`, `crashes`, `too_big`, `too_slow`.
        OSError: no process can be made.
    """
    job = {"settings": settings.model_dump(mode="json", exclude_unset=True), "sessions": sessions}
    limit_s = settings.updates.qualification_s
    try:
        reply, code = run_child("agent.qualification", job, limit_s)
    except subprocess.TimeoutExpired:
        raise ReleaseRefusedError("hangs", f"loading and running it did not end within {limit_s:g} s") from None
    if "problems" in reply:
        raise ReleaseRefusedError(harm_of(reply) or "not_verified", "; ".join(reply["problems"])[:1000])
    if code != 0 or "run_ms" not in reply:
        why, harm = ending(code)
        raise ReleaseRefusedError(harm, f"the process that tried it {why}")
    fastest_ms = reply["run_ms"]["fastest"]
    if deadline_ms is not None and fastest_ms > deadline_ms:
        raise ReleaseRefusedError(
            "too_slow", f"its fastest run takes {fastest_ms:g} ms of a deadline of {deadline_ms:g}"
        )
    return reply


def main() -> None:
    """Do the job. Whatever goes wrong is a sentence in the reply, unless the process itself is ended."""
    job = json.loads(sys.stdin.buffer.read())
    settings = Settings(**job["settings"])
    _limit()
    try:
        reply = _figures(settings, job["sessions"])
    except ConfigError as error:
        reply = {"problems": error.problems[:10], "harm": error.harm}
    except PermanentError as error:
        reply = {"problems": [f"it fails in a run: {error}"]}
    except MemoryError:
        reply = {"problems": ["it needs more memory than the agent may take"], "harm": "too_big"}
    sys.stdout.write(json.dumps(reply))
    sys.stdout.flush()
    os._exit(0)  # What a hostile network left behind is not unwound.


def _limit() -> None:
    os.nice(NICE)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_LIMIT_S, CPU_LIMIT_S + 1))


def _figures(settings: Settings, sessions: int) -> dict[str, Any]:
    from agent.engine.process import prepare_process

    prepare_process()
    import cv2

    from agent.assembly import load_models
    from agent.clock import SystemClock
    from agent.marks import Marks
    from agent.provision import Provision

    clock = SystemClock()
    # As in the agent: OpenCV's own pool would come on top of the inference threads.
    cv2.setNumThreads(1)
    before = resident_bytes()
    # What was measured and compiled is the running agent's, which does not expect another writer.
    provision = Provision(settings, keeps=False, sessions=sessions)
    Leash(provision.limit).hold()
    marks = Marks(settings.state.dir, may_make=False)
    models, refused = load_models(settings.models, provision, marks, clock, must_all_load=True)
    if refused:
        raise ConfigError([str(why) for why in refused.values()])
    ((name, model),) = models.items()
    variant = model.variants[0]
    times_ms = []
    for _ in range(RUNS):
        started_ns = clock.now_ns()
        variant.engine.run(variant.warm_inputs, variant.engine.new_abort())
        times_ms.append((clock.now_ns() - started_ns) / 1e6)
    times_ms.sort()
    return {
        "run_ms": {"fastest": round(times_ms[0], 2), "p50": round(times_ms[len(times_ms) // 2], 2)},
        "threads": provision.threads_of(name),
        "memory_mb": round((resident_bytes() - before) / MIB, 1),
        "sha256": variant.sha256,
    }


if __name__ == "__main__":
    main()
