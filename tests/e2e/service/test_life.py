"""The life of the service under a real systemd: install, run, crash, hang, reload, upgrade, return, uninstall.

`sudo scripts/test_service` prepares what it needs and runs it; each test goes on where the one before it ended.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.broker import wait_until
from tests.e2e.service.container import MISSING, Container
from tests.paths import MODELS

ROOT = os.environ.get("TEST_SERVICE_ROOT", "")
BUNDLE = os.environ.get("TEST_SERVICE_BUNDLE", "")

pytestmark = [
    pytest.mark.skipif(not ROOT or not BUNDLE, reason="takes minutes and a Debian of its own: scripts/test_service"),
    pytest.mark.skipif(bool(MISSING), reason=f"missing here: {', '.join(MISSING)}"),
    pytest.mark.timeout(900),
]

SETTINGS = """
[device]
id = "porch"
[mqtt]
password_file = "/run/credentials/edgebeat.service/mqtt-password"
[health]
period_s = 2
[[models]]
name = "coco-ssd"
path = "/opt/edgebeat/current/share/edgebeat/config/models/coco-ssd"
[[streams]]
name = "clip"
source = "/opt/edgebeat/current/share/edgebeat/config/demo/clip.mp4"
model = "coco-ssd"
repeat = true
deadline_ms = 5000
max_fps = 5
"""
FILE = "etc/edgebeat/agent.toml"
UNIT = "edgebeat.service"
INSTALL = "/bundle/install"

FREEZE = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
folder = f"/proc/{sys.argv[1]}/task"
for tid in os.listdir(folder):
    name = open(f"{folder}/{tid}/comm").read().strip()
    if name in sys.argv[2:]:
        for request in (0x4206, 0x4207):  # PTRACE_SEIZE, PTRACE_INTERRUPT: this thread alone stands still.
            if libc.ptrace(request, int(tid), None, None):
                sys.exit(f"{name}: {os.strerror(ctypes.get_errno())}")
        print(name, flush=True)
print("done", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """Boot a container with the bundle unpacked in it."""
    folder = tmp_path_factory.mktemp("service")
    shared = folder / "shared"
    shared.mkdir()
    shutil.copytree(MODELS / "stuck", shared / "stuck")
    with Container(Path(ROOT), folder, shared) as container:
        target = container.root / "bundle"
        target.mkdir()
        subprocess.run(["tar", "-xzf", BUNDLE, "-C", target, "--strip-components=1"], check=True)
        yield container


def write_settings(box: Container, text: str) -> None:
    """Write the settings file of the service."""
    (box.root / FILE).parent.mkdir(exist_ok=True)
    (box.root / FILE).write_text(text)


def boots(box: Container, topic: str = "edgebeat/v1/porch/results/clip") -> str:
    """Wait for a fresh result and return the run that made it."""
    (payload,) = box.receive(topic)
    return str(json.loads(payload)["boot"])


def versions(box: Container) -> set[str]:
    """Return the installed versions."""
    return {path.name for path in (box.root / "opt/edgebeat/versions").iterdir()}


def current(box: Container) -> str:
    """Return the version that the link names."""
    return (box.root / "opt/edgebeat/current").readlink().name


def seconds(box: Container, since: str, until: str) -> float:
    """Return the time between two moments that systemd noted of the unit."""
    begin, end = (int(box.property(UNIT, f"{name}TimestampMonotonic")) for name in (since, until))
    return round((end - begin) / 1e6, 2)


def tell(text: str) -> None:
    """Print a figure for docs/benchmarks.md; scripts/test_service lets pytest show it."""
    sys.stdout.write(f"\n[figure] {text}\n")


def test_01_a_half_written_settings_file_is_refused_and_nothing_starts(box: Container) -> None:
    """Installed, neither enabled nor started; the words are the agent's own; exit 78."""
    write_settings(box, SETTINGS.replace('id = "porch"', 'id = "por'))
    done = box.run(INSTALL, timeout_s=600)
    assert done.returncode == 78, done.stderr
    assert "/etc/edgebeat/agent.toml: is not valid TOML" in done.stderr
    assert "installed, neither enabled nor started" in done.stderr
    assert box.property(UNIT, "ActiveState") == "inactive"
    assert box.call("systemctl", "is-enabled", UNIT).strip() == "disabled"
    assert "use --upgrade" in box.call(INSTALL)


def test_02_it_installs_offline_and_publishes(box: Container) -> None:
    """A removal in between, then one command: settings stay, the unit runs, results arrive."""
    assert box.run(INSTALL, "--uninstall").returncode == 0
    write_settings(box, SETTINGS)
    done = box.run(INSTALL, timeout_s=600)
    assert done.returncode == 0, done.stderr
    assert "offline" in done.stderr
    assert (box.root / FILE).read_text() == SETTINGS
    assert box.property(UNIT, "ActiveState") == "active"
    assert box.call("systemctl", "is-enabled", UNIT).strip() == "enabled"
    boots(box)
    wait_until(lambda: " fps, age " in box.property(UNIT, "StatusText"), "a rate in the status", 60)
    assert "broker connected" in box.property(UNIT, "StatusText")
    tell(f"start to READY: {seconds(box, 'InactiveExit', 'ActiveEnter')} s")


def test_03_it_runs_inside_its_restrictions(box: Container) -> None:
    """No privilege, a system call filter, a made-up user, a state folder of its own; what systemd itself says."""
    status = box.call("cat", f"/proc/{box.property(UNIT, 'MainPID')}/status")
    assert re.search(r"CapEff:\t0+\n", status)
    assert re.search(r"CapBnd:\t0+\n", status)
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status
    assert int(status.split("Uid:\t")[1].split()[0]) > 60_000
    assert (box.root / "var/lib/private/edgebeat/spool.db").is_file()
    score = box.call("systemd-analyze", "security", "--no-pager", UNIT).rpartition("level for ")[2]
    assert float(score.split()[1]) <= 1.5, score
    tell(f"systemd-analyze security of the running unit: {score.split()[1]}")


def test_04_a_crash_is_followed_by_a_new_run(box: Container) -> None:
    """SIGKILL: systemd starts it again."""
    before = boots(box)
    assert box.run("systemctl", "kill", "--signal=KILL", "--kill-who=main", UNIT).returncode == 0
    wait_until(lambda: box.property(UNIT, "NRestarts") == "1", "a restart", 60)
    wait_until(lambda: boots(box) != before, "a result of the new run", 120)


def test_05_the_watchdog_ends_a_hang_that_the_agent_cannot_cure(box: Container) -> None:
    """The inference thread and the one that watches it stand still: no pings, the stacks are in the journal."""
    drop_in = box.root / "etc/systemd/system/edgebeat.service.d/faster.conf"
    drop_in.parent.mkdir(exist_ok=True)
    drop_in.write_text("[Service]\nWatchdogSec=6\n")
    box.call("systemctl", "daemon-reload")
    assert box.run("systemctl", "restart", UNIT).returncode == 0
    before, pid = boots(box), box.property(UNIT, "MainPID")
    freezer = box.start("/opt/edgebeat/current/bin/python", "-c", FREEZE, pid, "infer-coco-ssd", "hangs")
    assert freezer.stdout is not None
    stopped = [freezer.stdout.readline().strip() for _ in range(3)]
    assert sorted(stopped) == ["done", "hangs", "infer-coco-ssd"], stopped
    wait_until(lambda: "Watchdog timeout" in box.journal(), "the watchdog", 180)
    wait_until(lambda: box.property(UNIT, "ActiveState") == "active", "a restart", 60)
    freezer.kill()
    freezer.communicate()
    wait_until(lambda: boots(box) != before, "a result of the new run", 120)
    journal = box.journal()
    assert "Fatal Python error: Aborted" in journal
    drop_in.unlink()
    box.call("systemctl", "daemon-reload")


def test_06_a_hang_that_the_agent_cures_is_none_for_the_watchdog(box: Container) -> None:
    """It replaces itself in place: same process, same unit state, and the model is left out after the second."""
    more = '[limits]\nhang_s = 1\n[[models]]\nname = "stuck"\npath = "/shared/stuck"\n'
    more += SETTINGS.partition("[[streams]]")[2].replace('name = "clip"', '[[streams]]\nname = "bad"')
    write_settings(box, SETTINGS + more.replace('model = "coco-ssd"', 'model = "stuck"'))
    assert box.run("systemctl", "restart", UNIT).returncode == 0
    pid, restarts = box.property(UNIT, "MainPID"), box.property(UNIT, "NRestarts")
    wait_until(lambda: "stuck: hung 2 times and is not loaded" in box.journal(), "the second hang", 180)
    boots(box)
    assert (box.property(UNIT, "MainPID"), box.property(UNIT, "NRestarts")) == (pid, restarts)
    write_settings(box, SETTINGS)
    assert box.run("systemctl", "restart", UNIT).returncode == 0


def test_07_a_reload_is_applied_or_refused_by_the_same_run(box: Container) -> None:
    """`systemctl reload`: other settings in force, a broken file that changes nothing, and back."""
    before = boots(box)
    write_settings(box, SETTINGS.replace("max_fps = 5", "max_fps = 4"))
    assert box.run("systemctl", "reload", UNIT).returncode == 0
    wait_until(lambda: "streams.clip.max_fps 5.0 -> 4.0" in box.journal(), "the change")
    write_settings(box, SETTINGS + "[nonsense]\n")
    assert box.run("systemctl", "reload", UNIT).returncode == 0
    wait_until(lambda: "nothing is changed; the settings in force stay" in box.journal(), "the refusal")
    write_settings(box, SETTINGS)
    assert box.run("systemctl", "reload", UNIT).returncode == 0
    wait_until(lambda: "streams.clip.max_fps 4.0 -> 5.0" in box.journal(), "the way back")
    assert boots(box) == before


def test_08_an_upgrade(box: Container) -> None:
    """A version beside the old one, which is kept; settings stay; what a power cut left half-made is removed."""
    before, old = boots(box), current(box)
    (box.root / "opt/edgebeat/versions/half").mkdir()
    done = box.run(INSTALL, "--upgrade", timeout_s=600)
    assert done.returncode == 0, done.stderr
    assert current(box) != old
    assert versions(box) == {old, current(box)}
    assert (box.root / FILE).read_text() == SETTINGS
    assert boots(box) != before


@pytest.mark.parametrize(
    "fault",
    ["raise RuntimeError('a broken release')", "import threading; threading.Event().wait()"],
    ids=["crashes", "is never ready"],
)
def test_09_a_failed_upgrade_returns_by_itself(box: Container, fault: str) -> None:
    """The new version passes every check and then does not become ready: the old one is back, and publishes."""
    old, before = current(box), versions(box)
    (wheel,) = (box.root / "bundle/wheels").glob("edgebeat-*.whl")
    kept = wheel.with_suffix(".kept")
    shutil.copy(wheel, kept)
    needle = "    daemon = _build_daemon(args, layers, before)\n"
    with zipfile.ZipFile(kept) as right, zipfile.ZipFile(wheel, "w") as broken:
        for entry in right.infolist():
            content = right.read(entry)
            if entry.filename == "agent/cli/run.py":
                text = content.decode()
                assert text.count(needle) == 1
                content = text.replace(needle, f"    {fault}\n{needle}").encode()
            broken.writestr(entry, content)
    # The wait is systemd's for a start, 90 s; nobody wants that in a test.
    unit = box.root / "opt/edgebeat/versions" / old / "share/edgebeat/systemd/edgebeat.service"
    drop_in = box.root / "etc/systemd/system/edgebeat.service.d/faster.conf"
    drop_in.write_text("[Service]\nTimeoutStartSec=20\n")
    done = box.run(INSTALL, "--upgrade", timeout_s=600)
    drop_in.unlink()
    kept.replace(wheel)
    assert done.returncode == 1, done.stderr
    assert f"the upgrade failed; {old} runs again" in done.stderr
    assert (current(box), versions(box)) == (old, before)
    assert unit.is_file()
    boots(box)


def test_10_an_upgrade_that_refuses_the_settings_changes_nothing(box: Container) -> None:
    """They were broken meanwhile; the running version goes on undisturbed."""
    old, run = current(box), boots(box)
    write_settings(box, SETTINGS + "[nonsense]\n")
    done = box.run(INSTALL, "--upgrade", timeout_s=600)
    write_settings(box, SETTINGS)
    assert done.returncode == 78, done.stderr
    assert "nothing was changed" in done.stderr
    assert (current(box), boots(box)) == (old, run)


def test_11_a_second_agent_beside_it(box: Container) -> None:
    """edgebeat@yard has settings and state of its own."""
    (box.root / "etc/edgebeat/yard.toml").write_text(
        SETTINGS.replace("porch", "yard").replace("edgebeat.service", "edgebeat@yard.service")
    )
    assert box.run("systemctl", "start", "edgebeat@yard").returncode == 0
    boots(box, "edgebeat/v1/yard/results/clip")
    assert (box.root / "var/lib/private/edgebeat-yard/spool.db").is_file()
    boots(box)
    assert box.run("systemctl", "stop", "edgebeat@yard").returncode == 0


def test_12_a_run_by_hand_beside_the_service_says_what_is_wrong(box: Container) -> None:
    """The same settings twice: the state folder is another agent's, and the broker knows the name already."""
    words = ("timeout", "60", "edgebeat", "run", "--config", "/etc/edgebeat/agent.toml", "--duration", "8")
    told = box.call(*words)
    assert "locked" in told, told[-2000:]
    boots(box)


def test_13_a_full_disk_costs_messages_and_nothing_else(box: Container) -> None:
    """/var is full and the broker away: said once, the agent stays, and goes on when both are back."""
    restarts = box.property(UNIT, "NRestarts")
    state = "/var/lib/private/edgebeat"
    assert box.run("systemctl", "stop", UNIT).returncode == 0
    tell(f"stop: {seconds(box, 'ActiveExit', 'InactiveEnter')} s")
    assert box.run("mount", "-t", "tmpfs", "-o", "size=64k", "none", state).returncode == 0
    assert box.run("dd", "if=/dev/zero", f"of={state}/filler", "bs=4k", "count=16").returncode == 0
    assert box.run("systemctl", "start", UNIT).returncode == 0
    wait_until(lambda: "spool.db" in box.journal().rpartition("Starting edgebeat")[2], "a word about the spool", 60)
    assert box.run("systemctl", "stop", "mosquitto").returncode == 0
    wait_until(lambda: "broker away" in box.property(UNIT, "StatusText"), "the status", 60)
    assert box.run("systemctl", "start", "mosquitto").returncode == 0
    boots(box)
    assert box.property(UNIT, "NRestarts") == restarts
    assert box.run("systemctl", "stop", UNIT).returncode == 0
    assert box.run("umount", state).returncode == 0
    assert box.run("systemctl", "start", UNIT).returncode == 0


def test_14_the_doctor_and_its_bundle(box: Container) -> None:
    """On the installed service, as root."""
    done = box.run("edgebeat", "doctor", "--json", "--bundle", "/root/bundle.tar.gz")
    found = json.loads(done.stdout)
    assert {f["topic"]: f["level"] for f in found["findings"]}["model"] == "ok", found
    assert {f["topic"]: f["level"] for f in found["findings"]}["broker"] == "ok", found
    listed = box.call("tar", "-tzf", "/root/bundle.tar.gz")
    assert "journal.txt" in listed
    health = json.loads(box.call("tar", "-xzOf", "/root/bundle.tar.gz", "edgebeat-bundle/health.json"))
    assert health["device"] == "porch"


def test_15_a_read_only_root_is_said(box: Container) -> None:
    """Before anything is tried."""
    assert box.run("mount", "--bind", "-o", "ro", "/opt", "/opt").returncode == 0
    assert box.run("mount", "-o", "remount,bind,ro", "/opt").returncode == 0
    done = box.run(INSTALL, "--upgrade")
    assert box.run("umount", "/opt").returncode == 0
    assert done.returncode == 1
    assert "read-only" in done.stderr


def test_16_uninstall_leaves_settings_and_state(box: Container) -> None:
    """Unless told otherwise; the installer that came with the version does it."""
    done = box.run("/opt/edgebeat/current/share/edgebeat/scripts/install", "--uninstall")
    assert done.returncode == 0, done.stderr
    assert not (box.root / "opt/edgebeat").exists()
    assert not (box.root / "usr/local/bin/edgebeat").is_symlink()
    assert box.property(UNIT, "LoadState") == "not-found"
    assert (box.root / FILE).read_text() == SETTINGS
    assert (box.root / "var/lib/private/edgebeat/spool.db").is_file()
    assert box.run(INSTALL, "--uninstall", "--purge").returncode == 0
    assert not (box.root / "etc/edgebeat").exists()
    assert not (box.root / "var/lib/private/edgebeat").exists()
