"""What the benchmarks share: processes that end, a broker, an independent subscriber, figures and verdicts."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import shlex
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

ROOT = Path(__file__).resolve().parent.parent
CLIP = ROOT / "config/demo/clip.mp4"
COCO_SSD = ROOT / "config/models/coco-ssd"
SLOW25 = ROOT / "tests/assets/models/slow25"
SLOW100 = ROOT / "tests/assets/models/slow100"

END_TIMEOUT_S = 10.0
"""From SIGTERM to SIGKILL: twice what the agent promises to need."""

STREAM = "bench"

_never = threading.Event()


@dataclass(frozen=True, slots=True)
class Verdict:
    """One figure and whether it keeps its bound; `bound` is written as people read it, such as `>= 0.95`."""

    name: str
    value: float
    bound: str
    is_met: bool


@dataclass(frozen=True, slots=True)
class Received:
    """One result as the subscriber got it.

    Attributes:
        at_ns: wall time of its arrival.
        age_ms: arrival - `captured_at`: the age that a receiver sees, transport included.
        body: the result.
    """

    at_ns: int
    age_ms: float
    body: dict[str, Any]

    @property
    def is_fresh(self) -> bool:
        """Whether it claims to be: one that missed its deadline on its way out is delivered marked as a replay."""
        return not self.body.get("replay", False)


class Subscriber:
    """Hears everything at the broker, in this process, which has nothing else to do."""

    def __init__(self, port: int) -> None:
        self._changed = threading.Condition()
        self._results: list[Received] = []
        self._health: list[dict[str, Any]] = []
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, "subscriber", protocol=mqtt.MQTTv5)
        self._client.on_message = self._hear
        subscribed = threading.Event()
        self._client.on_subscribe = lambda *_: subscribed.set()
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        self._client.subscribe("#", 1)
        if not subscribed.wait(10):
            raise RuntimeError("the broker did not confirm the subscription within 10 s")

    def _hear(self, _client: mqtt.Client, _user: Any, message: mqtt.MQTTMessage) -> None:
        at_ns = time.clock_gettime_ns(time.CLOCK_REALTIME)
        body = json.loads(message.payload)
        with self._changed:
            if message.topic.endswith("/health"):
                self._health.append(body)
            elif "captured_at" in body:
                captured_s = datetime.datetime.fromisoformat(body["captured_at"]).timestamp()
                self._results.append(Received(at_ns, at_ns / 1e6 - captured_s * 1e3, body))
            self._changed.notify_all()

    def wait_for(self, count: int, process: subprocess.Popen[str], timeout_s: float) -> None:
        """Block until so many results of a process have come in all.

        Raises:
            RuntimeError: they did not come in time, or the process ended.
        """
        end_s = time.perf_counter() + timeout_s
        with self._changed:
            while not self._changed.wait_for(lambda: len(self._results) >= count, 0.5):
                code = process.poll()
                if code is not None or time.perf_counter() > end_s:
                    state = "still runs" if code is None else f"ended with {code}"
                    raise RuntimeError(f"{len(self._results)} of {count} results; process {process.pid} {state}")

    def results(self) -> list[Received]:
        """Return what has come so far."""
        with self._changed:
            return list(self._results)

    def count(self) -> int:
        """Return how many results have come so far."""
        with self._changed:
            return len(self._results)

    def close(self) -> None:
        """End the connection."""
        self._client.disconnect()
        self._client.loop_stop()


@contextlib.contextmanager
def subscriber(port: int) -> Iterator[Subscriber]:
    """Subscribe for the length of the block."""
    opened = Subscriber(port)
    try:
        yield opened
    finally:
        opened.close()


@contextlib.contextmanager
def running(command: Sequence[str | Path], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a program for the length of the block; it is ended by its id, whatever happens."""
    with subprocess.Popen([str(part) for part in command], cwd=ROOT, text=True, **options) as process:
        try:
            yield process
        finally:
            end(process)


def end(process: subprocess.Popen[str]) -> None:
    """Ask a process to end, and make it."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def mosquitto() -> str:
    """Return mosquitto's program."""
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        raise SystemExit("mosquitto is not installed: apt install mosquitto")
    return program


def free_port() -> int:
    """Return a port on 127.0.0.1 that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def broker() -> Iterator[int]:
    """Run mosquitto on a free port of 127.0.0.1 and give the port."""
    program, port = mosquitto(), free_port()
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as config:
        # QoS 1 without a limit in flight and no Nagle: the broker must add nothing of its own to the ages.
        config.write(
            f"listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n"
            "max_queued_messages 0\nmax_inflight_messages 0\n"
        )
        config.flush()
        with running([program, "-c", config.name], stderr=subprocess.DEVNULL) as process:
            wait_until_listening(process, port)
            yield port


def wait_until_listening(process: subprocess.Popen[str], port: int) -> None:
    """Wait until a broker accepts connections.

    Raises:
        RuntimeError: it ended, or does not within 10 s.
    """
    for _ in range(100):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if process.poll() is not None:
            raise RuntimeError(f"mosquitto ended with {process.returncode}")
        pause(0.1)
    raise RuntimeError("mosquitto does not listen after 10 s")


def pause(seconds: float) -> None:
    """Let time pass."""
    _never.wait(seconds)


@contextlib.contextmanager
def agent(
    port: int,
    *,
    model: Path,
    fps: float | None,
    deadline_ms: float = 250,
    streams: Sequence[str] = (STREAM,),
    threads: int | None = None,
    arguments: Sequence[str | Path] = (),
    more: str = "",
    prefix: Sequence[str] = (),
) -> Iterator[subprocess.Popen[str]]:
    """Run the agent live on the repeated clip; its summary is on its standard output once it has ended.

    `more` are further sections of the settings, or keys of [limits] where `threads` is given; `prefix` is a program
    that runs it, such as one that puts it into a cgroup.
    """
    sections = [
        f"""\
[device]
id = "bench"
[mqtt]
url = "mqtt://127.0.0.1:{port}"
[[models]]
name = "model"
path = {json.dumps(str(model))}
""",
        more if threads is None else f"[limits]\nthreads = {threads}\n{more}",
        *(
            f"""\
[[streams]]
name = "{stream}"
source = {json.dumps(str(CLIP))}
model = "model"
mode = "live"
repeat = true
deadline_ms = {deadline_ms}
{"" if fps is None else f"fps = {fps}"}
"""
            for stream in streams
        ),
    ]
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as config:
        config.write("".join(sections))
        config.flush()
        command = [*prefix, sys.executable, "-m", "agent", "run", "--config", config.name, *arguments]
        with running(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=service_environ()) as process:
            yield process


def service_environ() -> dict[str, str]:
    """Return this environment with what the service's unit adds to it: what is measured is what is deployed."""
    unit = (ROOT / "systemd/edgebeat.service").read_text(encoding="utf-8").splitlines()
    added = [word for line in unit if line.startswith("Environment=") for word in shlex.split(line.partition("=")[2])]
    return {**os.environ, **dict(word.split("=", 1) for word in added)}


def summary_of(process: subprocess.Popen[str]) -> dict[str, Any]:
    """End the agent and return its summary: the last line of its standard output."""
    process.terminate()
    output, _ = process.communicate(timeout=END_TIMEOUT_S)
    summary: dict[str, Any] = json.loads(output.splitlines()[-1])
    return summary


def bare_loop(*arguments: str | Path, model: Path, source: Path = CLIP) -> list[str | Path]:
    """Return the command of the hand-written loop."""
    return [sys.executable, "-m", "benchmarks.bare_loop", "--model", model, "--source", source, *arguments]


def cpu_s(pid: int) -> float:
    """Return the CPU time that a process has used, user and system, all threads (proc(5), stat fields 14, 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mb(pid: int) -> dict[str, float]:
    """Return Rss, Pss and Anonymous of a process in MiB (proc(5), smaps_rollup)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    values = {key: rest.split()[0] for key, _, rest in (line.partition(":") for line in lines[1:])}
    return {key: int(values[key]) / 1024 for key in ("Rss", "Pss", "Anonymous")}


def slope_per_minute(points: Sequence[tuple[float, float]]) -> float:
    """Return the least-squares slope of (seconds, value), a minute."""
    seconds, values = zip(*points, strict=True)
    return statistics.linear_regression(seconds, values).slope * 60


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which that share of the values lies (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, min(len(ordered) - 1, round(share * len(ordered) + 0.5) - 1))]


def parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the arguments that every benchmark has."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return made


def end_with_us() -> None:
    """Make SIGTERM unwind the blocks above, so that it ends what we started too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))


def say(text: str = "") -> None:
    """Write one line to standard output."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """Write one line of progress to standard error."""
    sys.stderr.write(text + "\n")


def conclude(
    name: str, rows: Sequence[dict[str, Any]], verdicts: Sequence[Verdict], *, as_json: bool, **figures: Any
) -> int:
    """Print a benchmark's rows and verdicts; return its exit code."""
    is_met = all(verdict.is_met for verdict in verdicts)
    if as_json:
        verdict_values = [asdict(verdict) for verdict in verdicts]
        say(json.dumps({"benchmark": name, "met": is_met, "verdicts": verdict_values, "rows": rows, **figures}))
        return 0 if is_met else 1
    columns = list(rows[0])
    lines = [columns, *([_cell(row[column]) for column in columns] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for line in lines:
        cells = [text.rjust(width) for text, width in zip(line[1:], widths[1:], strict=True)]
        say("  ".join([line[0].ljust(widths[0]), *cells]))
    for key, value in figures.items():
        say(f"{key}: {_cell(value)}")
    for verdict in verdicts:
        word = "pass" if verdict.is_met else "MISS"
        say(f"{word}  {verdict.name}: {_cell(verdict.value)}  (bound {verdict.bound})")
    return 0 if is_met else 1


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
    return "-" if value is None else str(value)
