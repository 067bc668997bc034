"""CPU, memory, kernel and libraries."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from agent.doctor.finding import Device, Finding, advice, ok, problem, unknown
from agent.engine.cpus import cgroup_quota_cpus, effective_cpus
from agent.modeltools.presets import preset_of_this_cpu

SUPPORTED = ("x86_64", "aarch64")

ORT_WRONG_WITH_SME = ("1.27.0",)
"""Gives silently wrong convolutions on a CPU with FEAT_SME (an Apple M4 or an Arm C1, not yet a Raspberry Pi)."""

GLIBC_MIN = (2, 28)
"""Of the manylinux_2_28 wheels of ONNX Runtime, OpenCV and numpy."""

KERNEL_MIN = (4, 20)
"""The first with /proc/pressure, by which the agent sees that others need the device."""

AVAILABLE_MIB_MIN = 150
"""What is left for the system's caches beside the agent; below it a camera's driver fails to get buffers."""


def cpu(device: Device) -> list[Finding]:
    """Say what the CPU can and which int8 it wants."""
    if device.machine not in SUPPORTED:
        text = f"{device.machine} has no wheels of ONNX Runtime"
        return [problem("cpu", text, "use a 64-bit system on x86-64 or ARM64 (uname -m)")]
    preset = preset_of_this_cpu(cpuinfo=device.root / "proc/cpuinfo", machine=device.machine)
    flags = set(device.text("proc/cpuinfo").split())
    known = {"avx2", "avx512_vnni", "avx_vnni", "asimddp", "i8mm", "bf16", "sve", "sme"}
    has = " ".join(sorted(flags & known)) or "none of " + " ".join(sorted(known))
    found = [ok("cpu", f"{device.machine}, {has}; int8 preset {preset.name} ({preset.why})")]
    if device.machine == "x86_64" and flags and "avx2" not in flags:
        text = "no AVX2: ONNX Runtime falls back to SSE, several times slower"
        found.append(advice("cpu", text, "measure with edgebeat model verify before you promise a rate"))
    if device.machine == "aarch64" and flags and "asimddp" not in flags:
        text = "no dot product (Cortex-A72, Raspberry Pi 4 and older): int8 gains little over fp32"
        found.append(advice("cpu", text, "measure both with edgebeat model verify"))
    return found


def cores(device: Device) -> list[Finding]:
    """Say how many CPUs the agent may use."""
    asked = None if device.settings is None else device.settings.limits.threads
    usable, quota = effective_cpus(asked, root=device.root), cgroup_quota_cpus(device.root)
    text = f"{usable} of {os.cpu_count()} CPUs for inference" + ("" if quota is None else f", quota {quota:g}")
    if quota is not None and quota < 1:
        advised = "raise CPUQuota= of the unit, or expect stalls: the kernel stops every thread at the quota's end"
        return [advice("cores", text, advised)]
    if asked is not None and asked > usable:
        return [advice("cores", f"{text}; limits.threads = {asked} is more", "lower limits.threads")]
    return [ok("cores", text)]


def memory(device: Device) -> list[Finding]:
    """Say what memory there is, for the system and for the agent."""
    sizes = {
        name: int(kib) // 1024 for name, kib in re.findall(r"^(\w+):\s+(\d+) kB", device.text("proc/meminfo"), re.M)
    }
    if "MemAvailable" not in sizes:
        return [unknown("memory", "/proc/meminfo says nothing")]
    total, available = sizes["MemTotal"], sizes["MemAvailable"]
    text = f"{available} of {total} MiB are available, swap {sizes.get('SwapTotal', 0)} MiB"
    limit_mb = None if device.settings is None else device.settings.limits.memory_mb
    if available < AVAILABLE_MIB_MIN:
        return [problem("memory", text, "stop something else, or use a smaller model")]
    if limit_mb is not None and limit_mb > available:
        advised = "lower limits.memory_mb, so that the agent does less before the kernel ends it"
        return [advice("memory", f"{text}; limits.memory_mb = {limit_mb} is more", advised)]
    return [ok("memory", text)]


def pressure(device: Device) -> list[Finding]:
    """Say whether the kernel tells of pressure."""
    if device.text("proc/pressure/cpu"):
        return [ok("pressure", "the kernel tells of CPU and memory pressure")]
    advised = "add psi=1 to the kernel's command line (Raspberry Pi: /boot/firmware/cmdline.txt)"
    return [advice("pressure", "no /proc/pressure: the agent does not see that others need the device", advised)]


def system(release: str, libc: tuple[str, str]) -> Callable[[Device], list[Finding]]:
    """Return the check of kernel and C library.

    Args:
        release: `uname -r`.
        libc: name and version, as `platform.libc_ver` says.
    """

    def check(device: Device) -> list[Finding]:
        del device
        found = []
        if _version(release) < KERNEL_MIN:
            found.append(advice("kernel", f"Linux {release}", "4.20 is the first that tells of pressure"))
        else:
            found.append(ok("kernel", f"Linux {release}"))
        name, version = libc
        if name != "glibc":
            advised = "use Debian, Ubuntu or Raspberry Pi OS: there are no wheels for another C library"
            found.append(problem("libc", f"{name or 'not glibc'} {version}".strip(), advised))
        elif _version(version) < GLIBC_MIN:
            found.append(problem("libc", f"glibc {version}", "the wheels need 2.28 or later: upgrade the system"))
        else:
            found.append(ok("libc", f"glibc {version}"))
        return found

    return check


def runtime(version: str, telemetry_is_off: bool) -> Callable[[Device], list[Finding]]:
    """Return the check of ONNX Runtime.

    Args:
        version: of the installed one.
        telemetry_is_off: whether it was told to send nothing before it was imported.
    """

    def check(device: Device) -> list[Finding]:
        has_sme = "sme" in device.text("proc/cpuinfo").split()
        found = [ok("onnxruntime", version)]
        if version in ORT_WRONG_WITH_SME and device.machine == "aarch64":
            text = f"{version} computes convolutions wrongly on CPUs with SME, and says nothing"
            if has_sme:
                found = [problem("onnxruntime", f"{text}; this is one", "install another: pip install onnxruntime")]
            else:
                found = [advice("onnxruntime", f"{text}; this is none", "install another before you move the disk")]
        if telemetry_is_off:
            found.append(ok("telemetry", "ONNX Runtime sends nothing"))
        else:
            advised = "set ORT_DISABLE_TELEMETRY=1 before onnxruntime is imported; the edgebeat command does"
            found.append(problem("telemetry", "ONNX Runtime may send telemetry", advised))
        return found

    return check


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:2])
