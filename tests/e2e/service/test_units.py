"""The units and the example broker keep what their comments and our code promise."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from agent.cli import exit_codes
from agent.clock import NS_PER_S
from agent.daemon import DRAIN_NS
from agent.loops.service import CALL_NS, LOOK_NS
from agent.sinks.embedded import free_ports
from tests.agent_process import AgentProcess, settings_text
from tests.broker import MOSQUITTO, Subscriber, needs_mosquitto, wait_until
from tests.certificates import issue, make_authority
from tests.paths import REPOSITORY

UNITS = REPOSITORY / "systemd"


def lines(name: str) -> list[str]:
    """Return a unit's lines without comments."""
    return [line for line in (UNITS / name).read_text().splitlines() if line and not line.startswith("#")]


def value(name: str) -> str:
    """Return a value of the main unit."""
    (found,) = [line.partition("=")[2] for line in lines("edgebeat.service") if line.startswith(f"{name}=")]
    return found


def test_the_numbers_of_the_unit_are_those_of_the_code() -> None:
    """Three looks fit between two pings that are asked for; a call that ends by itself is shorter than that."""
    watchdog_ns = int(value("WatchdogSec")) * NS_PER_S
    assert watchdog_ns >= 3 * LOOK_NS
    assert watchdog_ns > CALL_NS
    assert int(value("TimeoutStopSec")) * NS_PER_S >= 2 * DRAIN_NS
    assert int(value("RestartPreventExitStatus")) == exit_codes.BAD_SETTINGS


def test_the_agent_outlives_a_child_that_the_kernel_ends_for_want_of_memory() -> None:
    """Systemd's own policy would stop the whole unit, and a release that is too large the running model."""
    assert value("OOMPolicy") == "continue"


def test_the_unit_of_several_agents_is_the_same_but_for_its_names() -> None:
    """Made from it; a restriction that is added to one is added to both."""
    one, several = set(lines("edgebeat.service")), set(lines("edgebeat@.service"))
    names = r"^(Description|ExecStart|StateDirectory|RuntimeDirectory|LoadCredential|Environment=EDGEBEAT_\w+)="
    assert [line for line in one ^ several if not re.match(names, line)] == []
    assert all("%i" in line for line in several - one)


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed: Debian's systemd"
)
@pytest.mark.parametrize("name", ["edgebeat.service", "edgebeat@.service"])
def test_the_exposure_is_at_most_1_5(name: str, tmp_path: Path) -> None:
    """0 is the best and 10 the worst."""
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=15", str(UNITS / name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze has no --offline: systemd 250 or later")
    assert done.returncode == 0, done.stdout[-500:] + done.stderr
    assert "Invalid" not in done.stderr


def test_every_drop_in_has_a_section_and_says_what_it_is_for() -> None:
    """A file that is copied without thought must explain itself."""
    for path in (UNITS / "drop-ins").iterdir():
        assert path.read_text().startswith("# For "), path
        assert "[Service]" in lines(f"drop-ins/{path.name}"), path


@needs_mosquitto
@pytest.mark.skipif(shutil.which("mosquitto_passwd") is None, reason="mosquitto_passwd is not installed")
def test_the_example_broker_lets_each_device_write_its_own_topics(tmp_path: Path) -> None:
    """TLS, passwords and ACL as they are shipped, but for paths and port; another's topics are refused."""
    assert MOSQUITTO is not None
    make_authority(tmp_path)
    issue(tmp_path, "broker", "localhost")
    for number, name in enumerate(("porch", "yard", "operator")):
        made = ["-c"] if number == 0 else []
        command = ["mosquitto_passwd", "-b", *made, "passwords", name, f"{name}-password"]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=60)
    (port, plain) = free_ports(2)
    text = (REPOSITORY / "config/mosquitto/edgebeat.conf").read_text()
    text = text.replace("listener 8883", f"listener {port}").replace("/etc/mosquitto/certs/", f"{tmp_path}/")
    text = text.replace("/etc/mosquitto/", f"{tmp_path}/").replace("/var/lib/mosquitto/", f"{tmp_path}/")
    # The subscriber of the tests speaks no TLS: a second listener with the same passwords and ACL.
    (tmp_path / "mosquitto.conf").write_text(f"user root\n{text}\nlistener {plain} 127.0.0.1\n")
    shutil.copy(REPOSITORY / "config/mosquitto/edgebeat.acl", tmp_path)
    (tmp_path / "password").write_text("porch-password\n")
    (tmp_path / "password").chmod(0o600)
    with (tmp_path / "broker.log").open("wb") as log:
        broker = subprocess.Popen([MOSQUITTO, "-c", str(tmp_path / "mosquitto.conf")], stdout=log, stderr=log)
    try:
        wait_until(lambda: "running" in (tmp_path / "broker.log").read_text(), "the broker")
        mqtt = f'username = "porch"\npassword_file = "{tmp_path}/password"\nca_file = "{tmp_path}/ca.pem"'
        own = settings_text(url=f"mqtts://127.0.0.1:{port}", mqtt=mqtt, stream="repeat = true")
        with Subscriber(plain, username="operator", password="operator-password") as operator:
            with AgentProcess(tmp_path, own) as agent:
                operator.wait_for("porch/status", state="online")
                operator.wait_for("porch/results/door")
                operator.wait_for("porch/health")
                assert agent.terminate()["delivery"]["dropped"]["refused"] == 0
            # The same password under another device's name.
            with AgentProcess(tmp_path, own.replace('id = "porch"', 'id = "yard"')) as agent:
                agent.wait_for_log("refused")
                agent.signal(15)
                agent.wait()
            assert not [message for message in operator.drain() if "/yard/" in message.topic]
    finally:
        broker.kill()
        broker.wait()
