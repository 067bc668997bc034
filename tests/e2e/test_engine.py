"""The engine room as its users meet it: a limit that is too small, a cache, a provider that is not there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.agent_process import AgentProcess, checked_summary, settings_text
from tests.paths import COCO_SSD, MODELS, REPOSITORY


def test_a_limit_that_is_too_small_ends_with_78_and_figures(tmp_path: Path) -> None:
    """Nothing starts; the least limit that would do is said."""
    settings = settings_text(model=COCO_SSD, more="[limits]\nmemory_mb = 64", state=tmp_path / "state")
    with AgentProcess(tmp_path, settings, "--output", "stdout") as agent:
        code, lines = agent.wait()
    assert (code, lines) == (78, [])
    assert "may take 64 MiB (limits.memory_mb)" in agent.log
    assert "what would fit: set limits.memory_mb to at least" in agent.log
    assert "Traceback" not in agent.log


def test_the_second_start_takes_the_compiled_network(tmp_path: Path) -> None:
    """The same results, and everything that was asked for and is in force in health."""
    stream = 'mode = "every_frame"'
    settings = settings_text(
        state=tmp_path / "state", stream=stream, more='[engine]\nproviders = ["xnnpack", "cpu"]\ncache_mb = 8'
    )
    outputs = []
    for is_first in (True, False):
        with AgentProcess(tmp_path, settings, "--output", "stdout") as agent:
            code, lines = agent.wait()
        assert code == 0, agent.log
        assert ("compiled for this device" in agent.log) is is_first
        assert "xnnpack is not in this build of ONNX Runtime: it is left out" in agent.log
        summary = checked_summary(lines)
        engine = summary["engine"]
        assert engine["cache"]["entries"] == 1
        assert engine["providers"]["absent"] == ["xnnpack"]
        assert engine["providers"]["in_force"] == {"seen": ["CPUExecutionProvider"]}
        assert engine["threads"]["in_force"] >= engine["threads"]["a_session"] >= 1
        assert engine["cores"]["inference"]
        assert summary["process"]["rss_max_mb"] < engine["memory"]["limit_mb"]
        outputs.append([line.partition('"classes"')[2] for line in lines[:-1]])
    assert outputs[0] == outputs[1]


def test_a_damaged_entry_is_made_again(tmp_path: Path) -> None:
    """One flipped bit in the weights: said, removed, compiled anew, and the stream runs."""
    settings = settings_text(model=MODELS / "tiny", state=tmp_path / "state", stream='mode = "every_frame"')
    for number in range(2):
        with AgentProcess(tmp_path, settings, "--output", "stdout") as agent:
            code, lines = agent.wait()
        assert code == 0, agent.log
        assert checked_summary(lines)["streams"]["door"]["ledger"]["published"] == 131
        assert "compiled for this device" in agent.log
        assert ("network.onnx is damaged" in agent.log) is (number == 1)
        (network,) = (tmp_path / "state/compiled").glob("*/network.onnx")
        content = bytearray(network.read_bytes())
        content[len(content) // 2] ^= 1
        network.chmod(0o600)
        network.write_bytes(content)


@pytest.mark.timeout(300)  # Five processes import everything.
def test_the_next_start_uses_what_was_tuned_and_says_so(tmp_path: Path) -> None:
    """The default model: measured by the command, in the log, in health; what the settings name goes before it."""
    state = tmp_path / "state"
    more = "[limits]\nthreads = 1\n[engine]\narena = true"
    settings = settings_text(model=COCO_SSD, state=state, stream="deadline_ms = 60000", more=more)
    (tmp_path / "agent.toml").write_text(settings)
    command = [
        sys.executable,
        "-m",
        "agent",
        "model",
        "tune",
        str(COCO_SSD),
        "--config",
        str(tmp_path / "agent.toml"),
    ]
    ran = subprocess.run(
        [*command, "--json", "--seconds", "1", "--fps", "0.01"], capture_output=True, cwd=REPOSITORY, check=True
    )
    found = json.loads(ran.stdout)
    assert found["kept"] == str(state / "tuned.json")
    assert found["target"] == {"fps": 0.01, "deadline_ms": 60000.0}
    with AgentProcess(tmp_path, settings, "--output", "stdout", "--duration", "1") as agent:
        code, lines = agent.wait()
    assert code == 0, agent.log
    assert "seen: runs as it was tuned, but for what the settings name: variant full, 1 thread(s)" in agent.log
    session = checked_summary(lines)["engine"]["sessions"]["seen"]
    assert (session["threads"], session["first_variant"]) == (1, "full")
    assert session["tuned"]["deadline_ms"] == 60000.0
    (state / "tuned.json").write_text("{")
    with AgentProcess(tmp_path, settings, "--output", "stdout", "--duration", "1") as agent:
        code, lines = agent.wait()
    assert code == 0, agent.log
    assert f"{state}/tuned.json: is not used: is damaged; edgebeat model tune writes it anew" in agent.log
    assert checked_summary(lines)["engine"]["sessions"]["seen"]["tuned"] is None
