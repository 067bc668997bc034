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

OPTIONS: Mapping[str, Mapping[str, type]] = {
    "cuda": {
        "device_id": int,
        "gpu_mem_limit": int,
        "arena_extend_strategy": str,
        "cudnn_conv_algo_search": str,
        "do_copy_in_default_stream": bool,
        "use_tf32": bool,
    },
    "tensorrt": {
        "device_id": int,
        "trt_max_workspace_size": int,
        "trt_fp16_enable": bool,
        "trt_int8_enable": bool,
        "trt_engine_cache_enable": bool,
        "trt_engine_cache_path": str,
        "trt_timing_cache_enable": bool,
        "trt_timing_cache_path": str,
    },
    "openvino": {"device_type": str, "precision": str, "num_of_threads": int, "num_streams": int, "cache_dir": str},
    "xnnpack": {"intra_op_num_threads": int},
    "acl": {"enable_fast_math": bool},
    "qnn": {"backend_path": str, "htp_performance_mode": str, "profiling_level": str, "device_id": int},
    "coreml": {"ModelFormat": str, "MLComputeUnits": str, "RequireStaticInputShapes": bool},
    "cpu": {},
}
"""Those that make sense on a device, from ONNX Runtime's documentation. It ignores what it does not know, so that a
misspelt option would do nothing in silence."""


@dataclass(frozen=True, slots=True)
class Provider:
    """One provider as ONNX Runtime takes it."""

    name: str
    options: tuple[tuple[str, str], ...] = ()

    @property
    def full_name(self) -> str:
        """ONNX Runtime's name."""
        return NAMES[self.name]


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
    asked: Sequence[str], options: Mapping[str, Mapping[str, Option]], available: Sequence[str]
) -> ProviderPlan:
    """Return what can be tried.

    Args:
        asked: `engine.providers`.
        options: `engine.provider_options`, checked by `option_problems`.
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


def option_problems(options: Mapping[str, Mapping[str, Option]]) -> list[str]:
    """Return what is wrong with provider options, one text each."""
    problems = []
    for name, given in options.items():
        if name not in OPTIONS:
            problems.append(f"{name!r} is no provider: known are {', '.join(OPTIONS)}")
            continue
        for key, value in given.items():
            wanted = OPTIONS[name].get(key)
            known = ", ".join(OPTIONS[name]) or "none"
            if wanted is None:
                problems.append(f"{name}.{key} is no option that Edgebeat passes on: known are {known}")
            elif type(value) is not wanted:
                problems.append(f"{name}.{key} is {value!r}: it must be {_KINDS[wanted]}")
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


_KINDS = {int: "a whole number", bool: "true or false", str: "a text"}


def _text(value: Option) -> str:
    """ONNX Runtime takes texts; its own words for truth are 1 and 0."""
    return str(int(value)) if isinstance(value, bool) else str(value)
