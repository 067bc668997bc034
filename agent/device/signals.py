"""Pressure, temperature and clock frequency from /proc and /sys; a file that is missing is normal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agent.kernel_file import read_kernel_file, read_number, read_pressure

TEMPERATURE_LIMIT_C = 80.0
"""For a zone without a passive or hot trip point: where a Raspberry Pi begins to slow down."""

_SENSIBLE_C = (-40.0, 150.0)
"""A sensor that is off or broken reads -274 or 200; that is no temperature."""


@dataclass(frozen=True, slots=True)
class Signals:
    """One look at the device; None for what it does not tell.

    Attributes:
        cpu_pressure: percent of the last 10 s in which some task waited for a CPU.
        memory_pressure: the same for memory.
        temperature_c: of the zone that is nearest to its limit.
        temperature_limit_c: that zone's limit.
        frequency_ratio: the highest clock frequency that the kernel allows now, of the highest that there is; the
            least over all CPUs. The current frequency tells nothing: an idle CPU is slow on purpose.
    """

    cpu_pressure: float | None = None
    memory_pressure: float | None = None
    temperature_c: float | None = None
    temperature_limit_c: float | None = None
    frequency_ratio: float | None = None

    @property
    def temperature_margin_c(self) -> float | None:
        """Degrees to the limit; None without a temperature."""
        if self.temperature_c is None or self.temperature_limit_c is None:
            return None
        return self.temperature_limit_c - self.temperature_c


class DeviceSignals:
    """Reads the signals; one thread, 30 us and 10 us a zone and CPU.

    Args:
        temperature_limit_c: in the place of every zone's own limit, None for those.
        root: where /proc and /sys are, another folder in tests.
    """

    def __init__(self, *, temperature_limit_c: float | None = None, root: Path = Path("/")) -> None:
        self._limit_c = temperature_limit_c
        # Joined once: that takes longer than to read them.
        self._cpu_pressure, self._memory_pressure = root / "proc/pressure/cpu", root / "proc/pressure/memory"
        self._zones = [
            (zone / "temp", temperature_limit_c or _trip_c(zone) or TEMPERATURE_LIMIT_C)
            for zone in sorted(root.glob("sys/class/thermal/thermal_zone*"))
        ]
        policies = sorted(root.glob("sys/devices/system/cpu/cpufreq/policy*"))
        self._frequencies = [(policy / "scaling_max_freq", policy / "cpuinfo_max_freq") for policy in policies]

    def read(self) -> Signals:
        """Look now."""
        temperatures = [
            (limit_c - celsius, celsius, limit_c)
            for file, limit_c in self._zones
            if (celsius := _celsius(file)) is not None
        ]
        _, temperature_c, limit_c = min(temperatures, default=(None, None, None))
        ratios = [
            allowed / highest
            for now, ever in self._frequencies
            if (allowed := read_number(now)) and (highest := read_number(ever))
        ]
        return Signals(
            cpu_pressure=read_pressure(self._cpu_pressure),
            memory_pressure=read_pressure(self._memory_pressure),
            temperature_c=temperature_c,
            temperature_limit_c=limit_c,
            frequency_ratio=min(ratios, default=None),
        )


def _trip_c(zone: Path) -> float | None:
    """Return the lowest trip point at which the kernel slows the device down."""
    trips = []
    for kind in zone.glob("trip_point_*_type"):
        if read_kernel_file(kind).strip() in ("passive", "hot"):
            celsius = _celsius(kind.with_name(kind.name.replace("_type", "_temp")))
            trips += [] if celsius is None or celsius <= 0 else [celsius]
    return min(trips, default=None)


def _celsius(file: Path) -> float | None:
    thousandths = read_number(file)
    if thousandths is None:
        return None
    celsius = thousandths / 1000
    return celsius if _SENSIBLE_C[0] <= celsius <= _SENSIBLE_C[1] else None
