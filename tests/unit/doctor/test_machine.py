"""CPU, memory, kernel, libraries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.doctor import machine
from tests.unit.doctor.made import device, told


@pytest.mark.parametrize(
    ("name", "flags", "expected", "word"),
    [
        ("x86_64", "flags : sse4_2 avx2 avx512_vnni", ["ok"], "preset vnni"),
        ("x86_64", "flags : sse4_2", ["ok", "advice"], "preset avx2"),
        ("aarch64", "Features : fp asimd asimddp", ["ok"], "preset arm"),
        ("aarch64", "Features : fp asimd crc32", ["ok", "advice"], "preset arm"),
        ("armv7l", "", ["problem"], "no wheels"),
    ],
)
def test_cpu(tmp_path: Path, name: str, flags: str, expected: list[str], word: str) -> None:
    """The preset of int8, and what is slow or unsupported."""
    found = machine.cpu(device(tmp_path, {"proc/cpuinfo": flags}, machine=name))
    assert told(found) == [("cpu", level) for level in expected]
    assert word in found[0].text


def test_a_quota_below_one_cpu_is_told(tmp_path: Path) -> None:
    """The kernel then stops every thread at its end."""
    files = {"proc/self/cgroup": "0::/edgebeat\n", "sys/fs/cgroup/edgebeat/cpu.max": "50000 100000\n"}
    (found,) = machine.cores(device(tmp_path, files))
    assert found.level == "advice"
    assert "quota 0.5" in found.text


def test_more_threads_than_cpus_are_told(tmp_path: Path) -> None:
    """The setting is capped; somebody should know."""
    assert told(machine.cores(device(tmp_path, limits={"threads": 256}))) == [("cores", "advice")]


@pytest.mark.parametrize(
    ("available_mb", "limit_mb", "level"), [(4000, 400, "ok"), (100, None, "problem"), (300, 400, "advice")]
)
def test_memory(tmp_path: Path, available_mb: int, limit_mb: int | None, level: str) -> None:
    """What is left, and whether the limit can be reached before the kernel acts."""
    text = f"MemTotal: {8 << 20} kB\nMemAvailable: {available_mb << 10} kB\n"
    limits: dict[str, Any] = {} if limit_mb is None else {"limits": {"memory_mb": limit_mb}}
    assert told(machine.memory(device(tmp_path, {"proc/meminfo": text}, **limits))) == [("memory", level)]


def test_a_device_that_tells_nothing(tmp_path: Path) -> None:
    """Unknown is said as such."""
    assert told(machine.memory(device(tmp_path))) == [("memory", "unknown")]
    assert told(machine.pressure(device(tmp_path))) == [("pressure", "advice")]
    assert told(machine.pressure(device(tmp_path, {"proc/pressure/cpu": "some avg10=0"}))) == [("pressure", "ok")]


@pytest.mark.parametrize(
    ("release", "libc", "levels"),
    [
        ("6.1.0-rpi", ("glibc", "2.36"), ["ok", "ok"]),
        ("4.19.0", ("glibc", "2.27"), ["advice", "problem"]),
        ("6.6.1", ("", ""), ["ok", "problem"]),
    ],
)
def test_kernel_and_libc(tmp_path: Path, release: str, libc: tuple[str, str], levels: list[str]) -> None:
    """Against what the wheels were built for."""
    found = machine.system(release, libc)(device(tmp_path))
    assert [str(finding.level) for finding in found] == levels


@pytest.mark.parametrize(
    ("version", "features", "level"),
    [
        ("1.27.0", "Features : sme", "problem"),
        ("1.27.0", "Features : asimddp", "advice"),
        ("1.32.0", "Features : sme", "ok"),
    ],
)
def test_a_runtime_that_is_wrong_with_sme(tmp_path: Path, version: str, features: str, level: str) -> None:
    """It says nothing by itself."""
    found = machine.runtime(version, True)(device(tmp_path, {"proc/cpuinfo": features}, machine="aarch64"))
    assert told(found) == [("onnxruntime", level), ("telemetry", "ok")]


def test_telemetry_that_is_on_is_a_problem(tmp_path: Path) -> None:
    """Nobody asked for it."""
    assert ("telemetry", "problem") in told(machine.runtime("1.32.0", False)(device(tmp_path)))
