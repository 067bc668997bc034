"""Settings of what runs the models: execution providers, operator libraries, the cache of compiled networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from agent.settings.fields import Section
from agent.settings.scope import LocalOnly

PROVIDER_OPTIONS: Mapping[str, Mapping[str, type]] = {
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

_KINDS = {int: "a whole number", bool: "true or false", str: "a text"}

ProviderName = Literal["cuda", "tensorrt", "openvino", "xnnpack", "acl", "qnn", "coreml", "cpu"]


class EngineSettings(Section):
    """What runs the models. None of it can be set from afar: it names code that this device executes."""

    providers: LocalOnly[tuple[ProviderName, ...]] = Field(default=("cpu",), min_length=1, max_length=8)
    """ONNX Runtime's execution providers, the preferred first: `cuda`, `tensorrt`, `openvino`, `xnnpack`, `acl`,
    `qnn`, `coreml`, `cpu`. One that is not there, or runs nothing of a model, is left out with a warning, an event
    and a line in health; without any of them the agent does not start, and without `cpu` no operator runs there.
    Default `cpu`, which every build has."""
    provider_options: LocalOnly[dict[ProviderName, dict[str, bool | int | float | str]]] = Field(default={})
    """Options by provider, such as `provider_options.cuda = { device_id = 0 }`; unknown ones are refused, because
    ONNX Runtime ignores them. Default: none."""
    custom_ops: LocalOnly[tuple[Annotated[str, Field(min_length=1, max_length=4096)], ...]] = Field(
        default=(), max_length=8
    )
    """Libraries of custom operators: absolute paths, or `onnxruntime_extensions` where that package is installed, at
    most 8. A library that others than root and the agent's user may write is refused. Default: none."""
    run_threads: LocalOnly[int | None] = Field(default=None, ge=1, le=256)
    """Threads of one inference, 1 to 256; never more than its share of `limits.threads`. Default: what `edgebeat
    model tune` found here, or all of the share."""
    spinning: LocalOnly[bool | None] = None
    """Whether threads that wait for work stay awake: faster by a little, for four times the CPU at 5 fps. Default:
    what `edgebeat model tune` found here, or false."""
    arena: LocalOnly[bool | None] = None
    """Whether activations come from one arena that keeps its memory; without it networks of many small operators take
    up to 1.5 times as long, and less memory. Default: what `edgebeat model tune` found here, or true."""
    use_tuned: LocalOnly[bool] = True
    """Use what `edgebeat model tune` wrote into `state.dir`, for whatever is not set here. Default true: it was
    measured on this device, counts only while nothing has changed, and the log says what is used."""
    cold_swap: LocalOnly[bool] = False
    """Whether a model that does not fit beside the one that it replaces may come all the same: the old one goes first
    and its streams have no result until the new one is loaded, warm and verified. Where that fails the old one is
    loaded again. `model_swapped` tells how long it took. Default false: such a change is refused."""
    cache_mb: LocalOnly[int] = Field(default=256, ge=0, le=65_536)
    """Size of the cache of compiled networks in `state.dir`, MiB, 0 to 65,536; then the one that was not used for
    longest goes. 0 compiles anew at each start. Default 256: ten networks of 25 MB."""

    @field_validator("providers")
    @classmethod
    def _once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise PydanticCustomError("providers", "names one twice")
        return value

    @field_validator("provider_options")
    @classmethod
    def _known(cls, value: dict[str, dict[str, bool | int | float | str]]) -> dict[str, Any]:
        if problems := _option_problems(value):
            raise PydanticCustomError("provider_options", "{problems}", {"problems": "; ".join(problems)})
        return value


def _option_problems(options: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return what is wrong with provider options, one text each."""
    problems = []
    for name, given in options.items():
        for key, value in given.items():
            wanted = PROVIDER_OPTIONS[name].get(key)
            if wanted is None:
                known = ", ".join(PROVIDER_OPTIONS[name]) or "none"
                problems.append(f"{name}.{key} is no option that Edgebeat passes on: known are {known}")
            elif type(value) is not wanted:
                problems.append(f"{name}.{key} is {value!r}: it must be {_KINDS[wanted]}")
    return problems
