"""Temperature, and what the device does about it."""

from __future__ import annotations

from agent.device.signals import DeviceSignals
from agent.doctor.finding import Device, Finding, advice, ok, problem, unknown

MARGIN_C = 10.0
"""Nearer to its limit than this, a device without load will slow down under it."""

_PI_NOW = {0: "under-voltage", 1: "clock capped", 2: "throttled", 3: "soft temperature limit"}
"""Bits of the firmware's `get_throttled`; 16 higher: since boot."""


def temperature(device: Device) -> list[Finding]:
    """Say how far the hottest zone is from its limit, and whether the clock is held down."""
    limit_c = None if device.settings is None else device.settings.degradation.temperature_c_max
    seen = DeviceSignals(temperature_limit_c=limit_c, root=device.root).read()
    margin_c = seen.temperature_margin_c
    if margin_c is None:
        found = [unknown("temperature", "no thermal zone")]
    else:
        text = f"{seen.temperature_c:.0f} C of {seen.temperature_limit_c:.0f} C"
        cool = "cool it: a heat sink, air, shade"
        found = [advice("temperature", text, cool) if margin_c < MARGIN_C else ok("temperature", text)]
    if seen.frequency_ratio is not None and seen.frequency_ratio < 1:
        text = f"the clock is held at {seen.frequency_ratio:.0%} of its highest"
        found.append(advice("clock rate", text, "cool it, or raise scaling_max_freq"))
    return found + _governor(device) + _raspberry(device)


def _governor(device: Device) -> list[Finding]:
    name = device.text("sys/devices/system/cpu/cpufreq/policy0/scaling_governor").strip()
    if name != "powersave":
        return []
    driver = device.text("sys/devices/system/cpu/cpufreq/policy0/scaling_driver").strip()
    if driver.startswith(("intel_pstate", "amd-pstate")):
        return []  # There this name means the adaptive one.
    return [advice("clock rate", "the governor is powersave: always the lowest clock", "use schedutil or ondemand")]


def _raspberry(device: Device) -> list[Finding]:
    text = device.text("sys/devices/platform/soc/soc:firmware/get_throttled").strip()
    try:
        bits = int(text, 16)
    except ValueError:
        return []
    now = [name for bit, name in _PI_NOW.items() if bits & 1 << bit]
    before = [name for bit, name in _PI_NOW.items() if bits & 1 << bit + 16]
    if now:
        return [problem("power", f"now: {', '.join(now)}", "a stronger power supply and a short cable; then cool it")]
    if before:
        advised = "a stronger power supply and a short cable; then cool it"
        return [advice("power", f"since boot: {', '.join(before)}", advised)]
    return [ok("power", "no under-voltage or throttling since boot")]
