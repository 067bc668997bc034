"""A device has the packages that the agent needs to run, and none of the extras."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from agent.__main__ import COMMANDS
from tests.agent_process import settings_text

EXTRAS = ("onnx", "skimage", "rich", "matplotlib", "prometheus_client", "cbor2", "nacl", "iotcore", "serial")
"""What the extras of `pyproject.toml` bring, as it is imported."""

WITHOUT = f"""
import sys
for name in {EXTRAS}:
    sys.modules[name] = None  # How Python says that a package is absent.
from agent.__main__ import main
main(sys.argv[1:])
"""


def edgebeat(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command as on such a device."""
    return subprocess.run(
        [sys.executable, "-c", WITHOUT, *arguments], capture_output=True, text=True, check=False, timeout=100
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_how_it_is_used(command: str) -> None:
    """What it cannot do without is said when it is asked for."""
    ended = edgebeat(command, "--help")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert f"edgebeat {command}" in ended.stdout


def test_the_doctor_sees_a_device(tmp_path: Path) -> None:
    """It once imported what quantises a network, to name the CPU's kind."""
    file = tmp_path / "agent.toml"
    file.write_text(settings_text(source="/dev/video99", state=tmp_path / "state"))
    ended = edgebeat("doctor", "--quick", "--config", str(file), "--json")
    assert (ended.returncode, ended.stderr) == (1, "")
    assert {"cpu", "memory", "camera"} <= {finding["topic"] for finding in json.loads(ended.stdout)["findings"]}
