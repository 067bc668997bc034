"""Clock, heat, disk, cameras, models, broker."""

from __future__ import annotations

import errno
import json
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from agent.doctor import clock, disk, heat
from agent.doctor.broker import Answer, broker
from agent.doctor.cameras import cameras, v4l2_formats
from agent.doctor.models import Trial, models
from tests.unit.doctor.made import NOW_NS, device, told

THROTTLED = "sys/devices/platform/soc/soc:firmware/get_throttled"
CLOCKSOURCE = "sys/devices/system/clocksource/clocksource0/current_clocksource"


@pytest.mark.parametrize(("answer", "level"), [(True, "ok"), (False, "advice"), (None, "unknown")])
def test_time(tmp_path: Path, answer: bool | None, level: str) -> None:
    """Whether anything keeps the clock right."""
    assert told(clock.wall(lambda: answer)(device(tmp_path))) == [("time", level)]


def test_a_clock_at_1970_is_a_problem(tmp_path: Path) -> None:
    """A board without a battery, before the network told it the time."""
    (found,) = clock.wall(lambda: True)(replace(device(tmp_path), wall_ns=3600 * 10**9))
    assert found.level == "problem"
    assert "1970-01-01T01:00:00" in found.text


def test_the_kernel_answers() -> None:
    """The real call does not crash and gives one of the three."""
    assert clock.kernel_is_synchronised() in (True, False, None)


@pytest.mark.parametrize(("name", "level"), [("tsc", "ok"), ("hpet", "advice"), ("", "unknown")])
def test_clock_source(tmp_path: Path, name: str, level: str) -> None:
    """Cheap or slow."""
    assert told(clock.source(device(tmp_path, {CLOCKSOURCE: name}))) == [("clock source", level)]


def test_heat(tmp_path: Path) -> None:
    """A zone near its limit, a clock that is held down, the powersave governor."""
    files = {
        "sys/class/thermal/thermal_zone0/temp": "75000",
        "sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq": "600000",
        "sys/devices/system/cpu/cpufreq/policy0/cpuinfo_max_freq": "1500000",
        "sys/devices/system/cpu/cpufreq/policy0/scaling_governor": "powersave\n",
    }
    assert told(heat.temperature(device(tmp_path, files))) == [
        ("temperature", "advice"),
        ("clock rate", "advice"),
        ("clock rate", "advice"),
    ]


@pytest.mark.parametrize(
    ("bits", "expected"),
    [("0", [("power", "ok")]), ("50000", [("power", "advice")]), ("50005", [("power", "problem")]), ("x", [])],
)
def test_power_of_a_raspberry(tmp_path: Path, bits: str, expected: list[tuple[str, str]]) -> None:
    """Now, since boot, never; and a file that is none."""
    found = heat.temperature(device(tmp_path, {THROTTLED: bits}))
    assert told(found) == [("temperature", "unknown"), *expected]


def test_the_state_folder(tmp_path: Path) -> None:
    """Absent, there, and too small for the spool."""
    state = {"dir": str(tmp_path / "state")}
    assert told(disk.state(device(tmp_path, state=state))) == [("state", "advice")]
    (tmp_path / "state").mkdir()
    assert told(disk.state(device(tmp_path, state=state))) == [("state", "ok")]
    small = device(tmp_path, state=state, spool={"max_mb": 65_536})
    if shutil.disk_usage(tmp_path).free >> 20 < 65_636:
        assert told(disk.state(small)) == [("state", "advice")]


def test_a_state_folder_of_a_newer_version(tmp_path: Path) -> None:
    """The agent would set the spool aside: say so before."""
    database = sqlite3.connect(tmp_path / "spool.db")
    database.execute("PRAGMA user_version = 7")
    database.execute("CREATE TABLE t (a)")
    database.commit()
    database.close()
    found = disk.state(device(tmp_path, state={"dir": str(tmp_path)}))
    assert told(found) == [("state", "ok"), ("spool", "problem")]
    assert "format 7" in found[1].text


@pytest.mark.parametrize(
    ("life", "urgent", "level"),
    [("0x01 0x02", "0x01", "ok"), ("0x03 0x09", "0x01", "problem"), ("0x01", "0x02", "problem")],
)
def test_wear_of_emmc(tmp_path: Path, life: str, urgent: str, level: str) -> None:
    """The worse of its two figures, and its own warning."""
    place = "sys/block/mmcblk0/device"
    files = {f"{place}/type": "MMC\n", f"{place}/life_time": life, f"{place}/pre_eol_info": urgent}
    assert told(disk.wear(device(tmp_path, files))) == [("wear", level)]


def test_wear_of_cards_and_other_disks(tmp_path: Path) -> None:
    """They do not tell."""
    assert told(disk.wear(device(tmp_path))) == [("wear", "unknown")]
    assert told(disk.wear(device(tmp_path, {"sys/block/mmcblk0/device/type": "SD\n"}))) == [("wear", "advice")]


def test_cameras(tmp_path: Path) -> None:
    """Absent; with formats; a second node without pictures; one that cannot be opened; a mode that shuts us out."""
    absent = device(tmp_path)
    assert told(cameras(lambda _: ["MJPG"])(absent)) == [("camera", "problem")]
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/video0").touch(mode=0o666)
    (tmp_path / "dev/video0").chmod(0o666)
    there = device(tmp_path)
    (found,) = cameras(lambda _: ["MJPG", "YUYV"])(there)
    assert (found.level, found.text) == ("ok", "/dev/video0: MJPG, YUYV")
    assert told(cameras(lambda _: [])(there)) == [("camera", "problem")]

    def busy(_: Path) -> list[str]:
        raise OSError(errno.EBUSY, "Device or resource busy")

    assert told(cameras(busy)(there)) == [("camera", "problem")]
    (tmp_path / "dev/video0").chmod(0o600)
    assert told(cameras(lambda _: ["MJPG"])(there)) == [("camera", "advice"), ("camera", "ok")]


def test_what_is_no_camera_has_no_formats(tmp_path: Path) -> None:
    """The real call on a file."""
    (tmp_path / "video0").touch()
    assert v4l2_formats(tmp_path / "video0") == []


def test_models(tmp_path: Path) -> None:
    """Proven, refused, larger than its limit."""
    right, wrong = Trial("full 14 ms, golden sample right", (), 120), Trial("", ("detects nothing here",), 90)
    assert told(models(lambda _: right)(device(tmp_path))) == [("model", "ok")]
    assert told(models(lambda _: wrong)(device(tmp_path))) == [("model", "problem")]
    assert told(models(lambda _: right)(device(tmp_path, limits={"memory_mb": 100}))) == [("model", "advice")]


def health(at: str) -> dict[str, bytes]:
    """Return what a broker holds."""
    return {"health": json.dumps({"at": at}).encode()}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answer("connected", True, health("2026-09-21T13:00:00.000Z")), [("broker", "ok"), ("clock skew", "ok")]),
        (
            Answer("connected", True, health("2027-01-01T00:00:00.000Z")),
            [("broker", "ok"), ("clock skew", "problem")],
        ),
        (Answer("connected", True, {"health": b"[1]"}), [("broker", "ok"), ("clock skew", "unknown")]),
        (Answer("connected", True), [("broker", "ok"), ("clock skew", "unknown")]),
        (Answer("certificate is not yet valid", False), [("broker", "problem")]),
        (Answer("Connection refused", False), [("broker", "problem")]),
    ],
)
def test_broker(tmp_path: Path, answer: Answer, expected: list[tuple[str, str]]) -> None:
    """Reached or not, and a report from the future."""
    assert NOW_NS == 1_790_000_000 * 10**9
    assert told(broker(lambda *_: answer)(device(tmp_path))) == expected


def test_a_broker_without_tls_is_told_where_others_listen(tmp_path: Path) -> None:
    """On loopback nobody does."""
    far = device(tmp_path, mqtt={"url": "mqtt://broker.example"})
    assert ("broker", "advice") in told(broker(lambda *_: Answer("connected", True))(far))
    assert told(broker(lambda *_: Answer("", True))(device(tmp_path, mqtt={"url": "embedded"}))) == [
        ("broker", "advice")
    ]
