"""Execution providers: asked for, there, and nothing in silence."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from pydantic import ValidationError

from agent.engine.providers import CPU, NAMES, Provider, device_memory, plan_providers, too_many_threads
from agent.engine.session import OrtEngine, ProviderMissingError, SessionSetup, available_providers
from agent.errors import ConfigError
from agent.settings import EngineSettings
from tests.paths import MODELS

CUDA_BUILD = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]


def test_what_the_build_lacks_is_left_out_and_named() -> None:
    """The order stays, the options go along as ONNX Runtime's texts."""
    options = {"cuda": {"device_id": 1, "use_tf32": False}}
    plan = plan_providers(["openvino", "cuda", "cpu"], options, CUDA_BUILD)
    assert plan.usable == (Provider("cuda", (("device_id", "1"), ("use_tf32", "0"))), CPU)
    assert plan.absent == ["openvino"]


def test_without_any_of_them_nothing_starts() -> None:
    """Falling back to the CPU is only done where it was listed."""
    with pytest.raises(ConfigError, match=r"none of qnn, xnnpack is in this build.*add 'cpu'"):
        plan_providers(["qnn", "xnnpack"], {}, available_providers())


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"providers": ["gpu"]}, "'cuda', 'tensorrt'"),
        ({"providers": ["cpu", "cpu"]}, "names one twice"),
        ({"providers": []}, "at least 1 item"),
        ({"provider_options": {"cuda": {"devce_id": 0}}}, "cuda.devce_id is no option that Edgebeat passes on"),
        ({"provider_options": {"cuda": {"device_id": "0"}}}, "cuda.device_id is '0': it must be a whole number"),
        ({"provider_options": {"cuda": {"use_tf32": 1}}}, "must be true or false"),
        ({"provider_options": {"cpu": {"x": 1}}}, "known are none"),
    ],
)
def test_wrong_settings_are_refused(values: dict[str, object], said: str) -> None:
    """ONNX Runtime would take each of them without a word."""
    with pytest.raises(ValidationError, match=said):
        EngineSettings.model_validate(values)


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_does_not_work_is_an_error_and_no_fallback(capsys: pytest.CaptureFixture[str]) -> None:
    """ONNX Runtime runs it on the CPU without an error; we compare, and nothing is printed."""
    setup = SessionSetup(providers=(Provider("xnnpack"), CPU))
    with pytest.raises(ProviderMissingError, match="xnnpack was asked for and ONNX Runtime runs it on CPU") as caught:
        OrtEngine(Path(MODELS / "tiny/model.onnx"), sha256=None, setup=setup)
    assert caught.value.missing == ["xnnpack"]
    assert capsys.readouterr().out == ""


def test_a_provider_that_takes_no_operator_is_missing_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime registers it, names it among those of the session, and runs everything on the CPU."""
    monkeypatch.setitem(cast(dict[str, str], NAMES), "xnnpack", "AzureExecutionProvider")  # In every build, for text.
    setup = SessionSetup(providers=(Provider("xnnpack"), CPU))
    with pytest.raises(ProviderMissingError, match="xnnpack was asked for and takes none of its operators") as caught:
        OrtEngine(Path(MODELS / "tiny/model.onnx"), sha256=None, setup=setup)
    assert caught.value.missing == ["xnnpack"]


def test_a_fallback_that_was_not_needed_is_not_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one before it took everything: as CUDA behind TensorRT."""
    monkeypatch.setitem(cast(dict[str, str], NAMES), "xnnpack", "AzureExecutionProvider")
    engine = OrtEngine(
        Path(MODELS / "tiny/model.onnx"), sha256=None, setup=SessionSetup(providers=(CPU, Provider("xnnpack")))
    )
    assert "AzureExecutionProvider" in engine.providers


def test_what_a_provider_leaves_is_run_on_the_cpu_only_where_that_was_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only where the provider is absent: operator by operator."""
    monkeypatch.setitem(cast(dict[str, str], NAMES), "xnnpack", "AzureExecutionProvider")
    setup = SessionSetup(providers=(Provider("xnnpack"),))
    with pytest.raises(ConfigError, match=r"add 'cpu' to engine\.providers"):
        OrtEngine(Path(MODELS / "tiny/model.onnx"), sha256=None, setup=setup)


def test_a_providers_own_threads_are_those_of_one_inference() -> None:
    """Left alone, OpenVINO and XNNPACK take every CPU; a number that was asked for stays, within the limit."""
    assert Provider("openvino", (("precision", "FP16"),)).options_within(2) == {
        "num_of_threads": "2",
        "precision": "FP16",
    }
    asked = Provider("xnnpack", (("intra_op_num_threads", "1"),))
    assert asked.options_within(2) == {"intra_op_num_threads": "1"}
    assert CPU.options_within(2) == {}
    assert too_many_threads([asked, CPU, Provider("openvino")], 1) == []
    (problem,) = too_many_threads([Provider("xnnpack", (("intra_op_num_threads", "3"),))], 2)
    assert problem.startswith("engine.provider_options.xnnpack.intra_op_num_threads is 3: one inference has 2 thread")
    assert too_many_threads([Provider("openvino", (("num_of_threads", "0"),))], 2) != []


class Nvml:
    """Stands for NVIDIA's management library: fills in what it is given a reference to, and returns 0 or an error.

    Args:
        cards: total and used bytes of each GPU; None for one that is lost.
        started: what `nvmlInit_v2` returns; 9 where the driver is not loaded.
    """

    def __init__(self, cards: Sequence[tuple[int, int] | None] = (), started: int = 0) -> None:
        self._cards = cards
        self._started = started
        self.open_count = 0

    def nvmlInit_v2(self) -> int:  # noqa: N802  NVIDIA's name.
        """Begin."""
        self.open_count += self._started == 0
        return self._started

    def nvmlShutdown(self) -> int:  # noqa: N802  NVIDIA's name.
        """End."""
        self.open_count -= 1
        return 0

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:  # noqa: N802  NVIDIA's name.
        """Tell how many."""
        count._obj.value = len(self._cards)
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: Any, device: Any) -> int:  # noqa: N802  NVIDIA's name.
        """Tell a handle: one more than the index, because 0 is none."""
        device._obj.value = index.value + 1
        return 0

    def nvmlDeviceGetMemoryInfo(self, device: Any, memory: Any) -> int:  # noqa: N802  NVIDIA's name.
        """Write total, free and used bytes, three numbers of 64 bits as in nvml.h."""
        card = self._cards[device.value - 1]
        if card is None:
            return 15  # NVML_ERROR_GPU_IS_LOST
        total, used = card
        place = ctypes.cast(ctypes.byref(memory._obj), ctypes.POINTER(ctypes.c_uint64 * 3))
        place.contents[:] = [total, total - used, used]
        return 0


def test_memory_of_each_gpu_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """In MiB, by its number; one that was lost is left out, and the library is closed."""
    library = Nvml([(8 << 30, 3 << 30), None, (141 << 30, (1 << 20) + 1)])
    known = {"libnvidia-ml.so.1": library}
    monkeypatch.setattr("agent.engine.providers.ctypes.CDLL", known.__getitem__)
    assert device_memory() == [
        {"device": 0, "used_mb": 3072, "total_mb": 8192},
        {"device": 2, "used_mb": 1, "total_mb": 144384},
    ]
    assert library.open_count == 0


def test_without_the_library_or_its_driver_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty list, and nothing to close."""
    library = Nvml([(8 << 30, 0)], started=9)
    monkeypatch.setattr("agent.engine.providers.ctypes.CDLL", lambda _: library)
    assert device_memory() == []
    assert library.open_count == 0

    def absent(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file: No such file or directory")

    monkeypatch.setattr("agent.engine.providers.ctypes.CDLL", absent)
    assert device_memory() == []
