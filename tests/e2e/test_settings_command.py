"""`edgebeat settings` as operators run it, and a staged roll-out over stand-ins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from jsonschema import Draft202012Validator

from benchmarks.stand_ins import POISON_FPS, StandIns
from tests.agent_process import AgentProcess, settings_text
from tests.broker import Broker, Subscriber, needs_mosquitto
from tests.paths import REPOSITORY

pytestmark = needs_mosquitto


def edgebeat(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("EDGEBEAT_")}
    command = [sys.executable, "-W", "error", "-m", "agent", *arguments]
    return subprocess.run(
        command, cwd=REPOSITORY, env=environ, capture_output=True, text=True, timeout=90, check=False
    )


def test_show_set_and_check(tmp_path: Path) -> None:
    """One device: what is in force, a change with its proof, each error of a wrong one, and where a value is from."""
    with Broker(tmp_path) as broker, Subscriber(broker.port) as subscriber:
        text = settings_text(
            url=broker.url, stream="repeat = true", more="[remote]\nprobation_s = 3", state=tmp_path / "state"
        )
        target = ("--mqtt", broker.url, "--device", "porch")
        with AgentProcess(tmp_path, text) as agent:
            subscriber.wait_for("porch/settings/reported")
            done = edgebeat("settings", "set", *target, "streams.door.max_fps=7", "streams.door.on_late=mark")
            assert (done.returncode, done.stdout) == (0, "v1 applied, proven; last asked for: v1\n"), done.stderr
            assert "1 proving, probation" in done.stderr
            wrong = edgebeat("settings", "set", *target, "streams.door.max_fps=-7", "mqtt.url=mqtt://elsewhere")
            assert wrong.returncode == 1
            assert (
                "values.streams.door.max_fps: input should be greater than 0 (out_of_range, got -7)" in wrong.stdout
            )
            assert "values.mqtt.url: can be changed on the device alone (local_only" in wrong.stdout
            shown = edgebeat("settings", "show", *target)
            (line,) = [line for line in shown.stdout.splitlines() if line.startswith("streams.door.max_fps")]
            assert line.split() == ["streams.door.max_fps", "7.0", "remote", "v1"]
            nested = edgebeat("settings", "set", *target, "--no-wait", "streams.door.steps.tracker.hits_min=3")
            assert nested.returncode == 0, nested.stderr
            wrong = edgebeat("settings", "set", *target, "streams.door.steps.trackr.hits_min=3")
            assert "values.streams.door.steps.trackr: is not a setting: did you mean 'tracker'?" in wrong.stdout
            values = json.loads(edgebeat("settings", "show", *target, "--json").stdout)["accepted"]
            assert values["streams"]["door"]["steps"] == {"tracker": {"hits_min": 3}}
            file = tmp_path / "values.json"
            file.write_text(json.dumps({"health": {"period_s": 5}}))
            whole = edgebeat("settings", "set", *target, "--file", str(file), "--no-wait", "--json")
            assert json.loads(whole.stdout)["reports"]["porch"]["accepted"] == {"health": {"period_s": 5}}
            agent.terminate()
        checked = edgebeat("check", "--config", str(tmp_path / "agent.toml"))
        (line,) = [line for line in checked.stdout.splitlines() if line.startswith("health.period_s")]
        assert line.split() == ["health.period_s", "5.0", "remote", "v5"]
        Draft202012Validator(json.loads(edgebeat("settings", "schema").stdout)).validate(values)
        assert edgebeat("settings", "set", *target, "nonsense").returncode == 78
        assert edgebeat("settings", "show", "--mqtt", broker.url, "--device", "x", "--timeout", "1").returncode == 1


def test_a_staged_roll_out_stops_at_the_poisoned_share(tmp_path: Path) -> None:
    """The first share keeps the change unless it is asked back; the third is never asked."""
    with (
        Broker(tmp_path) as broker,
        StandIns(9, broker.port, tmp_path, probation_s=2.0, poisoned=frozenset({"box-004"})) as fleet,
    ):
        target = ("--mqtt", broker.url, "--fleet", "edgebeat/v1/+", "--shares", "3,6,9", "--json")
        good = edgebeat("settings", "set", *target, "streams.door.max_fps=12")
        assert set(json.loads(good.stdout)["devices"].values()) == {"done"}, good.stderr
        bad = edgebeat("settings", "set", *target, f"streams.door.max_fps={POISON_FPS}", "--rollback-failed-share")
        assert bad.returncode == 1
        told = json.loads(bad.stdout)
        assert told["share"] == 2
        assert list(told["failed"]) == ["box-004"]
        assert "failed the check on_time" in told["failed"]["box-004"][0]
        assert [told["devices"][f"box-00{n}"] for n in (3, 5, 6)] == ["taken back", "taken back", "waiting"]
        fps = [device.max_fps for device in fleet.devices.values()]
        assert fps == [POISON_FPS] * 3 + [12.0] * 6
        assert fleet.error is None
