"""The memory budget on a running agent: 256 MB that are never exceeded, a limit that is too small, and no growth."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import harness

LIMIT_MB = 256
TOO_SMALL_MB = 96
REFUSAL_S_MAX = 10.0
GROWTH_MB_HOUR_MAX = 0.2
SETTLED_AFTER_S = 360.0
"""Queues and allocators have their size after a minute, histograms of three periods after three, and the history of
health wrote its first document after five. The minutes that are asked for begin after it."""
SAMPLE_S = 0.5
TELL_EVERY_S = 120.0
"""Of the growth, so that a step can be told from a slope."""
FPS = 60.0
"""More than the model can take: inference never waits."""
DEADLINE_MS = 60_000.0
"""Far away: every frame that is taken is inferred, however busy the machine is."""

IN_CGROUP = "import os, sys; open(sys.argv[1], 'w').write(str(os.getpid())); os.execv(sys.argv[2], sys.argv[2:])"


@dataclass(frozen=True, slots=True)
class Cgroup:
    """A memory cgroup of our own, below the one that we run in."""

    folder: Path
    is_v2: bool

    @property
    def prefix(self) -> list[str]:
        """What runs a program in it."""
        return [sys.executable, "-c", IN_CGROUP, str(self.folder / "cgroup.procs")]

    def figures(self) -> dict[str, Any]:
        """Return the most that it held, MiB, and how often it was at its limit."""
        if self.is_v2:
            peak = self._number("memory.peak")
            events = (self.folder / "memory.events").read_text(encoding="ascii").split()
            return {"peak MiB": peak, "at the limit": int(events[events.index("max") + 1])}
        return {"peak MiB": self._number("memory.max_usage_in_bytes"), "at the limit": self._count("memory.failcnt")}

    def _number(self, name: str) -> float:
        return self._count(name) / 2**20

    def _count(self, name: str) -> int:
        return int((self.folder / name).read_text(encoding="ascii"))


@contextlib.contextmanager
def cgroup(limit_mb: int) -> Iterator[Cgroup | None]:
    """Make a memory cgroup for the length of the block; None where this user or this system cannot."""
    made = None
    with contextlib.suppress(OSError):
        made = _make_cgroup(limit_mb)
    try:
        yield made
    finally:
        if made is not None:
            with contextlib.suppress(OSError):
                made.folder.rmdir()


def _make_cgroup(limit_mb: int) -> Cgroup | None:
    """Return a new cgroup with a limit.

    Raises:
        OSError: it cannot be made.
    """
    for line in Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        mount = Path("/sys/fs/cgroup") / ("memory" if controllers else "")
        parent = mount / path.lstrip("/")
        folder = (parent if parent.is_dir() else mount) / f"edgebeat-bench-{os.getpid()}"
        limit = folder / ("memory.limit_in_bytes" if controllers else "memory.max")
        folder.mkdir()
        try:
            limit.write_text(str(limit_mb << 20), encoding="ascii")
        except OSError:
            folder.rmdir()
            continue
        return Cgroup(folder, is_v2=not controllers)
    return None


def main() -> int:
    """Run what was asked for and print each bound."""
    parser = harness.parser("The agent within its memory.")
    parser.add_argument("--frames", type=int, default=10_000, help="inferred under the limit")
    parser.add_argument("--minutes", type=float, default=0.0, help="at full rate, for the growth; 0: not measured")
    args = parser.parse_args()
    harness.end_with_us()
    rows: list[dict[str, Any]] = []
    verdicts: list[harness.Verdict] = []
    with harness.broker() as port, tempfile.TemporaryDirectory() as state:
        for part in (_refused(), *([_limited(port, state, args.frames)] if args.frames else ())):
            rows.append(part[0])
            verdicts += part[1]
        if args.minutes:
            row, more = _growth(port, state, args.minutes)
            rows.append(row)
            verdicts += more
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return harness.conclude(
        "budget", [{key: row.get(key) for key in columns} for row in rows], verdicts, as_json=args.json
    )


Part = tuple[dict[str, Any], list[harness.Verdict]]


def _sections(state: str, limit_mb: int | None) -> str:
    limits = "" if limit_mb is None else f"[limits]\nmemory_mb = {limit_mb}\n"
    return f'{limits}[state]\ndir = "{state}"\n[spool]\nmax_mb = 0\n'


def _agent(port: int, sections: str, prefix: list[str]) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    return harness.agent(port, model=harness.COCO_SSD, fps=FPS, deadline_ms=DEADLINE_MS, more=sections, prefix=prefix)


def _refused() -> Part:
    """Start with a limit that is too small, with nothing remembered."""
    begun_s = time.perf_counter()
    with tempfile.TemporaryDirectory() as fresh, tempfile.NamedTemporaryFile("w", suffix=".toml") as config:
        config.write(
            f'[device]\nid = "bench"\n{_sections(fresh, TOO_SMALL_MB)}'
            f'[[models]]\nname = "model"\npath = "{harness.COCO_SSD}"\n'
            f'[[streams]]\nname = "bench"\nsource = "{harness.CLIP}"\nmodel = "model"\n'
        )
        config.flush()
        command = [sys.executable, "-m", "agent", "run", "--config", config.name]
        done = subprocess.run(command, cwd=harness.ROOT, capture_output=True, text=True, timeout=60, check=False)
    took_s = time.perf_counter() - begun_s
    for line in done.stderr.splitlines():
        harness.note(line)
    has_figures = "the agent would take" in done.stderr and "what would fit" in done.stderr
    is_right = done.returncode == 78 and has_figures
    return {"part": f"refused at {TOO_SMALL_MB} MB", "s": took_s}, [
        harness.Verdict("exit code of a limit that is too small", done.returncode, "78, with figures", is_right),
        harness.Verdict("seconds until it is refused", took_s, f"< {REFUSAL_S_MAX:g}", took_s < REFUSAL_S_MAX),
    ]


def _limited(port: int, state: str, frames: int) -> Part:
    """Infer many frames within 256 MB: of a cgroup where one can be made, and of RLIMIT_DATA always."""
    begun_s = time.perf_counter()
    with cgroup(LIMIT_MB) as limited, harness.subscriber(port) as heard:
        how = "RLIMIT_DATA" if limited is None else f"cgroup v{2 if limited.is_v2 else 1} and RLIMIT_DATA"
        # The cgroup's own limit is what the agent finds; without one it is told.
        sections = _sections(state, LIMIT_MB if limited is None else None)
        prefix = [] if limited is None else limited.prefix
        with _agent(port, sections, prefix) as process:
            seen: list[float] = []
            while heard.count() < frames:
                heard.wait_for(min(frames, heard.count() + 100), process, timeout_s=600)
                seen.append(harness.memory_mb(process.pid)["Rss"])
            figures = {} if limited is None else limited.figures()
            peak_mb = _peak_mb(process.pid)
            ledger = harness.summary_of(process)["streams"][harness.STREAM]["ledger"]
    failed = ledger["failed"]
    is_held = peak_mb <= LIMIT_MB and figures.get("peak MiB", 0) <= LIMIT_MB
    row = {
        "part": f"{frames} frames in {LIMIT_MB} MB ({how})",
        "s": time.perf_counter() - begun_s,
        "resident MiB, last": seen[-1],
        "resident MiB, most": peak_mb,
        **figures,
        "failed frames": failed,
    }
    return row, [
        harness.Verdict("most resident memory, MiB", peak_mb, f"<= {LIMIT_MB}", is_held),
        harness.Verdict("frames that failed", failed, "0", failed == 0),
    ]


def _growth(port: int, state: str, minutes: float) -> Part:
    """Run at full rate and fit a line through resident memory."""
    with (
        harness.subscriber(port) as heard,
        _agent(port, _sections(state, LIMIT_MB), []) as process,
    ):
        heard.wait_for(30, process, timeout_s=60)
        begun_s, points, told_s = time.perf_counter(), [], 0.0
        while (at_s := time.perf_counter() - begun_s) < SETTLED_AFTER_S + minutes * 60:
            memory = harness.memory_mb(process.pid)
            if at_s > SETTLED_AFTER_S:
                points.append((at_s, memory["Rss"]))
            if at_s >= told_s:
                told_s += TELL_EVERY_S
                harness.note(f"{at_s / 60:.0f} min: {memory['Rss']:.2f} MiB, anonymous {memory['Anonymous']:.2f}")
            harness.pause(SAMPLE_S)
        frames = heard.count()
    slope = harness.slope_per_minute(points) * 60
    row = {
        "part": f"full rate for {minutes:g} minutes, {frames} frames",
        "s": at_s,
        "resident MiB, last": points[-1][1],
        "resident MiB, most": max(value for _, value in points),
        "growth MiB an hour": slope,
    }
    bound = f"< {GROWTH_MB_HOUR_MAX:g} over 30 minutes"
    return row, [harness.Verdict("growth, MiB an hour", slope, bound, slope < GROWTH_MB_HOUR_MAX)]


def _peak_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    sys.exit(main())
