"""What delivery costs and what a kill costs: egress against bare paho, the spool's speed and wear, SIGKILLs."""

from __future__ import annotations

import contextlib
import datetime
import json
import random
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from agent.clock import NEVER_NS, NS_PER_MS, NS_PER_S, SystemClock
from agent.core.backoff import Backoff
from agent.core.message import KEPT_KINDS, Message
from agent.core.outbox import Outbox
from agent.core.spool_policy import SpoolLimits
from agent.interfaces import KeptMessage
from agent.loops.egress import EgressLoop, Keeping
from agent.settings import MqttSettings
from agent.sinks.mqtt import MqttSink
from agent.spool.sqlite import SqliteSpool
from agent.wake import Wake
from benchmarks import harness
from benchmarks.listener import read
from benchmarks.outage import outage

IN_FLIGHT = 64
BODY: dict[str, Any] = {
    "frame": 131,
    "deadline_ms": 250.0,
    "model": "coco-ssd",
    "model_version": "1.0.0",
    "task": "detection",
    "source": {"width": 640, "height": 480},
    "detections": [{"label": "cat", "class_id": 17, "score": 0.8905, "box": [0.8, 1.7, 616.5, 478.6]}],
}
"""A result as the demo publishes it: 340 bytes with its head."""

CPU_RATIO_MAX = 1.3
WEAR_BYTES_MAX = 2000
SPOOL_PER_S_MIN = 1000
KILLS = 100


def main() -> int:
    """Run the parts that were asked for, all by default."""
    parts: dict[str, Callable[[int], tuple[dict[str, Any], list[harness.Verdict]]]] = {
        "cpu": lambda port: egress_cpu(port, rounds=args.rounds),
        "wear": lambda _: wear(),
        "drain": drain,
        "replay": lambda port: replay(port, messages=args.messages),
        "kills": lambda _: kills(args.kills),
        "outage": lambda _: outage(),
    }
    parser = harness.parser(__doc__ or "")
    parser.add_argument("parts", nargs="*", choices=[*parts, []], help="default: all")
    parser.add_argument("--rounds", type=int, default=7, help="of egress and of bare paho")
    parser.add_argument("--messages", type=int, default=50_000, help="that are replayed")
    parser.add_argument("--kills", type=int, default=KILLS)
    args = parser.parse_args()
    harness.end_with_us()
    rows, verdicts = [], []
    for name in args.parts or parts:
        with harness.broker() as port:
            figures, judged = parts[name](port)
        rows.append({"part": name, "figures": json.dumps(figures)})
        verdicts += judged
    return harness.conclude("delivery", rows, verdicts, as_json=args.json)


class Egress:
    """An egress loop in a thread, on a real broker, with or without a spool."""

    def __init__(self, port: int, spool: SqliteSpool | None = None, *, replay_per_s: int = 10_000) -> None:
        self.clock = SystemClock()
        wake = Wake()
        settings = MqttSettings(url=f"mqtt://127.0.0.1:{port}", in_flight_max=IN_FLIGHT)
        self.live_ages_ns: list[int] = []
        self.loop = EgressLoop(
            sink=MqttSink(
                settings, device="bench", boot="b00t", version="0", clock=self.clock, wake=wake, backoff=Backoff()
            ),
            outbox=Outbox(2000),
            clock=self.clock,
            boot="b00t",
            wake=wake,
            record_sent=lambda _stream, age_ns, _hand_over_ns: self.live_ages_ns.append(age_ns),
            waits_for_room=False,
            keeping=Keeping(spool, SpoolLimits(), replay_per_s),
        )
        self._thread = threading.Thread(target=self.loop.run)
        self._thread.start()

    def emit(self, deadline_ms: float | None = None) -> None:
        """Emit one result."""
        now_ns = self.clock.now_ns()
        deadline_ns = NEVER_NS if deadline_ms is None else now_ns + int(deadline_ms * NS_PER_MS)
        self.loop.emit(Message("result", "results/door", BODY, now_ns, deadline_ns, stream="door"))

    def acknowledged(self) -> int:
        """Return how many have arrived."""
        return int(self.loop.snapshot()["acknowledged"])

    def close(self) -> None:
        """End it."""
        self.loop.stop("end", self.clock.now_ns() + NS_PER_S)
        self._thread.join()


def egress_cpu(port: int, *, rounds: int, count: int = 5000) -> tuple[dict[str, Any], list[harness.Verdict]]:
    """CPU a QoS 1 message, all threads of this process: egress, and a bare paho client that encodes the same object.

    At 1,000 a second, as a device would at its most, and not as fast as it goes: there the window is always full.
    """
    spent: dict[str, list[float]] = {"bare paho": [], "egress": []}
    for number in range(rounds + 1):
        for name in list(spent) if number % 2 else reversed(spent):
            cpu_us = _cpu_us_of_paho(port, count) if name == "bare paho" else _cpu_us_of_egress(port, count)
            if number:
                spent[name].append(cpu_us)
    medians = {name: statistics.median(values) for name, values in spent.items()}
    ratio = medians["egress"] / medians["bare paho"]
    figures = {f"{name}: CPU us a message": round(value, 1) for name, value in medians.items()}
    return figures, [harness.Verdict("egress CPU / bare paho", ratio, f"<= {CPU_RATIO_MAX}", ratio <= CPU_RATIO_MAX)]


def _paced(count: int, send: Callable[[], object]) -> None:
    """Call 10 times every 10 ms."""
    began = time.perf_counter()
    for number in range(count):
        send()
        if number % 10 == 9:
            harness.pause(max(0.0, began + (number + 1) / 1000 - time.perf_counter()))


def _cpu_us_of_paho(port: int, count: int) -> float:
    done = threading.Event()
    arrived = 0

    def note_arrival(*_: object) -> None:
        nonlocal arrived
        arrived += 1
        if arrived == count:
            done.set()

    client = mqtt.Client(CallbackAPIVersion.VERSION2, "paho", protocol=mqtt.MQTTv5)
    client.max_inflight_messages_set(IN_FLIGHT)
    client.on_publish = note_arrival
    client.connect("127.0.0.1", port)
    client.loop_start()
    seq = 0

    def send() -> None:
        nonlocal seq
        seq += 1
        captured_ns = time.perf_counter_ns()
        stamp = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")  # noqa: TID251  As users do.
        age_ms = round((time.perf_counter_ns() - captured_ns) / 1e6, 3)
        head = {"id": f"b00t-{seq}", "boot": "b00t", "seq": seq, "stream": "door", "captured_at": stamp}
        payload = json.dumps({**head, "age_ms": age_ms, **BODY}, separators=(",", ":"))
        client.publish("edgebeat/v1/bench/results/door", payload, 1)

    began = time.process_time()
    _paced(count, send)
    done.wait(60)
    spent = time.process_time() - began
    client.disconnect()
    client.loop_stop()
    return spent / count * 1e6


def _cpu_us_of_egress(port: int, count: int) -> float:
    egress = Egress(port)
    while not egress.loop.snapshot()["connected"]:
        harness.pause(0.01)
    began = time.process_time()
    _paced(count, egress.emit)
    while egress.acknowledged() < count:
        harness.pause(0.005)
    spent = time.process_time() - began
    egress.close()
    return spent / count * 1e6


def _kept(count: int) -> list[KeptMessage]:
    wall_ns = SystemClock().wall_ns()
    body = json.dumps(BODY, separators=(",", ":"))
    return [
        KeptMessage("result", "0ld", seq, "results/door", "door", seq, wall_ns - NS_PER_S, body)
        for seq in range(1, count + 1)
    ]


@contextlib.contextmanager
def _spool() -> Any:
    # Not in /tmp, which may be memory; beside the repository's own files.
    with tempfile.TemporaryDirectory(dir=harness.ROOT) as folder:
        yield SqliteSpool(Path(folder), KEPT_KINDS, is_made=True, bytes_max=64 << 20)


def wear(count: int = 20_000) -> tuple[dict[str, Any], list[harness.Verdict]]:
    """Bytes given to write(2) and time a message, insert and delete, in batches of 80 as at 100 messages a second."""
    with _spool() as spool:
        spool.open()
        messages = _kept(count)
        before, began = _written_bytes(), time.perf_counter()
        rows: list[int] = []
        for start in range(0, count, 80):
            rows += spool.write(messages[start : start + 80], durable=False)
        write_s = time.perf_counter() - began
        began = time.perf_counter()
        for start in range(0, count, 100):
            spool.delete("result", rows[start : start + 100])
        delete_s = time.perf_counter() - began
        spool.close()
        a_message = (_written_bytes() - before) / count
    figures = {
        "bytes written a message": round(a_message),
        "us a message: insert": round(write_s / count * 1e6, 1),
        "us a message: delete": round(delete_s / count * 1e6, 1),
    }
    is_met = a_message <= WEAR_BYTES_MAX
    return figures, [harness.Verdict("bytes written a message", a_message, f"<= {WEAR_BYTES_MAX}", is_met)]


def _written_bytes() -> int:
    lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("wchar")).split()[1])


def drain(port: int, count: int = 20_000) -> tuple[dict[str, Any], list[harness.Verdict]]:
    """Messages a second from the spool to the broker and back, acknowledged and deleted, without a rate to keep."""
    with _spool() as spool:
        spool.open()
        spool.write(_kept(count), durable=True)
        began, cpu_began = time.perf_counter(), time.process_time()
        egress = Egress(port, spool)
        while egress.acknowledged() < count:
            harness.pause(0.01)
        elapsed_s = time.perf_counter() - began
        cpu_us = (time.process_time() - cpu_began) / count * 1e6
        egress.close()
    per_s = count / elapsed_s
    figures = {"messages a second": round(per_s), "CPU us a message": round(cpu_us, 1)}
    verdict = harness.Verdict("messages a second from the spool", per_s, f">= {SPOOL_PER_S_MIN}", per_s >= 1000)
    return figures, [verdict]


def replay(port: int, *, messages: int) -> tuple[dict[str, Any], list[harness.Verdict]]:
    """Many old messages at 1,000 a second while 100 a second are fresh, with a deadline of 250 ms."""
    with _spool() as spool:
        spool.open()
        spool.write(_kept(messages), durable=True)
        with _listener(port) as file:
            began = time.perf_counter()
            egress = Egress(port, spool, replay_per_s=1000)
            emitted = 0
            while egress.acknowledged() < messages + emitted:
                egress.emit(250)
                emitted += 1
                harness.pause(max(0.0, began + emitted / 100 - time.perf_counter()))
            elapsed_s = time.perf_counter() - began
            book = egress.loop.snapshot()
            egress.close()
            for _ in range(60):  # A listener that got no core has the rest still before it.
                if file.read_bytes().count(b"\n") >= messages + emitted:
                    break
                harness.pause(1.0)
            received = [one for one in read(file) if one.kind == "results"]
        arrived_ms = [one.age_ms for one in received if not one.is_replay]
        stated_ms = [age_ns / 1e6 for age_ns in egress.live_ages_ns]
        old = [one.seq for one in received if one.boot == "0ld"]
    figures = {
        "seconds": round(elapsed_s, 1),
        "replays a second": round(messages / elapsed_s),
        "fresh": len(arrived_ms),
        "fresh marked late": book["replayed"] - messages,
        "stated age of the fresh, ms p50, p99, max": _quantiles(stated_ms),
        "on arrival in another process, ms p50, p99, max": _quantiles(arrived_ms),
    }
    in_order = old == list(range(1, messages + 1))
    return figures, [
        harness.Verdict("old messages received, in order", float(len(old)), f"== {messages}", in_order),
        harness.Verdict("stated age of a fresh result, max ms", max(stated_ms), "<= 250", max(stated_ms) <= 250),
        harness.Verdict("the same on arrival, max ms", max(arrived_ms), "<= 250", max(arrived_ms) <= 250),
    ]


@contextlib.contextmanager
def _listener(port: int) -> Iterator[Path]:
    """Listen in a process of its own for the length of the block; give the file that it writes."""
    with tempfile.TemporaryDirectory(dir=harness.ROOT) as folder:
        file = Path(folder) / "heard"
        command = [sys.executable, "-m", "benchmarks.listener", str(port), str(file)]
        with harness.running(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            yield file


def _quantiles(values: list[float]) -> list[float]:
    return [round(harness.quantile(values, q), 1) for q in (0.5, 0.99, 1.0)]


def kills(count: int) -> tuple[dict[str, Any], list[harness.Verdict]]:
    """SIGKILL at random moments of an egress loop under 1,000 results a second; every time the file must open."""
    seen: dict[tuple[str, int], str] = {}
    rng = random.Random(5)
    opened, contradictions, rows_max = 0, 0, 0
    with tempfile.TemporaryDirectory(dir=harness.ROOT) as folder:
        for number in range(count):
            command = [sys.executable, "-m", "benchmarks.delivery_victim", folder, f"boot{number}"]
            with harness.running(command, stdout=subprocess.PIPE) as victim:
                assert victim.stdout is not None
                victim.stdout.readline()
                harness.pause(rng.uniform(0.0, 0.6))
                victim.send_signal(signal.SIGKILL)
                victim.wait()
            spool = SqliteSpool(Path(folder), KEPT_KINDS, is_made=False, bytes_max=64 << 20)
            rows_max = max(rows_max, sum(spool.open().values()))
            opened += 1
            spool.close()
            contradictions += compare(Path(folder), seen)
    figures = {"kills": count, "rows on disk, max": rows_max, "messages seen": len(seen)}
    return figures, [
        harness.Verdict("databases that opened", opened, f"== {count}", opened == count),
        harness.Verdict("ids with two contents", contradictions, "== 0", contradictions == 0),
    ]


def compare(folder: Path, seen: dict[tuple[str, int], str]) -> int:
    """Add what a spool holds to what was seen, and return how many ids have another content now."""
    contradictions = 0
    with contextlib.closing(sqlite3.connect(folder / "spool.db")) as database:
        for kind in KEPT_KINDS:
            query = f"SELECT boot, seq, topic || body || captured_wall_ns FROM {kind}"  # noqa: S608
            for boot, seq, content in database.execute(query):
                contradictions += seen.setdefault((boot, seq), content) != content
    return contradictions


if __name__ == "__main__":
    sys.exit(main())
