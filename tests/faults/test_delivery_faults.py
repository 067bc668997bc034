"""Store and forward with real processes: what was accepted arrives, whoever is killed."""

from __future__ import annotations

import contextlib
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from agent.clock import NS_PER_S, SystemClock
from agent.core.message import KEPT_KINDS
from agent.spool.sqlite import SqliteSpool
from benchmarks.delivery import compare
from benchmarks.outage import Plan, outage
from tests.agent_process import AgentProcess, checked_summary, settings_text
from tests.broker import Broker, Message, Subscriber, needs_mosquitto, wait_until
from tests.paths import REPOSITORY
from tests.schemas import check_all

pytestmark = needs_mosquitto

STREAM = "repeat = true\nfps = 50\ndeadline_ms = 50"


def quiet_text(url: str, state: Path, stream: str = STREAM) -> str:
    """Return settings without periodic health: only log lines then leave gaps in the `seq` of results and events."""
    return settings_text(url=url, state=state, stream=stream).replace("period_s = 1\n", "period_s = 3600\n")


def numbers(messages: list[Message], boot: str) -> list[int]:
    """Return the seq of each result and event of a boot, as received."""
    return [
        message.body["seq"]
        for message in messages
        if ("/results/" in message.topic or "/events/" in message.topic) and message.body["boot"] == boot
    ]


def test_broker_killed_then_agent_killed(tmp_path: Path) -> None:
    """Nothing that was accepted is missing up to the last one seen; what comes twice has the same number."""
    state = tmp_path / "state"
    wal = state / "spool.db-wal"
    with Broker(tmp_path) as broker:
        text = quiet_text(broker.url, state)
        with AgentProcess(tmp_path, text) as agent:
            with Subscriber(broker.port) as before:
                boot = before.wait_for("porch/status", state="online").body["boot"]
                before.wait_for("results/door")
                broker.kill()
            agent.wait_for_log("the connection was lost")
            size_bytes = wal.stat().st_size
            wait_until(lambda: wal.stat().st_size > size_bytes + 100_000, "a spool that grows")
            agent.signal(signal.SIGKILL)
            agent.wait()
            # The records that went to `log` have numbers too; paho's of a reset connection is an error.
            warnings = agent.log.count(" WARNING ") + agent.log.count(" ERROR ")
        with sqlite3.connect(state / "spool.db") as database:
            spooled = [seq for (seq,) in database.execute("SELECT seq FROM result ORDER BY id")]
        database.close()
        broker.start()
        with Subscriber(broker.port) as after:
            # The clip is over at once: the run ends when what waited has arrived.
            with AgentProcess(tmp_path, quiet_text(broker.url, state, "fps = 1000")) as agent:
                code, _ = agent.wait()
            assert code == 0, agent.log
            after.wait_for("porch/status", state="offline")
            received_after = numbers(after.drain(), boot)
            assert all(m.body["replay"] for m in after.drain() if m.body.get("boot") == boot and "seq" in m.body)
        assert "result" in check_all(after.drain())
        received_before = numbers(before.drain(), boot)
        assert sorted(set(received_after)) == spooled == sorted(spooled)
        seen = set(received_before) | set(received_after)
        # What the broker had acknowledged and not handed on when it was killed is its loss: the numbers between the
        # last one received and the first one spooled. What was in flight is in unit/loops/test_spooler.
        brokers = set(range(max(received_before) + 1, min(spooled)))
        # States, such as `settings/reported`, have numbers too.
        states = {
            m.body["seq"]
            for m in before.drain()
            if isinstance(m.body, dict) and m.body.get("boot") == boot and "seq" in m.body
        }
        missing = set(range(1, max(seen) + 1)) - seen - states - brokers
        assert len(missing) <= warnings
        # Each message once a connection at most: the spool sends none twice.
        assert len(received_after) == len(set(received_after))


def test_broker_killed_and_back_then_agent_killed_in_mid_replay(tmp_path: Path) -> None:
    """The short form of `scripts/bench_delivery outage`; how fast it goes is the script's to judge, not a test's."""
    _, verdicts = outage(Plan(fps=50, before_s=1, outage_s=2, replay_s=0.5, after_s=4), tmp_path)
    counted = [verdict for verdict in verdicts if verdict.bound == "== 0"]
    assert [verdict.name for verdict in counted] == ["missing up to the last one seen", "ids with two contents"]
    assert all(verdict.is_met for verdict in counted), counted


def test_an_agent_that_stops_without_a_broker_leaves_its_results_to_the_next(tmp_path: Path) -> None:
    """SIGTERM while the broker is away: nothing is dropped."""
    state = tmp_path / "state"
    broker = Broker(tmp_path)
    with AgentProcess(tmp_path, quiet_text(broker.url, state)) as agent:
        wait_until((state / "spool.db-wal").exists, "the spool")
        size_bytes = (state / "spool.db-wal").stat().st_size
        wait_until(lambda: (state / "spool.db-wal").stat().st_size > size_bytes, "a spool that grows")
        first = agent.terminate()["delivery"]
    result = first["classes"]["result"]
    assert result["dropped"] == {}
    assert first["spooled"] == result["spooled"] == result["emitted"] > 0
    with broker, AgentProcess(tmp_path, quiet_text(broker.url, state, "fps = 1000")) as agent:
        code, lines = agent.wait()
    assert code == 0
    second = checked_summary(lines)["delivery"]
    assert second["recovered"] == first["spooled"]
    assert second["spooled"] == 0
    assert second["acknowledged"] == second["emitted"] - sum(second["dropped"].values())


@pytest.mark.parametrize("fault", ["a file in its place", "nonsense in the file"])
def test_a_bad_state_folder_is_said_once_and_results_flow(tmp_path: Path, fault: str) -> None:
    """The agent starts, publishes and ends in order, from memory or with a new file."""
    state = tmp_path / "state"
    if fault == "a file in its place":
        state.write_text("no folder")
    else:
        state.mkdir()
        (state / "spool.db").write_bytes(b"no database " * 1000)
    with (
        Broker(tmp_path) as broker,
        Subscriber(broker.port) as subscriber,
        AgentProcess(tmp_path, settings_text(url=broker.url, state=state, stream="repeat = true")) as agent,
    ):
        event = "spool_failed" if fault == "a file in its place" else "spool_replaced"
        assert str(state) in subscriber.wait_for(f"events/{event}").body["place"]
        subscriber.wait_for("results/door")
        agent.terminate()
        assert {"event", "log"} <= check_all(subscriber.drain())
    assert agent.log.count("spool: ") == 1


def test_killed_again_and_again_under_load(tmp_path: Path) -> None:
    """The short form of `scripts/bench_delivery kills`: the file opens each time, no id ever has two contents."""
    seen: dict[tuple[str, int], str] = {}
    rng = random.Random(7)
    clock, never = SystemClock(), threading.Event()
    for number in range(8):
        command = [sys.executable, "-m", "benchmarks.delivery_victim", str(tmp_path), f"boot{number}"]
        with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as victim:
            assert victim.stdout is not None
            victim.stdout.readline()
            clock.wait(never, int(rng.uniform(0, 0.4) * NS_PER_S))  # Any moment will do.
            victim.kill()
        if (tmp_path / "spool.db").exists():
            spool = SqliteSpool(tmp_path, KEPT_KINDS, is_made=False, bytes_max=1 << 20)
            spool.open()
            spool.close()
            assert compare(tmp_path, seen) == 0
    # The last one lives, and its books add up over what the killed ones left.
    command = [sys.executable, "-m", "benchmarks.delivery_victim", str(tmp_path), "last", "2"]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    assert compare(tmp_path, seen) == 0
    assert seen


def test_no_event_that_was_sent_is_lost_at_a_kill(tmp_path: Path) -> None:
    """It is on disk before the broker has it, so that the next run sends it again until it is acknowledged."""
    rng = random.Random(11)
    clock, never = SystemClock(), threading.Event()
    sent: set[str] = set()
    for number in range(5):
        command = [sys.executable, "-m", "benchmarks.delivery_victim", str(tmp_path), f"boot{number}", "60", "mute"]
        with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as victim:
            assert victim.stdout is not None
            assert victim.stdout.readline() == b"running\n"
            sent.add(victim.stdout.readline().decode().strip())
            clock.wait(never, int(rng.uniform(0, 0.4) * NS_PER_S))
            victim.kill()
            lines = victim.stdout.read().decode().split("\n")
            sent |= set(lines[:-1])  # The last one may be half of one.
        with contextlib.closing(sqlite3.connect(tmp_path / "spool.db")) as database:
            kept = {f"{boot}-{seq}" for boot, seq in database.execute("SELECT boot, seq FROM event")}
        assert sent <= kept
    assert len(sent) > 5
