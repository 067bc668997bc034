"""The agent as its users run it: a process, a settings file, signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from agent.clock import NS_PER_MS, SystemClock
from tests.paths import CLIP, MODELS, REPOSITORY


def settings_text(
    *,
    url: str = "mqtt://127.0.0.1:9",
    model: Path = MODELS / "tiny",
    source: object = CLIP,
    mqtt: str = "",
    stream: str = "",
    more: str = "",
    state: Path | None = None,
) -> str:
    """Return settings with one model, one stream called `door`, further sections, and a spool where `state` says."""
    keeping = "[spool]\nmax_mb = 0" if state is None else f'[state]\ndir = "{state}"'
    return f"""
[device]
id = "porch"
[mqtt]
url = "{url}"
reconnect_max_s = 1
{mqtt}
[health]
period_s = 1
{keeping}
[[models]]
name = "seen"
path = "{model}"
[[streams]]
name = "door"
source = "{source}"
model = "seen"
{stream}
{more}
"""


class AgentProcess:
    """`edgebeat run` as a child process; what it prints is kept in files, so that a test can wait for a line of it.

    Args:
        folder: for its settings and log.
        settings: text of the settings file.
        arguments: further command-line arguments.
        variables: of its environment, beside ours.
    """

    def __init__(self, folder: Path, settings: str, *arguments: str, **variables: str) -> None:
        self.log_file = folder / "agent.log"
        self.output_file = folder / "agent.out"
        self.config = folder / "agent.toml"
        self.config.write_text(settings)
        environ = {name: value for name, value in os.environ.items() if not name.startswith("EDGEBEAT_")}
        with self.log_file.open("wb") as log, self.output_file.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "error", "-m", "agent", "run", "--config", str(self.config), *arguments],
                cwd=REPOSITORY,
                env={**environ, **variables},
                stdin=subprocess.DEVNULL,  # A terminal would make SIGHUP mean its end.
                stdout=output,
                stderr=log,
            )

    def __enter__(self) -> AgentProcess:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    @property
    def pid(self) -> int:
        """Of the agent."""
        return self._process.pid

    @property
    def log(self) -> str:
        """What it has written to standard error so far."""
        return self.log_file.read_text()

    def wait_for_log(self, text: str, timeout_s: float = 30) -> None:
        """Wait until a text stands in the log."""
        self._wait_for(text, self.log_file, timeout_s)

    def wait_for_output(self, text: str, timeout_s: float = 30) -> None:
        """Wait until a text stands in what it printed, such as a result's."""
        self._wait_for(text, self.output_file, timeout_s)

    def _wait_for(self, text: str, file: Path, timeout_s: float) -> None:
        clock, never = SystemClock(), threading.Event()
        for _ in range(int(timeout_s * 20)):
            if text in file.read_text():
                return
            assert self._process.poll() is None, self.log
            clock.wait(never, 50 * NS_PER_MS)
        raise AssertionError(f"{text!r} is not in {file.name}:\n{self.log}")

    def signal(self, number: int) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def wait(self, timeout_s: float = 60) -> tuple[int, list[str]]:
        """Wait for the end and return the exit code and the lines of standard output."""
        code = self._process.wait(timeout_s)
        return code, self.output_file.read_text().splitlines()

    def terminate(self, timeout_s: float = 10) -> dict[str, Any]:
        """Send SIGTERM and return the summary; the agent must end by itself with code 0 and exact books."""
        self.signal(signal.SIGTERM)
        code, lines = self.wait(timeout_s)
        assert code == 0, self.log
        return checked_summary(lines)


def checked_summary(lines: list[str]) -> dict[str, Any]:
    """Return the last line's object after checking that every book in it adds up."""
    summary: dict[str, Any] = json.loads(lines[-1])
    for stream in summary["streams"].values():
        ledger = stream["ledger"]
        assert ledger["captured"] == sum(ledger.values()) - ledger["captured"]
        assert ledger["in_flight"] == 0  # A frame that nobody had stays open.
    delivery = summary["delivery"]
    assert delivery["is_exact"]
    settled = delivery["acknowledged"] + delivery["carried"] + sum(delivery["dropped"].values())
    assert delivery["emitted"] == settled + delivery["queued"] + delivery["in_flight"] + delivery["spooled"]
    return summary
