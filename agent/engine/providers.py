"""Execution providers: what may be asked for, with which options, and what is there."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent.errors import ConfigError

Option = str | int | float | bool

NAMES: Mapping[str, str] = {
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "xnnpack": "XnnpackExecutionProvider",
    "acl": "ACLExecutionProvider",
    "qnn": "QNNExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
"""By the name in the settings. ONNX Runtime takes an unknown name, and a provider that its build lacks, without an
error and runs on the CPU."""


THREADS: Mapping[str, str] = {"openvino": "num_of_threads", "xnnpack": "intra_op_num_threads"}
"""The option of each provider that has threads of its own: it would take every CPU, whatever the limit says."""


@dataclass(frozen=True, slots=True)
class Provider:
    """One provider as ONNX Runtime takes it."""

    name: str
    options: tuple[tuple[str, str], ...] = ()

    @property
    def full_name(self) -> str:
        """ONNX Runtime's name."""
        return NAMES[self.name]

    def options_within(self, threads: int) -> dict[str, str]:
        """Return its options; threads of its own are those of one inference, where no other number was asked for."""
        own = THREADS.get(self.name)
        return ({} if own is None else {own: str(threads)}) | dict(self.options)


CPU = Provider("cpu")


@dataclass(frozen=True, slots=True)
class ProviderPlan:
    """What was asked for, and what of it can be tried.

    Attributes:
        asked: names in the order of the settings.
        usable: those that this build of ONNX Runtime has, in the same order.
    """

    asked: tuple[str, ...]
    usable: tuple[Provider, ...]

    @property
    def absent(self) -> list[str]:
        """Those that this build of ONNX Runtime lacks."""
        known = {provider.name for provider in self.usable}
        return [name for name in self.asked if name not in known]


def plan_providers(
    asked: Sequence[str], options: Mapping[Any, Mapping[str, Option]], available: Sequence[str]
) -> ProviderPlan:
    """Return what can be tried.

    Args:
        asked: `engine.providers`.
        options: `engine.provider_options`.
        available: `onnxruntime.get_available_providers()`.

    Raises:
        ConfigError: none of them is there.
    """
    usable = tuple(
        Provider(name, tuple((key, _text(value)) for key, value in options.get(name, {}).items()))
        for name in asked
        if NAMES[name] in available
    )
    if not usable:
        raise ConfigError(
            f"engine.providers: none of {', '.join(asked)} is in this build of ONNX Runtime, which has "
            f"{', '.join(available)}: install the build for your accelerator, or add 'cpu' to the list"
        )
    return ProviderPlan(tuple(asked), usable)


def too_many_threads(providers: Sequence[Provider], threads: int) -> list[str]:
    """Return what is wrong with the threads that were asked for, one text each.

    Args:
        providers: with their options.
        threads: that one inference may have.
    """
    problems = []
    for provider in providers:
        name = THREADS.get(provider.name, "")
        asked = dict(provider.options).get(name)
        if asked is not None and not 1 <= int(asked) <= threads:
            problems.append(
                f"engine.provider_options.{provider.name}.{name} is {asked}: one inference has {threads} thread(s) "
                f"here: set 1 to {threads}, or raise limits.threads"
            )
    return problems


def device_memory() -> list[dict[str, Any]]:
    """Return used and total memory of each NVIDIA GPU, MiB, from its management library; empty without one.

    Boards that share the CPU's memory with the GPU (Jetson) tell nothing there: it is in the process's own figures.
    """
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return []
    if library.nvmlInit_v2() != 0:
        return []
    try:
        count = ctypes.c_uint()
        library.nvmlDeviceGetCount_v2(ctypes.byref(count))
        return [found for index in range(count.value) if (found := _gpu(library, index)) is not None]
    finally:
        library.nvmlShutdown()


class _NvmlMemory(ctypes.Structure):
    """`nvmlMemory_t` of nvml.h, bytes."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def _gpu(library: ctypes.CDLL, index: int) -> dict[str, Any] | None:
    device, memory = ctypes.c_void_p(), _NvmlMemory()
    if library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(device)) != 0:
        return None
    if library.nvmlDeviceGetMemoryInfo(device, ctypes.byref(memory)) != 0:
        return None
    return {"device": index, "used_mb": memory.used >> 20, "total_mb": memory.total >> 20}


def _text(value: Option) -> str:
    """ONNX Runtime takes texts; its own words for truth are 1 and 0."""
    return str(int(value)) if isinstance(value, bool) else str(value)
