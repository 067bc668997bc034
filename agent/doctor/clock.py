"""The device's clocks."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

from agent.clock import NS_PER_S, iso_utc
from agent.doctor.finding import Device, Finding, advice, ok, problem, unknown

CHEAP_SOURCES = ("tsc", "arch_sys_counter", "kvm-clock", "hyperv_clocksource_tsc_page")
"""Read without a system call (vDSO): 0.1 us, where hpet and acpi_pm take 1 us and more."""

EARLIEST_NS = 1_735_689_600 * NS_PER_S
"""2025-01-01: the agent did not exist before, so that an earlier clock is wrong."""

_TIME_ERROR = 5  # adjtimex(2)
_TIMEX_BYTES = 512  # More than struct timex has on any architecture.


def kernel_is_synchronised() -> bool | None:
    """Return whether the kernel says that its clock is kept right; None where it does not say."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "adjtimex"):
        return None
    state = libc.adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))  # Zeroed: modes = 0 changes nothing.
    return None if state < 0 else state != _TIME_ERROR


def source(device: Device) -> list[Finding]:
    """Say what the kernel reads the time from."""
    name = device.text("sys/devices/system/clocksource/clocksource0/current_clocksource").strip()
    if not name:
        return [unknown("clock source", "not told")]
    if name in CHEAP_SOURCES:
        return [ok("clock source", name)]
    advised = "each look at the clock is a slow one; see dmesg for why the kernel gave up the CPU's own counter"
    return [advice("clock source", name, advised)]


def wall(is_synchronised: Callable[[], bool | None]) -> Callable[[Device], list[Finding]]:
    """Return the check of the wall clock.

    Args:
        is_synchronised: see `kernel_is_synchronised`.
    """

    def check(device: Device) -> list[Finding]:
        now = iso_utc(device.wall_ns)
        if device.wall_ns < EARLIEST_NS:
            advised = "TLS fails and captured_at is wrong until it is set: enable systemd-timesyncd, or add a battery"
            return [problem("time", f"the clock says {now}", advised)]
        answer = is_synchronised()
        if answer is None:
            return [unknown("time", f"{now}; whether it is kept right is not told")]
        if answer:
            return [ok("time", f"{now}, kept right by the network")]
        advised = "timedatectl set-ntp true, or install chrony: captured_at is as good as this clock"
        return [advice("time", f"{now}, which nothing keeps right", advised)]

    return check
