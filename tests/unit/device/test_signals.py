"""Signals from a made /proc and /sys."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.device.signals import DeviceSignals, Signals


def write(root: Path, files: dict[str, str]) -> None:
    """Make files below a folder."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def test_a_device_without_any_of_the_files(tmp_path: Path) -> None:
    """Everything is unknown, nothing raises."""
    assert DeviceSignals(root=tmp_path).read() == Signals()


def test_all_of_them(tmp_path: Path) -> None:
    """The zone that is nearest to its own limit, and the CPU whose clock is held down most."""
    write(
        tmp_path,
        {
            "proc/pressure/cpu": "some avg10=12.50 avg60=1.00 avg300=0.10 total=1\nfull avg10=0.00 total=0\n",
            "proc/pressure/memory": "some avg10=3.25 avg60=0.00 avg300=0.00 total=1\n",
            "sys/class/thermal/thermal_zone0/temp": "60000\n",
            "sys/class/thermal/thermal_zone0/trip_point_0_type": "passive\n",
            "sys/class/thermal/thermal_zone0/trip_point_0_temp": "65000\n",
            "sys/class/thermal/thermal_zone0/trip_point_1_type": "critical\n",
            "sys/class/thermal/thermal_zone0/trip_point_1_temp": "50000\n",
            "sys/class/thermal/thermal_zone1/temp": "70000\n",
            "sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq": "1500000\n",
            "sys/devices/system/cpu/cpufreq/policy0/cpuinfo_max_freq": "1500000\n",
            "sys/devices/system/cpu/cpufreq/policy2/scaling_max_freq": "600000\n",
            "sys/devices/system/cpu/cpufreq/policy2/cpuinfo_max_freq": "2400000\n",
        },
    )
    seen = DeviceSignals(root=tmp_path).read()
    assert seen == Signals(12.5, 3.25, 60.0, 65.0, 0.25)
    assert seen.temperature_margin_c == 5.0


def test_a_limit_of_the_settings_holds_for_every_zone(tmp_path: Path) -> None:
    """degradation.temperature_c_max in the place of the zones' own."""
    write(tmp_path, {"sys/class/thermal/thermal_zone0/temp": "70000\n"})
    assert DeviceSignals(temperature_limit_c=60.0, root=tmp_path).read().temperature_margin_c == -10.0


@pytest.mark.parametrize("text", ["-274000", "250000", "", "n/a", "6e4"])
def test_a_broken_sensor_has_no_temperature(tmp_path: Path, text: str) -> None:
    """Off, out of range, empty or no number."""
    write(tmp_path, {"sys/class/thermal/thermal_zone0/temp": text, "proc/pressure/cpu": f"some avg10={text}x\n"})
    assert DeviceSignals(root=tmp_path).read() == Signals()
